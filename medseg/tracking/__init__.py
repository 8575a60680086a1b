"""Run folder -> MLflow, and for reports back again. The only package that imports mlflow, and itself imported only where tracking is on.

The run folder is the truth. A thread follows its metrics.jsonl, timings.jsonl and files and sends what is new; mlflow.json keeps
how far it came, so that sending again, after a crash or a dead server, is the same code. Nothing here stops or fails a training:
a server that is away costs one warning.
"""

from __future__ import annotations

import logging
import os

# Read by mlflow at its import; setdefault, so that who wants it may have it. By default mlflow reports its use to its makers over
# the network, which a package for patients' images must not do unasked.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from medseg.tracking.address import tracking_uri  # noqa: E402
from medseg.tracking.afterwards import log_evaluation, mark_killed, sync  # noqa: E402
from medseg.tracking.fetched import Fetched, fetch  # noqa: E402
from medseg.tracking.follower import Tracker, start_tracking  # noqa: E402
from medseg.tracking.parent import end_parent, sync_parent  # noqa: E402
from medseg.tracking.reported import log_parent_report, log_report  # noqa: E402
from medseg.tracking.sent import Sent  # noqa: E402

__all__ = [
    "Fetched",
    "Sent",
    "Tracker",
    "end_parent",
    "fetch",
    "log_evaluation",
    "log_parent_report",
    "log_report",
    "mark_killed",
    "start_tracking",
    "sync",
    "sync_parent",
    "tracking_uri",
]

# Migrations tell each step, and a database that is away is announced at each of ten attempts: our one warning stands for them.
for _noisy in ("alembic", "mlflow.store.db.utils"):
    if logging.getLogger(_noisy).level in (logging.NOTSET, logging.INFO):
        logging.getLogger(_noisy).setLevel(logging.ERROR)
