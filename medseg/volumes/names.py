"""What a volume's file name says."""

from __future__ import annotations

from medseg.images import VOLUME_SUFFIXES

DETACHED_SUFFIXES = (".mhd", ".nhdr")  # headers whose voxels lie in another file; known only to be refused


def volume_stem(name: str) -> str:
    """A file name without the suffix of a volume.

    >>> volume_stem("a/case.1.nii.gz"), volume_stem("x.NII"), volume_stem("y.1.nrrd")
    ('a/case.1', 'x', 'y.1')
    """
    suffix = next((suffix for suffix in reversed(VOLUME_SUFFIXES) if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]
