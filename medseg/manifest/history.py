"""How the mask of a row came to be: drawn, or predicted by a model and corrected, round by round.

`medseg annotate` and `medseg serve` write predictions as labelme files with a key of their own (KEY), which labelme keeps when it saves;
the import tells by the shapes' digest whether a person has changed them since. The manifest's column `history` holds the steps, oldest
first, between `>`: `drawn`, `predicted:RUN`, `predicted:RUN>corrected`, `drawn>predicted:RUN1>corrected>predicted:RUN2>checked`.
"""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medseg.errors import AnnotationError, counted
from medseg.manifest.schema import BAD_SAMPLE_ID, HISTORY, Manifest, Split
from medseg.outlines import Outline
from medseg.rasterise import Shape

KEY = "medseg"  # of the labelme file
CHECKED_FLAG = "checked"  # a box in labelme: ticked by who looked at a prediction and found nothing to correct
DRAWN, CORRECTED, CHECKED, PREDICTED = "drawn", "corrected", "checked", "predicted:"
MOST_STEPS = 100
WRITTEN = {"sample", "history", "shapes_sha256"}


class History(NamedTuple):
    """What `provenance` wrote of a file. sample: the id of the photograph of which a copy lies beside, None where it is the file itself.

    steps: all up to the prediction.  shapes_sha256: of the predicted shapes.
    """

    sample: str | None
    steps: tuple[str, ...]
    shapes_sha256: str

    def now(self, shapes: Sequence[Shape], flags: Mapping[str, bool]) -> tuple[str, ...]:
        """All steps up to today, given what the file holds now."""
        if shapes_digest(shapes) != self.shapes_sha256:
            return (*self.steps, CORRECTED)
        return (*self.steps, CHECKED) if flags.get(CHECKED_FLAG) else self.steps


def shapes_digest(shapes: Sequence[Shape]) -> str:
    """SHA-256 of labels, kinds, points, bitmaps and groups, in order: the same however a JSON is laid out, another for any change."""
    content = [[one.label, one.kind, one.points, one.bitmap.hex(), one.group_id] for one in shapes]
    return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()


def provenance(
    found: Sequence[Outline],
    run: str,
    weights_sha256: str,
    uncertainty: float,
    earlier: Sequence[str] = (),
    sample: str | None = None,
) -> dict[str, Any]:
    """The keys by which an import tells a prediction from a drawing: `more` of `medseg.outlines.labelme_content`, for all who write one.

    found: as they go into the file.  uncertainty: in [0, 1].  earlier: the steps before this prediction.  sample: the photograph's id,
    where only a copy lies beside the file; without, the import names the row by the photograph that `imagePath` leads to.
    """
    said = {
        "history": [*earlier, predicted_by(run)][-MOST_STEPS:],
        "shapes_sha256": shapes_digest([Shape(one.name, "polygon", one.points) for one in found]),
        "run": run,
        "weights_sha256": weights_sha256,
        "uncertainty": round(uncertainty, 6),
        "tolerance_px": {one.name: one.tolerance_px for one in found},
    }
    return {"flags": {CHECKED_FLAG: False}, KEY: said | ({} if sample is None else {"sample": sample})}


def predicted_by(run: str) -> str:
    """The step of a prediction. A run's name is cut to what a cell can hold."""
    return PREDICTED + (re.sub(r"[^\w.+-]+", "_", run)[:200] or "unknown")


def is_prediction(history: str) -> bool:
    """Whether nobody has looked at it since a model wrote it.

    >>> is_prediction("predicted:a"), is_prediction("predicted:a>corrected"), is_prediction("drawn")
    (True, False, False)
    """
    return history.rsplit(">", 1)[-1].startswith(PREDICTED)


def read_history(content: Mapping[str, Any], path: Path) -> History | None:
    """What `annotate` wrote into a labelme file, None where it did not write it. AnnotationError where somebody else changed that."""
    said = content.get(KEY)
    if said is None:
        return None
    fix = f"annotate the image again, or remove {KEY!r} from the file, which then counts as drawn"
    if not isinstance(said, dict) or not WRITTEN - {"sample"} <= set(said):
        raise AnnotationError(path, f"{KEY!r} is not what `medseg annotate` writes there, got {reprlib.repr(said)}", fix)
    sample, steps, digest = said.get("sample"), said["history"], said["shapes_sha256"]
    if not isinstance(steps, list) or not _is_history(steps) or not is_prediction(steps[-1]) or not isinstance(digest, str):
        raise AnnotationError(path, f"the history in {KEY!r} must be steps up to a prediction, got {reprlib.repr(steps)}", fix)
    if sample is not None and (not isinstance(sample, str) or not 0 < len(sample) <= 1000 or re.search(BAD_SAMPLE_ID, sample)):
        raise AnnotationError(path, f"the sample {reprlib.repr(sample)} in {KEY!r} cannot name a row", fix)
    return History(sample, tuple(steps), digest)


def _is_history(steps: Sequence[Any]) -> bool:
    return 0 < len(steps) <= MOST_STEPS and all(isinstance(step, str) and re.fullmatch(HISTORY, step) and ">" not in step for step in steps)


def predictions_note(samples: Sequence[str]) -> list[str]:
    """What an import says of rows that are a model's answer and nobody's."""
    if not samples:
        return []
    rows = f"{counted(len(samples), 'row')} {'is a prediction' if len(samples) == 1 else 'are predictions'} that nobody has corrected"
    harm = "training on them is self-training, and a score by them compares a model with a model"
    way_out = f"correct them, tick {CHECKED_FLAG!r} where nothing is wrong, or import with --only-corrected"
    return [f"{rows} or checked ({_first(samples)}): {harm}; {way_out}"]


def scored_predictions(manifest: Manifest, split: Split) -> list[str]:
    """A warning for each part, val and test, whose scores would be by masks that are a model's answer and nobody's."""
    if "history" not in manifest.frame:
        return []
    alone = set(manifest.frame.loc[[is_prediction(cell) for cell in manifest.frame["history"].fillna("")], "sample_id"])
    found = {part: split.frame.loc[split.frame["split"] == part, "sample_id"] for part in ("val", "test")}
    inside = {part: [sample for sample in samples if sample in alone] for part, samples in found.items()}
    why = "predictions that nobody has corrected or checked, and a score by them compares a model with a model"
    return [
        f"{len(samples)} of the masks in {part} ({_first(samples)}) are {why}; correct them, or import with --only-corrected"
        for part, samples in inside.items()
        if samples
    ]


def _first(samples: Sequence[str]) -> str:
    return ", ".join([*samples[:3], *(["..."] if len(samples) > 3 else [])])
