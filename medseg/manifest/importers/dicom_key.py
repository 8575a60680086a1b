"""The key of a DICOM import, and the keyed hashes that stand for patients, studies and series."""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from medseg.errors import ManifestError

KEY_BYTES = 32


def key_at(path: Path, folders: Sequence[Path]) -> tuple[bytes, bool]:
    """(key, whether it is new and still to be written). ManifestError where it lies in the data or is no key."""
    for folder in folders:
        if path.resolve().is_relative_to(folder.resolve()):
            raise ManifestError(path, f"the key may not lie under {folder}: it would travel with the data", "keep it somewhere else")
    if path.is_dir():
        raise ManifestError(path, "a folder, where the key file is expected", "name a file in it; one that is not there is made")
    try:
        text = path.read_text().strip()
        key = bytes.fromhex(text)
    except FileNotFoundError:
        return secrets.token_bytes(KEY_BYTES), True
    except OSError as cause:
        raise ManifestError(path, f"the key cannot be read ({cause.strerror})", "check its permissions, or name another file") from None
    except ValueError:
        key = b""
    if len(key) < KEY_BYTES:
        raise ManifestError(
            path, f"a key is at least {2 * KEY_BYTES} hexadecimal digits", "name another file; one that is not there is made"
        )
    return key, False


def write_key(path: Path, key: bytes) -> None:
    """Write `key` in hex to a new file that its owner alone may read. ManifestError where that fails or it is there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as cause:
        raise ManifestError(path, f"the key cannot be written ({cause.strerror})", "choose another --key-file") from None
    with os.fdopen(descriptor, "w") as stream:
        stream.write(key.hex() + "\n")


def pseudonym(key: bytes, kind: str, identifier: str) -> str:
    """The first letter of `kind`, '_' and 16 hex digits of HMAC-SHA256 over kind and identifier.

    >>> pseudonym(b"k" * 32, "patient", "123") == pseudonym(b"k" * 32, "study", "123")
    False
    """
    return f"{kind[0]}_{hmac.digest(key, f'{kind} {identifier}'.encode(), 'sha256').hex()[:16]}"
