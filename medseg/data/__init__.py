"""From manifest rows to batches on the device."""
