"""The public data sets that `medseg data fetch` knows: where they are, under which licence, and who says which checksum.

A checksum stands here only where a source can be cited for it, a size only where one states it. Nothing is guessed: None means that no
source was found, and the first fetch then pins the SHA-256 it saw.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from medseg.errors import FetchError

GIB = 2**30
NOT_STATED = "not stated"


@dataclass(frozen=True, slots=True)
class Entry:
    """One archive. checksum: "<algorithm>:<hex>".  limit_bytes: what neither the archive nor its content may exceed.
    next_step: the command that imports it; {folder} is where it was unpacked."""

    name: str
    what: str
    url: str
    file: str
    licence: str
    citation: str
    page: str
    next_step: str
    limit_bytes: int
    size_bytes: int | None = None
    size_source: str | None = None
    checksum: str | None = None
    checksum_source: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON takes it."""
        return asdict(self)


_MONAI = "monai/apps/datasets.py, DecathlonDataset.md5 (MONAI 1.6.1)"
_MSD = (
    ("Task01_BrainTumour", "brain tumours, multi-parametric MRI", "240a19d752f0d9e9101544901065d872"),
    ("Task02_Heart", "left atrium, MRI", "06ee59366e1e5124267b774dbd654057"),
    ("Task03_Liver", "liver and tumours, CT", "a90ec6c4aa7f6a3d087205e23d4e6397"),
    ("Task04_Hippocampus", "hippocampus head and body, MRI", "9d24dba78a72977dbd1d2e110310f31b"),
    ("Task05_Prostate", "prostate zones, multi-parametric MRI", "35138f08b1efaef89d7424d2bcc928db"),
    ("Task06_Lung", "lung tumours, CT", "8afd997733c7fc0432f71255ba4e52dc"),
    ("Task07_Pancreas", "pancreas and tumours, CT", "4f7080cfca169fa8066d17ce6eb061e4"),
    ("Task08_HepaticVessel", "hepatic vessels and tumours, CT", "641d79e80ec66453921d997fbf12a29c"),
    ("Task09_Spleen", "spleen, CT", "410d4a301da4e5b2f6f86ec3ddba524e"),
    ("Task10_Colon", "colon cancer, CT", "bad7a188931dc2f6acf72b08eb6202d0"),
)


def _decathlon(task: str, what: str, md5: str) -> Entry:
    return Entry(
        name=task,
        what=f"Medical Segmentation Decathlon: {what}",
        url=f"https://msd-for-monai.s3-us-west-2.amazonaws.com/{task}.tar",
        file=f"{task}.tar",
        licence="CC-BY-SA 4.0 (medicaldecathlon.com)",
        citation="Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 2022, doi:10.1038/s41467-022-30695-9; "
        "Simpson et al., arXiv:1902.09063",
        page="http://medicaldecathlon.com",
        next_step=f"medseg manifest import decathlon {{folder}}/{task} --out data_manifests/{task}/v1",
        limit_bytes=64 * GIB,
        checksum=f"md5:{md5}",
        checksum_source=_MONAI,
    )


