"""The folder that phantoms are drawn into: what was asked for stands in it, so that nobody else's files are taken for them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medseg.errors import MedsegError

STAMP = "phantom.json"


def is_finished(out: Path, order: Mapping[str, Any], files: Iterable[str]) -> bool:
    """True where `out` holds all `files` of this order, which its STAMP tells.

    order: as JSON gives it back. Raises MedsegError where the folder holds another order, or files of unknown origin.
    """
    if not out.exists():
        return False
    if not out.is_dir():
        raise MedsegError(out, "is a file, phantoms go to a folder", "name another --out")
    if not any(out.iterdir()):
        return False
    if not (out / STAMP).exists():
        raise MedsegError(out, f"is not empty and has no {STAMP}, so its files are not phantoms", "name an empty or a new folder")
    found = _read_stamp(out / STAMP)
    if found != order:
        raise MedsegError(out, f"holds other phantoms: {found}, not {order}", "name another folder or delete this one")
    return all((out / name).exists() for name in files)


def _read_stamp(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
