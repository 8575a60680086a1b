"""The training loop, evaluation, inference and checkpoints; none of them asks which network it drives."""
