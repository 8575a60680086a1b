"""The verbs for a notebook: `from medseg import api; run = api.train("experiments/tongue/unet.yaml", data_root="...")`.

The import_* functions make a manifest, `check_manifest` looks at it, `repair` mends it, `make_split` and `given_split` split it; train,
evaluate and predict use it. export writes a run for other programs; open_model opens a run, an export or a registered version, and
annotate drafts outlines by it. score_folders scores anybody's masks. publish makes tables of runs, with intervals and paired tests;
write_report writes them, send_report sends them to MLflow.
"""

from medseg.annotating import annotate
from medseg.crossval import cross_validate
from medseg.deployed import open_model
from medseg.evaluation import evaluate
from medseg.exporting.verb import export
from medseg.manifest.check.doctor import check_manifest
from medseg.manifest.check.fix import repair
from medseg.manifest.check.page import write_page
from medseg.manifest.importers.coco import import_coco
from medseg.manifest.importers.decathlon import import_decathlon
from medseg.manifest.importers.dicom import import_dicom
from medseg.manifest.importers.labelme import import_labelme
from medseg.manifest.importers.masks import import_masks
from medseg.manifest.importers.nifti import import_nifti
from medseg.manifest.importers.nnunet import import_nnunet
from medseg.manifest.importers.voc import import_voc
from medseg.manifest.split import given_split, make_split
from medseg.manifest.table import read_manifest
from medseg.postprocessing import choose_postprocessing
from medseg.predicting import Predicted, predict
from medseg.publishing.published import publish
from medseg.publishing.tracked import send_report
from medseg.publishing.write import write_report
from medseg.run import load_run
from medseg.scoring import score_folders
from medseg.training import resume, train
from medseg.watching import Progress

__all__ = [
    "Predicted",
    "Progress",
    "annotate",
    "check_manifest",
    "choose_postprocessing",
    "cross_validate",
    "evaluate",
    "export",
    "given_split",
    "import_coco",
    "import_decathlon",
    "import_dicom",
    "import_labelme",
    "import_masks",
    "import_nifti",
    "import_nnunet",
    "import_voc",
    "load_run",
    "make_split",
    "open_model",
    "predict",
    "publish",
    "read_manifest",
    "repair",
    "resume",
    "score_folders",
    "send_report",
    "train",
    "write_page",
    "write_report",
]