_OTHERS = (
    Entry(
        name="biohit",
        what="BioHit TongeImageDataset: 300 photographs of tongues with outlines (its masks are of several kinds, some inverted)",
        url="https://github.com/BioHit/TongeImageDataset/archive/refs/heads/master.zip",
        file="TongeImageDataset-master.zip",
        licence=NOT_STATED,
        citation="BioHit, TongeImageDataset, https://github.com/BioHit/TongeImageDataset",
        page="https://github.com/BioHit/TongeImageDataset",
        next_step="medseg manifest import masks --images {folder}/.../dataset --masks {folder}/.../groundtruth/mask --classes tongue"
        " --out data_manifests/biohit/v1 (unpack the inner archives first, if there are any), then medseg manifest check",
        limit_bytes=4 * GIB,
    ),
    Entry(
        name="isbi2012",
        what="ISBI 2012 EM challenge: neuronal structures, stacks of 30 sections of 512 x 512 px at 4 x 4 x 50 nm",
        url="https://downloads.imagej.net/ISBI-2012-challenge.zip",
        file="ISBI-2012-challenge.zip",
        licence=NOT_STATED,
        citation="Cardona et al., PLoS Biology 2010, doi:10.1371/journal.pbio.1000502",
        page="https://imagej.net/events/isbi-2012-segmentation-challenge",
        next_step="save each page of train-volume.tif and train-labels.tif as a PNG, then"
        " medseg manifest import masks --images IMAGES --masks MASKS --classes cell --out data_manifests/isbi2012/v1",
        limit_bytes=4 * GIB,
    ),
    Entry(
        name="dsb2018",
        what="2018 Data Science Bowl (BBBC038), stage 1 training set: cell nuclei, one mask a nucleus",
        url="https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip",
        file="stage1_train.zip",
        licence="CC0 1.0 (bbbc.broadinstitute.org/BBBC038)",
        citation="Caicedo et al., Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl, Nature Methods 16, 2019,"
        " 1247-1253; image set BBBC038v1 of the Broad Bioimage Benchmark Collection",
        page="https://bbbc.broadinstitute.org/BBBC038",
        next_step="unite the masks of each image into one, then"
        " medseg manifest import masks --images IMAGES --masks MASKS --classes nucleus --out data_manifests/dsb2018/v1",
        limit_bytes=4 * GIB,
    ),
    Entry(
        name="voc2012",
        what="PASCAL VOC 2012, training and validation set: 20 classes in photographs, void as 255",
        url="https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        file="VOCtrainval_11-May-2012.tar",
        licence="no single one: the photographs are under Flickr's terms of use (host.robots.ox.ac.uk/pascal/VOC/voc2012)",
        citation="Everingham, Van Gool, Williams, Winn, Zisserman, The PASCAL Visual Object Classes Challenge 2012 (VOC2012) Results",
        page="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
        next_step="medseg manifest import voc {folder}/VOCdevkit/VOC2012 --out data_manifests/voc2012/v1",
        limit_bytes=16 * GIB,
        size_bytes=1_999_639_040,
        size_source="the file's Git LFS pointer at huggingface.co/datasets/JimmyUnleashed/Pascal_VOC",
        checksum="md5:6cd6e144f989b92b3379bac3b3de84fd",
        checksum_source="torchvision/datasets/voc.py, DATASET_YEAR_DICT (torchvision 0.29.2)",
    ),
    Entry(
        name="kvasir-seg",
        what="Kvasir-SEG: 1,000 endoscopic images of polyps with outlines (masks saved as JPEG)",
        url="https://datasets.simula.no/downloads/kvasir-seg.zip",
        file="kvasir-seg.zip",
        licence="research and education only, commercial use needs written permission (datasets.simula.no/kvasir-seg)",
        citation="Jha et al., Kvasir-SEG: A Segmented Polyp Dataset, MMM 2020, 451-462, doi:10.1007/978-3-030-37734-2_37",
        page="https://datasets.simula.no/kvasir-seg/",
        next_step="medseg manifest import masks --images {folder}/Kvasir-SEG/images --masks {folder}/Kvasir-SEG/masks --classes polyp"
        " --as-is --out data_manifests/kvasir-seg/v1, then (its masks are JPEGs, whose values --fix brings back to the two meant)"
        " medseg manifest check data_manifests/kvasir-seg/v1 --data-root {folder}/Kvasir-SEG --fix data_manifests/kvasir-seg/v2",
        limit_bytes=4 * GIB,
    ),
)
ENTRIES: tuple[Entry, ...] = (*_OTHERS, *(_decathlon(*task) for task in _MSD))


def entry(name: str) -> Entry:
    """The entry of a name, whatever its case; FetchError where there is none."""
    found = next((item for item in ENTRIES if item.name.lower() == name.lower()), None)
    if found is None:
        raise FetchError(name, "there is no such data set", f"choose one of {', '.join(item.name for item in ENTRIES)}")
    return found
