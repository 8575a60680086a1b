"""The verbs for a notebook: `from medseg import api; run = api.train("experiments/tongue/unet.yaml", data_root="...")`.

`import_labelme`, `import_masks`, `make_split` and `given_split` make the manifest; train, evaluate, predict and compare use it.
"""

from medseg.manifest.importers.labelme import import_labelme
from medseg.manifest.importers.masks import import_masks
from medseg.manifest.split import given_split, make_split
from medseg.manifest.table import read_manifest
from medseg.run import Predicted, Progress, compare, evaluate, load_run, predict, train

__all__ = [
    "Predicted",
    "Progress",
    "compare",
    "evaluate",
    "given_split",
    "import_labelme",
    "import_masks",
    "load_run",
    "make_split",
    "predict",
    "read_manifest",
    "train",
]
