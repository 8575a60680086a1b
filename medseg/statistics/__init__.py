"""What a number is worth: intervals, paired tests, and where the variance comes from. Everything is resampled by group, never by pixel."""
