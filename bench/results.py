"""bench/results/*.jsonl -> docs/results.md. Every number there comes from a recorded line; none is typed.

python bench/results.py
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from record import RESULTS, lines
from zoo_page import section

from medseg.files import write_text
from medseg.labels import BACKGROUND
from medseg.report.tables import markdown_table, number

PAGE = Path(__file__).parent.parent / "docs" / "results.md"
HEAD = """# Results

Written by `make results` from the lines in `bench/results/`; do not edit. Checkpoints are chosen on val, test is scored once per run.
"pooled" is the ratio of summed counts; "per image" is the mean over the images in which the score is defined, with their number.
Time is the training with its validations, on the machine named, no other job running; a dash where others ran beside it.
"""


def experiments(records: Iterable[dict[str, Any]]) -> list[str]:
    """A section for each experiment, config, split, protocol and machine: a row a run, then the mean over its seeds."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        groups[
            tuple(record[key] for key in ("experiment", "machine", "config_sha256", "split_sha256"))
            + (record.get("protocol_sha256", ""),)  # which the first lines had not
        ].append(record)
    text: list[str] = []
    for (name, machine, *_), runs in sorted(groups.items()):
        assert len({run["seed"] for run in runs}) == len(runs), f"{name}: one seed is recorded twice"
        dates = " to ".join(sorted({run["date"] for run in runs}))
        text += [f"## {name} ({dates}, {machine})", "", *_run_table(runs), "", _provenance(runs), ""]
    return text


def _run_table(runs: list[dict[str, Any]]) -> list[str]:
    names = [name for name in runs[0]["pooled"] if name != BACKGROUND]
    header = ["Seed", "Training, min", *(f"IoU {n}, pooled" for n in names), *(f"IoU {n}, per image (n)" for n in names)]
    header += ["mIoU without background, pooled"]
    body = [[str(run["seed"]), _minutes(run["training_s"]), *_cells(run, names), number(run["miou_pooled"])] for run in runs]
    if len(runs) > 1:
        body.append(_mean_row(runs, names))
    return markdown_table(header, body)


def _minutes(seconds: float | None) -> str:
    """None: other jobs ran beside."""
    return number(seconds / 60 if seconds else None, 1)


def _cells(run: dict[str, Any], names: list[str]) -> list[str]:
    means = [run["per_image"][name]["iou"] for name in names]
    return [*(number(run["pooled"][name]["iou"]) for name in names), *(f"{number(m['mean'])} ({m['n']})" for m in means)]


def _mean_row(runs: list[dict[str, Any]], names: list[str]) -> list[str]:
    pooled = [number(fmean(run["pooled"][name]["iou"] for run in runs)) for name in names]
    per_image = [number(fmean(run["per_image"][name]["iou"]["mean"] for run in runs)) for name in names]
    time = _minutes(fmean(run["training_s"] for run in runs) if all(run["training_s"] for run in runs) else None)
    return [f"mean of {len(runs)}", time, *pooled, *per_image, number(fmean(run["miou_pooled"] for run in runs))]


def _provenance(runs: list[dict[str, Any]]) -> str:
    first = runs[0]
    commits = sorted({f"{str(run['commit'])[:10]}{'+' if run['dirty'] else ''}" for run in runs})
    patch = first.get("patch_px")  # which the first lines had not
    size = f"{'patches of ' if patch else ''}{'x'.join(map(str, patch or first['size_px']))}"
    legend = " (+: with uncommitted changes)" if any(run["dirty"] for run in runs) else ""
    return (
        f"{first['n_test']} test images; {first['epochs']} epochs at {size}, {first['precision']}; trained at"
        f" commit {', '.join(commits)}{legend}; manifest {first['manifest_sha256'][:10]}, split {first['split_sha256'][:10]}."
    )


def others(records: Iterable[dict[str, Any]]) -> list[str]:
    """Commands that were timed, and runs that were repeated."""
    rows = []
    for record in records:
        if record["what"] == "command":
            outcome = f"{record['wall_s']:.0f} s, exit code {record['exit_code']}"
            rows.append([record["name"], outcome, record["date"], record["machine"], str(record["commit"])[:10]])
        if record["what"] == "repeat":
            equal = ", ".join(f"{Path(name).name}: {'equal' if same else 'DIFFERENT'}" for name, same in record["equal"].items())
            rows.append([f"{record['experiment']} twice", equal, record["date"], record["machine"], str(record["commit"])[:10]])
    return ["## Commands", "", *markdown_table(["What", "Outcome", "Date", "Machine", "Commit"], rows), ""] if rows else []


def proofs(records: Iterable[dict[str, Any]]) -> list[str]:
    """What single scripts measured: the last line of each, under its name."""
    last = {record["name"]: record for record in records if record["what"] == "proof"}
    text: list[str] = []
    for name, record in last.items():
        rows = [[key, str(value)] for key, value in _flat(record["figures"])]
        place = f"{record['date']}, {record['machine']}, commit {_short(record['commit'])}"
        text += [f"## {name}", "", f"`{record['command']}` ({place})", "", *markdown_table(["What", "Measured"], rows), ""]
    return text


def _short(commit: str) -> str:
    return commit[:10] + ("+, with uncommitted changes" if commit.endswith("+") else "")


def _flat(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in figures.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}: ")
        else:
            yield f"{prefix}{key}".replace("_", " "), ", ".join(map(str, value)) if isinstance(value, list) else value


def page() -> str:
    """The whole page."""
    every = [record for path in sorted(RESULTS.glob("*.jsonl")) for record in lines(path)]
    parts = [HEAD, *experiments(r for r in every if r["what"] == "experiment"), *others(every), *proofs(every)]
    parts += section([r for r in every if r["what"] == "zoo"], [r for r in every if r["what"] == "zoo-cost"])
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    write_text(PAGE, page())
    print(PAGE)
