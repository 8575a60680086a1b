"""The only decoder and encoder of volume files: NIfTI-1 and NIfTI-2 (plain or gzip), MetaImage (.mha) and NRRD (.nrrd).

Arrays lie on the grid as stored, (X, Y, Z[, C]); the affine takes an index to millimetres in RAS, whatever the file's own space. The
header is judged before a voxel is read, and a stream is read no further than the header says, so neither a false header nor a
compressed bomb costs memory.

    header -> stream -> nifti                    each imports only from those before it
           -> fields -> metaimage, nrrd
                        -> reading               chooses by the file's name
    header, nifti -> writing                     NIfTI alone
"""

from __future__ import annotations

from medseg.labels import id_counts
from medseg.volumes.header import MAX_VOXELS, Header, rounded, same_affine
from medseg.volumes.names import DETACHED_SUFFIXES, volume_stem
from medseg.volumes.reading import (
    forms_disagree,
    read_header,
    read_label_volume,
    read_volume,
    refuse_detached,
    verify_volume,
)  # fmt: skip
from medseg.volumes.writing import write_labels, write_volume

__all__ = [
    "DETACHED_SUFFIXES",
    "MAX_VOXELS",
    "Header",
    "forms_disagree",
    "id_counts",
    "read_header",
    "read_label_volume",
    "read_volume",
    "refuse_detached",
    "rounded",
    "same_affine",
    "verify_volume",
    "volume_stem",
    "write_labels",
    "write_volume",
]
