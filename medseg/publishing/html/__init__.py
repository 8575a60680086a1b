"""The report as one self-contained page: what a supervisor would read, and look into."""
