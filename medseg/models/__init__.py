"""Networks behind one contract."""
