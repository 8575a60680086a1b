"""The thread that follows a run folder while it is trained."""

from __future__ import annotations

import logging
import threading
import time
from typing import Literal

from medseg.config import Config
from medseg.manifest.schema import Manifest, Split
from medseg.runfolder import RunFolder
from medseg.tracking.address import live_uri, reason, tracking_uri, without_secrets
from medseg.tracking.description import Description, describe
from medseg.tracking.sender import Sender
from medseg.tracking.sent import Sent

log = logging.getLogger("medseg.tracking")

End = Literal["finished", "failed", "interrupted"]
MLFLOW_STATUS: dict[str, str] = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "killed": "KILLED"}
POLL_S, LONGEST_BACKOFF_S = 2.0, 30.0
LAST_ATTEMPTS, LAST_PAUSE_S = 3, 0.5


class Tracker:
    """The thread that follows a run folder. Nothing it meets is raised into the training."""

    def __init__(self, sender: Sender, description: Description, poll_s: float):
        self._sender, self._description, self._poll_s = sender, description, poll_s
        self._closing = threading.Event()
        self._status = ""
        self._problem: str | None = None
        self._warned = False
        # A daemon, so that a server that hangs cannot keep the process alive.
        self._thread = threading.Thread(target=self._live, name="medseg-mlflow", daemon=True)
        self._thread.start()

    def close(self, status: End, timeout_s: float = 30) -> None:
        """Send what is left, end the MLflow run and stop; back within `timeout_s`, with a warning where something is missing."""
        self._status = MLFLOW_STATUS[status]
        self._closing.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._sender.given_up.set()
        if self._thread.is_alive() or self._problem:
            sent, reason = self._sender.sent, self._problem or f"not done after {timeout_s:g} s"
            log.warning(
                "MLflow run %s at %s is not complete (%s); the run folder is whole: %s",
                sent.run_id or "(never made)", sent.uri, reason, self._sender.run.path,
            )  # fmt: skip

    def _live(self) -> None:
        wait_s, last_attempts = 0.0, 0
        while last_attempts < LAST_ATTEMPTS:
            closing = self._closing.wait(wait_s)
            try:
                self._send(closing)
                self._problem, wait_s = None, self._poll_s
                if closing:
                    return
            except Exception as cause:  # whatever a server, a driver or a full disk comes up with: the training goes on
                self._note(cause)
                wait_s = min(max(2 * wait_s, 1.0), LONGEST_BACKOFF_S)
                last_attempts += closing
                time.sleep(LAST_PAUSE_S if closing else 0)

    def _send(self, closing: bool) -> None:
        if not closing and not self._sender.has_news():
            return
        self._sender.open(self._description)
        self._sender.follow()
        if closing:
            self._sender.end(self._status)

    def _note(self, cause: Exception) -> None:
        self._problem = reason(cause)
        if not self._warned and not self._sender.given_up.is_set():  # then whoever waited has told it
            log.warning("MLflow at %s: %s; the training goes on and sending is tried again", self._sender.sent.uri, self._problem)
        self._warned = True


def start_tracking(run: RunFolder, config: Config, manifest: Manifest, split: Split, poll_s: float = POLL_S) -> Tracker:
    """Follow `run` from now on; returns at once, whatever the server does. ConfigError for an address that can never work.

    A run folder that was tracked before goes on where it stopped, in the same MLflow run.
    """
    sender = sender_of(run, tracking_uri(config), manifest.dataset.name)
    sender.sent.described, sender.sent.status = False, None
    sender.sent.write(run)
    return Tracker(sender, describe(run, config, manifest, split), poll_s)


def sender_of(run: RunFolder, uri: str, experiment: str) -> Sender:
    """A sender that goes on where an earlier one came to; to this address and experiment where none has reached a server yet."""
    sent = Sent.read(run)
    if sent is None or sent.run_id is None:
        sent = Sent(without_secrets(uri), experiment)
    return Sender(run, sent, uri if without_secrets(uri) == sent.uri else live_uri(sent.uri))
