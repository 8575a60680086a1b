"""environment.json and dirty.diff, against repositories made here."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from medseg import environment
from medseg.environment import describe_environment, describe_git, write_environment
from medseg.runfolder import RunFolder


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-b", "work")
    (folder / "a.txt").write_text("one\n")
    git(folder, "add", "a.txt")
    git(folder, "commit", "-m", "first")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def test_a_clean_repository(repository: Path, run: RunFolder) -> None:
    write_environment(run, gpus=["Card 9000"])
    content = json.loads(run.environment_json.read_text())
    assert content["git"] == {"commit": git(repository, "rev-parse", "HEAD"), "branch": "work", "dirty": False}
    assert content["hardware"]["gpus"] == ["Card 9000"]
    assert not run.dirty_diff.exists()


def test_a_changed_file_is_in_the_diff(repository: Path, run: RunFolder) -> None:
    (repository / "a.txt").write_text("two\n")
    write_environment(run)
    assert json.loads(run.environment_json.read_text())["git"]["dirty"] is True
    assert "-one\n+two\n" in run.dirty_diff.read_text()


def test_the_diff_is_of_the_whole_repository(repository: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / "a.txt").write_text("two\n")
    (repository / "inner").mkdir()
    monkeypatch.chdir(repository / "inner")
    write_environment(run)
    assert "+two" in run.dirty_diff.read_text()


def test_untracked_code_is_dirty_without_a_diff_and_untracked_data_is_not(repository: Path, run: RunFolder) -> None:
    (repository / "new.txt").write_text("three\n")
    write_environment(run)
    assert json.loads(run.environment_json.read_text())["git"]["dirty"] is False
    (repository / "new.py").write_text("three = 3\n")
    write_environment(run)
    assert json.loads(run.environment_json.read_text())["git"]["dirty"] is True
    assert not run.dirty_diff.exists()


def test_a_large_diff_is_cut_with_a_note(repository: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "DIFF_LIMIT_BYTES", 2000)
    (repository / "a.txt").write_text("a line\n" * 5000)
    write_environment(run)
    lines = run.dirty_diff.read_text().splitlines()
    assert lines[-1] == "# medseg: cut here, the diff is larger than 2000 bytes"
    assert lines[-2] == "+a line" and run.dirty_diff.stat().st_size < 2100


def test_a_detached_head_has_no_branch(repository: Path) -> None:
    git(repository, "checkout", "--detach")
    assert describe_git(repository)["branch"] is None and describe_git(repository)["commit"]


def test_a_repository_without_commits(tmp_path: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init", "-b", "work")
    (tmp_path / "a.py").write_text("one = 1\n")
    monkeypatch.chdir(tmp_path)
    write_environment(run)
    assert describe_git(tmp_path) == {"commit": None, "branch": "work", "dirty": True}
    assert not run.dirty_diff.exists()


NOWHERE = {"commit": None, "branch": None, "dirty": None}


def test_outside_a_repository_git_is_null(tmp_path: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_environment(run)
    assert json.loads(run.environment_json.read_text())["git"] == NOWHERE


def test_without_git_installed_git_is_null(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert describe_git(repository) == NOWHERE and environment._diff(repository) == b""


def test_packages_and_hardware(tmp_path: Path) -> None:
    content = describe_environment(tmp_path)
    assert content["packages"]["numpy"] == version("numpy")
    assert "scikit-image" not in content["packages"] or content["packages"]["scikit-image"]
    assert content["hardware"]["cpu_cores_usable"] >= 1 and content["hardware"]["memory_gib"] > 0
    assert set(content["hardware"]["cpu_flags"]) <= {"amx_bf16", "avx512_bf16"}


def test_no_secret_and_no_remote_is_written(repository: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    git(repository, "remote", "add", "origin", "https://someone:hunter2@example.org/r.git")
    write_environment(run)
    text = run.environment_json.read_text()
    assert "hunter2" not in text and "example.org" not in text
