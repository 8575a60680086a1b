"""Files written whole or not at all, hashes, and paths that stay under their root."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from medseg.errors import AnnotationError, MedsegError

MAX_JSON_BYTES = 128 * 1024**2  # a labelme file that carries its image may be large; as text it takes up to four times as much
MAX_JSON_WEIGHT = 384 * 1024**2
_JSON_COSTS = {b",": 40, b"[": 64, b"{": 200, b'"': 30}  # bytes that Python takes for a number, a list, a dict, half a string


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Yield a new hidden folder inside `folder`, so that a rename brings its files out; it is gone afterwards, and so are `folder`
    and its parents where they were made for it and nothing came into them."""
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    stage = folder / f".{secrets.token_hex(4)}.part"
    try:
        stage.mkdir(parents=True)
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        for parent in made:
            with suppress(OSError):  # not empty
                parent.rmdir()


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target` that takes its place on success; on an error it is removed and `target` stays as it was."""
    with staging(target.parent) as stage:
        new, old = stage / "new", stage / "old"
        new.mkdir()
        yield new
        try:
            if target.exists():
                os.replace(target, old)
            os.replace(new, target)
        except BaseException:
            if old.exists() and not target.exists():  # Ctrl-C between the two renames
                os.replace(old, target)
            raise


@contextmanager
def staged_files(target: Path) -> Iterator[Path]:
    """Yield an empty folder whose files are moved into `target` on success, beside what is there; on an error nothing appears there."""
    with staging(target) as stage:
        yield stage
        for source, goal in moves(stage, target):
            move(source, goal)


def moves(stage: Path, target: Path) -> list[tuple[Path, Path]]:
    """(file, its place under `target`) of all files under `stage`, in the order of their paths."""
    return [(path, target / path.relative_to(stage)) for path in sorted(stage.rglob("*")) if path.is_file()]


def move(source: Path, goal: Path) -> None:
    """Rename a file on its file system, over what stands at `goal`; the folders on the way are made."""
    goal.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, goal)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed, on an error removed.

    The temporary name keeps the suffix, because encoders choose their format by it, and is the writer's own: a run's follower and its
    training may write one file from two threads.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())  # some encoders (safetensors) let nobody else read what they write
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    """What this process keeps from others in new files; Linux tells it without setting it, which would be for all threads."""
    try:
        found = re.search(r"^Umask:\s*(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1], 8) if found else 0o022


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` by a temporary file and a rename."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path` as UTF-8 by a temporary file and a rename."""
    write_bytes(path, content.encode())


