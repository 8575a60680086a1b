"""What a run ran on: commit, packages, processor. Never environment variables, remotes or user names."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.files import write_bytes, write_json

if TYPE_CHECKING:
    from medseg.runfolder import RunFolder

PACKAGES = (
    "medseg", "torch", "torchvision", "monai", "segmentation-models-pytorch", "timm", "transformers", "safetensors", "numpy", "scipy",
    "pandas", "nibabel", "scikit-image", "scikit-learn", "mlflow", "lightning-fabric", "pydantic", "pillow",
)  # fmt: skip
# What decides whether bfloat16 pays on a processor.
CPU_FLAGS = ("amx_bf16", "avx512_bf16")  # bfloat16 arithmetic in hardware
DIFF_LIMIT_BYTES = 5_000_000
GIT_TIMEOUT_S = 20


def describe_environment(cwd: Path, gpus: Sequence[str] = ()) -> dict[str, Any]:
    """The commit `cwd` stands on, the packages that are installed and the hardware; what cannot be found out is None.

    gpus: their names, from the caller, so that this module needs no torch.
    """
    return {
        "git": describe_git(cwd),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _package_versions(),
        "hardware": _hardware() | {"gpus": list(gpus)},
    }


def write_environment(run: RunFolder, gpus: Sequence[str] = ()) -> None:
    """Write environment.json for the current folder and, where tracked files differ from the commit, dirty.diff."""
    content = describe_environment(Path.cwd(), gpus)
    if content["git"]["dirty"] and (diff := _diff(Path.cwd())):
        write_bytes(run.dirty_diff, diff)
    write_json(run.environment_json, content)


def describe_git(cwd: Path) -> dict[str, Any]:
    """Commit, branch and whether tracked files differ from the commit or untracked Python lies about; all None outside a repository.

    Untracked data (a manifest just imported, photographs) does not make code dirty: the run's digests speak for it.

    >>> describe_git(Path("/"))
    {'commit': None, 'branch': None, 'dirty': None}
    """
    changed = _git(cwd, "status", "--porcelain", "--untracked-files=no")
    untracked_code = _git(cwd, "ls-files", "--others", "--exclude-standard", "--", "*.py")
    return {
        "commit": _git(cwd, "rev-parse", "--verify", "--quiet", "HEAD"),
        "branch": _git(cwd, "symbolic-ref", "--short", "--quiet", "HEAD"),
        "dirty": None if changed is None else bool(changed or untracked_code),
    }


def _git(cwd: Path, *arguments: str) -> str | None:
    """Git's answer without its last newline; None where git is absent, slow, or says no."""
    try:
        done = subprocess.run(
            _git_command(cwd, *arguments), capture_output=True, stdin=subprocess.DEVNULL, timeout=GIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace").rstrip("\n") if done.returncode == 0 else None


def _git_command(cwd: Path, *arguments: str) -> list[str]:
    """Without optional locks: a look must not stand in the way of the user's own git."""
    return ["git", "--no-optional-locks", "-C", str(cwd), *arguments]


def _diff(cwd: Path) -> bytes:
    """`git diff HEAD` of the whole repository, cut with a note at DIFF_LIMIT_BYTES; empty where there is no commit yet.

    Read through a pipe up to the limit, so that a giant diff costs neither memory nor time. Binary files are named, not copied.
    """
    command = _git_command(cwd, "diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv")
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            diff = process.stdout.read(DIFF_LIMIT_BYTES + 1)
            process.kill()
    except OSError:
        return b""
    return diff if len(diff) <= DIFF_LIMIT_BYTES else _cut(diff)


def _cut(diff: bytes) -> bytes:
    whole_lines = diff[: diff.rfind(b"\n", 0, DIFF_LIMIT_BYTES) + 1]
    return whole_lines + f"# medseg: cut here, the diff is larger than {DIFF_LIMIT_BYTES} bytes\n".encode()


def _package_versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def processor_flags() -> list[str]:
    """Which of CPU_FLAGS the processor has, by the kernel's word: torch has no public question for them on every version we support."""
    flags = _first_processor().get("flags", "").split()
    return [flag for flag in CPU_FLAGS if flag in flags]


def _hardware() -> dict[str, Any]:
    facts = _first_processor()
    return {
        "cpu": facts.get("model name") or platform.processor() or None,
        "cpu_cores_usable": _usable_cores(),
        "cpu_flags": processor_flags(),
        "memory_gib": _memory_gib(),
    }


def _usable_cores() -> int | None:
    """The cores this process may run on, not those of the machine, where the system tells them apart."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _first_processor() -> dict[str, str]:
    """The first paragraph of /proc/cpuinfo (Linux); empty elsewhere."""
    try:
        paragraph = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return {}
    lines = (line.partition(":") for line in paragraph.splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None
