"""What there is to learn from, and on which side of the split: one table an image a row, no pixel read."""
