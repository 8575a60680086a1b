"""A report's folder -> the MLflow runs that it is of."""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from mlflow import MlflowClient

from medseg.runfolder import RunFolder
from medseg.tracking.address import connect, live_uri, tracking_uri, without_secrets
from medseg.tracking.parent import PREFIX, parent_id, read_facts
from medseg.tracking.pieces import log_new, prefix_of, send_table, within
from medseg.tracking.sender import is_number, metric_name
from medseg.tracking.sent import Sent

log = logging.getLogger("medseg.tracking")

LOG_REPORT_S = 60.0
MEAN = "mean of classes"  # as table.csv calls it; an evaluation has no such score with this name
SHOWN, AVERAGES = ("iou", "recall", "precision"), ("per_image", "pooled")  # whose intervals become metrics


def log_report(run: RunFolder, folder: Path, split: str = "test", beside: str = "") -> bool:
    """Send a report to the run's MLflow run: its files below `report/`, table.csv as the table `tables/report.json`, the intervals as
    metrics `test/iou_per_image_low/<class>` and `_high`. May be repeated. False, with one warning, where it has not arrived.

    beside: the name of a report in which the run is one of several; it has a folder and a table of that name, and no metrics.
    """
    sent = Sent.read(run)
    if sent is None or sent.run_id is None:
        log.warning("the report is not in MLflow: %s has no run there; `medseg track sync %s` makes it", run.id, run.path)
        return False
    run_id, uri = sent.run_id, live_uri(sent.uri)
    return within(LOG_REPORT_S, lambda: _send(connect(uri), run_id, folder, prefix_of(split), beside), f"the report of {run.id}")


def log_parent_report(cv: Path, folder: Path, beside: str = "") -> bool:
    """The same for a cross-validation by its folder: its intervals are `cv/iou_per_image_low/<class>`, as its scores are `cv/...`."""
    config, experiment = read_facts(cv)
    uri = tracking_uri(config)

    def send() -> None:
        client = connect(uri)
        _send(client, parent_id(client, cv, experiment), folder, PREFIX, beside)

    return within(LOG_REPORT_S, send, f"the report of {cv.name} at {without_secrets(uri)}")


def _send(client: MlflowClient, run_id: str, folder: Path, prefix: str, beside: str) -> None:
    beside = metric_name(beside.replace("/", "_")) if beside else ""
    top = posixpath.join("report", beside) if beside else "report"
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        client.log_artifact(run_id, str(path), posixpath.join(top, *path.parent.relative_to(folder).parts))
    if (table := folder / "table.csv").is_file():
        send_table(client, run_id, table, f"tables/report_{beside}.json" if beside else "tables/report.json")
        if not beside:
            log_new(client, run_id, {f"{prefix}/{name}": value for name, value in _intervals(table)})


def _intervals(table: Path) -> Iterator[tuple[str, float]]:
    """The ends of the intervals of the overlap, of the one run that the table is of."""
    for row in pd.read_csv(table, dtype={"class": str}, keep_default_na=False, na_values={"low": [""], "high": [""]}).to_dict("records"):
        if row["score"] in SHOWN and row["average"] in AVERAGES:
            name, mean = row["class"].replace(" ", "_"), row["class"] == MEAN
            for key, end in (("low", "_low"), ("high", "_high"), *([("value", "")] if mean else [])):
                if is_number(row[key]):
                    yield f"{row['score']}_{row['average']}{end}/{name}", float(row[key])
