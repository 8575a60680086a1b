"""Volumes on the network's grid: turned to RAS, cropped, normalised, resampled; kept on disk; shown as patches or slices."""