def check_file_target(path: Path) -> None:
    """MedsegError where no file can come to stand at `path`: asked before long work whose outcome it is to hold."""
    if path.is_dir():
        raise MedsegError(path, "is a folder, and a file is to be written there", "name a file in it")
    above = next((parent for parent in path.absolute().parents if parent.exists()), path.absolute())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise MedsegError(path, f"{above} cannot be written to", "name another place")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented, key-ordered JSON; NaN becomes null, so that every JSON reader takes it."""
    write_text(path, json_text(content))


def json_text(content: Any) -> str:
    """What `write_json` writes."""
    return json.dumps(nan_to_none(content), indent=1, sort_keys=True, allow_nan=False) + "\n"


def read_json(
    path: Path, error: type[MedsegError], fix: str = "save the annotation again", times: int = 1, larger: str = "split it"
) -> Any:
    """The content of a JSON file of unknown origin; `error` where it is too large for memory or not JSON.

    times: how many times the usual limits the user allows.  larger: the way out for a file beyond them.
    """
    if path.stat().st_size > times * MAX_JSON_BYTES:
        raise error(path, f"over {times * MAX_JSON_BYTES >> 20} MB, too large to be an annotation", larger)
    return parse_json(path.read_bytes(), path, error, fix, times, larger)


def parse_json(
    content: bytes, where: object, error: type[MedsegError], fix: str, times: int = 1, larger: str = "split it into several files"
) -> Any:
    """JSON text parsed; `error` where it is not JSON, or where its values (counted before any is made) would fill the memory."""
    weight = sum(cost * content.count(sign) for sign, cost in _JSON_COSTS.items())
    if weight > times * MAX_JSON_WEIGHT:
        raise error(where, f"its values would fill over {times * MAX_JSON_WEIGHT >> 20} MB of memory", larger)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as cause:
        raise error(where, f"not valid JSON ({str(cause) or 'nested too deep'})", fix) from None


def nan_to_none(content: Any) -> Any:
    """`content` with every NaN replaced by None, in dicts and lists too.

    >>> nan_to_none({"a": [float("nan"), 1.0]})
    {'a': [None, 1.0]}
    """
    if isinstance(content, dict):
        return {key: nan_to_none(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [nan_to_none(value) for value in content]
    return None if isinstance(content, float) and content != content else content


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_array(array: Any, *more: Any) -> str:
    """The SHA-256 of arrays by type, shape and values, in hex: the same whatever encoder wrote the file they came from."""
    digest = hashlib.sha256()
    for part in (array, *more):
        digest.update(f"{part.dtype.str} {part.shape}\n".encode())
        digest.update(part if part.flags.c_contiguous else part.tobytes())
    return digest.hexdigest()


def posix(relative: str) -> str:
    r"""A relative path with Windows separators turned round.

    >>> posix(r"..\set_1\104.jpg")
    '../set_1/104.jpg'
    """
    return relative.replace("\\", "/")


def leaves_root(relative: str) -> bool:
    """True where a path is absolute, has a drive letter, or climbs out of the folder it is relative to.

    >>> leaves_root("a/../b.png"), leaves_root("a/../../b.png"), leaves_root("C:/b.png"), leaves_root("/b.png")
    (False, True, True, True)
    """
    text = posix(relative)
    if text.startswith("/") or re.match(r"^[A-Za-z]:", text):
        return True
    depth = 0
    for part in PurePosixPath(text).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return False


def resolve_under(root: Path, relative: str, error: type[MedsegError], where: object) -> Path:
    """`root / relative`, refused with `error` where it leaves the root, by its text or through a symbolic link."""
    path = root / posix(relative)
    whole = path.resolve() if path.is_symlink() else _resolved(path.parent)
    if leaves_root(relative) or not whole.is_relative_to(_resolved(root)):
        raise error(where, f"the path {relative!r} leaves {root}", "move the file under that folder or correct the path")
    return path


@lru_cache(maxsize=1024)
def _resolved(folder: Path) -> Path:
    """Asked for once a folder, not once a file: each part of a path costs a system call."""
    return folder.resolve()


def nfc(text: str) -> str:
    """Text with composed accents. Archives from macOS hold decomposed names, which look the same and compare as others.

    >>> nfc("e\u0301") == "\u00e9"
    True
    """
    return unicodedata.normalize("NFC", text)


def on_disk(path: Path) -> Path:
    """`path`, or where nothing is there the file whose name differs from it in Unicode form alone."""
    forms = [unicodedata.normalize(form, text) for text in (path.name, str(path)) for form in ("NFC", "NFD")]
    others = [*(path.with_name(name) for name in forms[:2]), *map(Path, forms[2:])] if path.name else []
    return next((other for other in (path, *others) if other.exists()), path)


def names_a_file(value: object) -> TypeGuard[str]:
    """Whether a value from a JSON can be asked of the disk and written to a table at all."""
    if not isinstance(value, str) or not value.strip() or "\0" in value or len(value) > 4000:
        return False
    try:
        return all(len(part.encode()) <= 255 for part in posix(value).split("/"))
    except UnicodeEncodeError:
        return False


def walk(root: Path, suffixes: Sequence[str], skip: Iterable[Path] = ()) -> list[Path]:
    """Files of the given suffixes under `root`, sorted; hidden ones (macOS leaves `._a.jpg`) and folders in `skip` left out.

    Links to folders are not followed, see `linked_folders`. AnnotationError for a name that is not UTF-8.
    """
    found = [
        Path(folder, name)
        for folder, _, names in _visible(root, skip)
        for name in names
        if not name.startswith(".") and name.lower().endswith(tuple(suffixes))
    ]
    for path in found:
        check_name(path, root)
    return sorted(found)


def linked_folders(root: Path, skip: Iterable[Path] = ()) -> list[Path]:
    """The links to folders that `walk` passes by, sorted."""
    return sorted(Path(folder, name) for folder, folders, _ in _visible(root, skip) for name in folders if Path(folder, name).is_symlink())


def _visible(root: Path, skip: Iterable[Path]) -> Iterator[tuple[str, list[str], list[str]]]:
    """os.walk without hidden folders and those in `skip`."""
    skipped = {path.resolve() for path in skip}
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".") and Path(folder, name).resolve() not in skipped]
        yield folder, folders, names


def check_name(path: Path, root: Path) -> None:
    """AnnotationError where the path below `root` is not UTF-8: neither a manifest nor a terminal takes it. It is told escaped."""
    try:
        str(path.relative_to(root)).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise AnnotationError(shown, "the name is not UTF-8, so no manifest can hold it", "rename the file or folder") from None
