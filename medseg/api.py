"""The verbs for a notebook: `from medseg import api; run = api.train("experiments/tongue/unet.yaml", data_root="...")`."""

from medseg.run import Predicted, Progress, compare, evaluate, load_run, predict, train

__all__ = ["Predicted", "Progress", "compare", "evaluate", "load_run", "predict", "train"]
