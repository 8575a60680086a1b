"""Which scores of a run are those of exactly the network that is exported: of its checkpoint, epoch and steps afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.deploy.description import Description
from medseg.errors import RunError
from medseg.files import read_json
from medseg.runfolder import RunFolder

AFTERWARDS = "; afterwards, chosen on val: "  # in a protocol's test_time, before the steps


def scored_name(part: str, checkpoint: str) -> str:
    """Of the evaluation's folder, as `medseg evaluate --checkpoint` names it.

    >>> scored_name("test", "best"), scored_name("test", "last")
    ('test', 'test_last')
    """
    return part if checkpoint == "best" else f"{part}_{checkpoint}"


def read_scores(run: RunFolder, name: str) -> dict[str, Any] | None:
    """scores.json of one evaluation; None where there is none."""
    path: Path = run.evaluation(name) / "scores.json"
    content: dict[str, Any] | None = read_json(path, RunError, "evaluate the run again") if path.is_file() else None
    return content


def are_of(scores: Mapping[str, Any], description: Description) -> bool:
    """Whether scores are of the network that the description is of."""
    steps = ", ".join(step.told() for step in description.post_steps)
    afterwards = str(scores["protocol"]["test_time"]).partition(AFTERWARDS)[2]
    found = scores["checkpoint"]
    wanted = (description.origin.checkpoint, description.origin.epoch, steps)
    return (found.get("checkpoint"), found.get("epoch"), afterwards) == wanted
