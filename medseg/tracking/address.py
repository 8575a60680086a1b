"""Where MLflow is, without secrets where it is written down, and whether anybody answers there."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from mlflow import MlflowClient

from medseg.config import Config, TrackingConfig
from medseg.errors import ConfigError

PROBE_S = 5.0
SQLITE_FILE = re.compile(r"^(sqlite(?:\+\w+)?:///)([^:?][^?]*)(.*)$")  # before, path, query; no match for :memory:


def tracking_uri(config: Config) -> str:
    """Where MLflow is: MLFLOW_TRACKING_URI where set, else `tracking.uri`.

    ConfigError for a folder, and for a password in the config. A relative SQLite path is made absolute, because a later command
    may be started in another folder.
    """
    if _parts(config.tracking.uri, "tracking.uri").password:
        raise ConfigError(
            "tracking.uri",
            "holds a password, and the config is copied into every run",
            "set MLFLOW_TRACKING_URI, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, in the environment",
        )
    return _chosen(config.tracking.uri)


def reading_uri() -> str:
    """Where runs are looked for by the name of their experiment: MLFLOW_TRACKING_URI, else what `tracking.uri` is by default."""
    return _chosen(TrackingConfig().uri)


def _chosen(configured: str) -> str:
    from_environment = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    where, uri = ("MLFLOW_TRACKING_URI", from_environment) if from_environment else ("tracking.uri", configured)
    scheme = _parts(uri, where).scheme
    if scheme == "file" or len(scheme) < 2:  # no scheme is a path, one letter a Windows drive
        raise ConfigError(where, f"MLflow no longer keeps runs in plain folders, got {uri!r}", "use sqlite:///mlflow.db or a server's URL")
    return absolute(uri)


def _parts(uri: str, where: str) -> Any:
    try:
        return urlsplit(uri)
    except ValueError as cause:
        raise ConfigError(where, f"not a URI ({cause})", "use sqlite:///mlflow.db or a server's URL") from None


def absolute(uri: str) -> str:
    """
    >>> absolute("sqlite:////data/mlflow.db"), absolute("https://example.org/mlflow"), absolute("sqlite:///:memory:")
    ('sqlite:////data/mlflow.db', 'https://example.org/mlflow', 'sqlite:///:memory:')
    """
    found = SQLITE_FILE.match(uri)
    return f"{found[1]}{Path(found[2]).absolute()}{found[3]}" if found else uri


def without_secrets(text: str) -> str:
    """A URI, or a message with URIs in it, without `user:password@` and, for servers, without the query.

    >>> without_secrets("postgresql://me:pw@host/db?password=pw"), without_secrets("no https://me:pw@host/x here")
    ('postgresql://host/db', 'no https://host/x here')
    """
    text = re.sub(r"://[^/\s]*@", "://", text)
    return re.sub(r"(://[^\s?/][^\s?]*)\?[^\s'\")]*", r"\1", text)


def live_uri(stored: str) -> str:
    """The address kept in mlflow.json, with the credentials again where MLFLOW_TRACKING_URI means the same place."""
    from_environment = absolute(os.environ.get("MLFLOW_TRACKING_URI", "").strip())
    return from_environment if without_secrets(from_environment) == stored else stored


def connect(uri: str) -> MlflowClient:
    """A client of its own: the global tracking URI of a notebook stays as it is. Raises where nobody answers.

    The probes are there because mlflow itself retries a dead server or database for minutes, and only environment variables of
    the whole process could shorten that.
    """
    if uri.startswith(("http://", "https://")):
        _probe_server(uri)
    elif (found := SQLITE_FILE.match(uri)) and (Path(found[2]).is_dir() or not Path(found[2]).parent.is_dir()):
        raise ConnectionError(f"{found[2]} cannot be a database: its folder is missing, or it is a folder")
    return MlflowClient(tracking_uri=uri)


def connect_to_read(uri: str) -> MlflowClient:
    """The same, but a database that is not there is not made."""
    if (found := SQLITE_FILE.match(uri)) and not Path(found[2]).is_file():
        raise ConnectionError(f"there is no database {found[2]}")
    return connect(uri)


def _probe_server(uri: str) -> None:
    """Any answer but a gateway's 502 to 504 counts as alive; a certificate is mlflow's to judge."""
    try:
        answer = requests.get(uri.rstrip("/") + "/health", timeout=PROBE_S)
    except requests.exceptions.SSLError:
        return
    if answer.status_code in (502, 503, 504):
        raise ConnectionError(f"{uri} answers {answer.status_code}")


def reason(cause: Exception) -> str:
    """One line without credentials."""
    return f"{type(cause).__name__}: {' '.join(without_secrets(str(cause)).split())[:300]}"
