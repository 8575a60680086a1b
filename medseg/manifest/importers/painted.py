"""What the importers of drawn annotations share: masks painted into a stage, the separate instances beside them, one way to end."""

from __future__ import annotations

import os
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medseg.errors import AnnotationError, ManifestError, MedsegError, counted
from medseg.files import sha256_file, staging
from medseg.images import write_mask
from medseg.instances import Instance, write_instances
from medseg.labels import LabelSet
from medseg.manifest.importers.common import (
    ImportReport,
    MasksUnder,
    Notes,
    Record,
    alike_names,
    claim,
    count_pixels,
    frame_of,
    listed,
    mask_hash,
    note_twins,
    raise_refused,
    refused_file,
    refused_rows,
    told_full,
    told_once,
    without_clashes,
    without_mask,
    write_all,
)  # fmt: skip
from medseg.manifest.schema import Dataset

INSTANCES_FOLDER = "instances"
_SHORT = reprlib.Repr()  # of values from a hostile file, which may be megabytes or nested deeply
_SHORT.maxstring = _SHORT.maxother = 120


def shown(value: object) -> str:
    """A value for an error message, shortened.

    >>> shown("a.jpg"), shown([[[1]]])
    ("'a.jpg'", '[[[1]]]')
    """
    return _SHORT.repr(value)


@dataclass(frozen=True, slots=True)
class Source:
    """What is imported and where to: the data root, the manifest's folder, and where its masks lie."""

    root: Path
    out: Path
    masks_dir: Path
    under: MasksUnder

    @property
    def made(self) -> tuple[Path, Path, Path]:
        """The folders an import writes, which a second import of the same source shall not read."""
        return self.out, self.masks_dir, self.out / INSTANCES_FOLDER


def source_of(root: Path, out: Path, masks_out: Path | None) -> Source:
    """The places of an import; ManifestError where the masks would lie under neither root."""
    masks_dir = masks_out or out / "masks"
    if masks_dir.resolve().is_relative_to(out.resolve()):
        return Source(root, out, masks_dir, "manifest")
    if masks_dir.resolve().is_relative_to(root):
        return Source(root, out, masks_dir, "data_root")
    rule = f"masks must lie under the manifest's folder ({out}) or the data root ({root}), or their paths could not be stored"
    raise ManifestError(masks_dir, rule, "choose another --masks-out, or leave it out")


@dataclass(frozen=True, slots=True)
class Stage:
    """Where masks and instances wait until all are drawn; `instances` is None where none are wanted."""

    source: Source
    labels: LabelSet
    masks: Path
    instances: Path | None

    def save(self, record: Record, mask_HW: np.ndarray, instances: Sequence[Instance]) -> Record:
        """Write one mask and its instances; the record with their paths, hashes and pixel counts.

        AnnotationError where another sample's mask has the name already.
        """
        name = record.sample_id
        path = self.masks / f"{name}.png"
        claim(path, record.image)
        write_mask(path, mask_HW, self.labels.palette)
        more = dict(record.more)
        if self.instances is not None:
            write_instances(self.instances / f"{name}.json", record.size, instances)
            more["instances"] = f"{INSTANCES_FOLDER}/{name}.json"
            more["instances_sha256"] = sha256_file(self.instances / f"{name}.json")
        return replace(
            record, mask=self._mask_path(name), mask_sha256=mask_hash(path, mask_HW, self.source.under),
            px=count_pixels(mask_HW, self.labels), more=more,
        )  # fmt: skip

    def _mask_path(self, name: str) -> str:
        base = self.source.out.resolve() if self.source.under == "manifest" else self.source.root
        return (Path(os.path.relpath(self.source.masks_dir.resolve(), base)) / f"{name}.png").as_posix()

    def moves(self) -> list[tuple[Path, Path]]:
        """(stage, target) of what is to be moved at the end."""
        pairs = [(self.masks, self.source.masks_dir)]
        return pairs if self.instances is None else [*pairs, (self.instances, self.source.out / INSTANCES_FOLDER)]


@contextmanager
def stage_of(source: Source, labels: LabelSet, instances: bool) -> Iterator[Stage]:
    """Staging folders inside their targets, gone afterwards."""
    with told_full(source.out), ExitStack() as stack:
        masks = stack.enter_context(staging(source.masks_dir))
        objects = stack.enter_context(staging(source.out / INSTANCES_FOLDER)) if instances else None
        yield Stage(source, labels, masks, objects)


def check_left(left: Sequence[object], refused: Sequence[MedsegError], what: Path, skip_refused: bool) -> None:
    """Raise for the files refused, unless they are to be skipped and others are `left`; never advise the option that was given."""
    if not skip_refused:
        raise_refused(refused, str(what))
    elif refused and not left:
        rule = f"nothing is left to import, every annotation ({len(refused)}) is refused:{told_once(refused, str(what))}\n"
        raise AnnotationError(what, rule, "mend at least one of them, or check the path")


def unused_classes(labels: LabelSet, used: set[str]) -> list[str]:
    """A note on the classes that no annotation has: perhaps a name is misspelt."""
    unused = [name for name in labels.foreground if name not in used]
    if not unused:
        return []
    return [f"{'class' if len(unused) == 1 else 'classes'} {listed(unused, 10)} {'is' if len(unused) == 1 else 'are'} in no annotation"]


def met_classes(labels: LabelSet, drawn: Iterable[tuple[object, str]], what: str) -> list[str]:
    """Notes on classes that nobody named but the annotations: what each has, and names that look like one another.

    drawn: (image, class) of each annotation.  what: such an annotation is called.
    """
    each = Counter(drawn)
    total, images = Counter[str](), Counter[str]()
    for (_, name), times in each.items():
        total[name] += times
        images[name] += 1
    told = [
        f"{class_id} {name} ({counted(total[name], what)} in {counted(images[name], 'image')})"
        for class_id, name in labels.classes.items()
        if class_id
    ]
    return [f"classes as the annotations name them (--classes would fix them): {', '.join(told)}", *alike_names(labels.foreground)]


def finish(
    stage: Stage,
    dataset: Dataset,
    found: Sequence[Record],
    refused: Sequence[MedsegError],
    notes: Notes,
    said: Sequence[str],
    how: Mapping[str, object],
    group_pattern: str | None,
    skip_refused: bool,
) -> ImportReport:
    """Write manifest, masks, instances and refused.csv, all or nothing; `said` are notes on the whole set.

    found: those with a mask have ids of their own (`without_clashes` before they are drawn); images without one may still clash.
    """
    source = stage.source
    records, clashes = without_clashes(found)
    if not skip_refused:
        raise_refused(clashes, str(source.root))
    note_twins(records, notes)
    rows = refused_rows([*refused, *clashes], source.root)
    frame = frame_of(records, dataset.labels, group_pattern)
    write_all(source.out, frame, dataset, stage.moves(), {**how, "notes": notes.lines()}, refused_file(rows))
    plain = without_mask(records)
    return ImportReport(source.out, len(records) - len(plain), len(plain), rows, [*notes.lines(), *said], source.root, plain)
