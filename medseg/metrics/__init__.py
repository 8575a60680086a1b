"""Counts first, ratios last."""
