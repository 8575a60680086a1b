"""Files appear whole or not at all, and paths stay under their root."""

from __future__ import annotations

import os

import pytest

from medseg.errors import ManifestError
from medseg.files import (
    atomic_path,
    linked_folders,
    names_a_file,
    nan_to_none,
    on_disk,
    resolve_under,
    staged_files,
    staged_folder,
    walk,
    write_json,
    write_text,
)  # fmt: skip


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_what_is_written_may_be_read_by_those_the_umask_lets(tmp_path):
    """Some encoders make their files for the owner alone."""
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "a") as temporary:
            temporary.touch(0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_an_atomic_write_replaces_or_leaves(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "a.txt") as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "a.txt").read_text() == "old" and names(tmp_path) == ["a.txt"]
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_staged_folder_takes_the_place_of_the_old_one_as_a_whole(tmp_path):
    target = tmp_path / "evaluation" / "test"
    with staged_folder(target) as stage:
        (stage / "old.csv").write_text("1")
    with pytest.raises(ZeroDivisionError), staged_folder(target) as stage:
        (stage / "new.csv").write_text("2")
        raise ZeroDivisionError
    assert names(tmp_path) == ["evaluation", "evaluation/test", "evaluation/test/old.csv"]
    with staged_folder(target) as stage:
        (stage / "new.csv").write_text("2")
    assert names(target) == ["new.csv"] and names(tmp_path / "evaluation") == ["test", "test/new.csv"]


def test_staged_files_come_beside_what_is_there_or_not_at_all(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(ZeroDivisionError), staged_files(target) as stage:
        (stage / "a").write_text("1")
        raise ZeroDivisionError
    assert not target.exists()
    target.mkdir()
    (target / "mine").write_text("0")
    with staged_files(target) as stage:
        (stage / "inner").mkdir()
        (stage / "inner" / "a").write_text("1")
    assert names(target) == ["inner", "inner/a", "mine"]


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "C:\\x", "..\\x", "link/x"])
def test_no_path_leaves_its_root(tmp_path, path):
    root = tmp_path / "root"
    root.mkdir()
    os.symlink(tmp_path, root / "link")
    with pytest.raises(ManifestError, match="leaves .*root; move the file under that folder"):
        resolve_under(root, path, ManifestError, "row 3")


def test_a_path_may_wander_inside_its_root(tmp_path):
    assert resolve_under(tmp_path, "a\\..\\b/c.png", ManifestError, "row 3").resolve() == tmp_path / "b/c.png"


def test_json_has_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"b": [float("nan"), 1.0], "a": (float("nan"),)})
    assert "NaN" not in (tmp_path / "a.json").read_text()
    assert nan_to_none({"x": {"y": float("nan")}}) == {"x": {"y": None}}


def test_walk_leaves_out_hidden_and_skipped(tmp_path):
    for name in ("b.jpg", "a.JPG", "._a.jpg", "text.txt", "in/c.jpg", "out/d.jpg", ".hidden/e.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert [path.relative_to(tmp_path).as_posix() for path in walk(tmp_path, (".jpg",), skip=[tmp_path / "out"])] == [
        "a.JPG",
        "b.jpg",
        "in/c.jpg",
    ]


def test_walk_follows_no_link_and_the_links_can_be_asked_for(tmp_path):
    (tmp_path / "root" / "in").mkdir(parents=True)
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a.jpg").write_text("")
    for name in ("root/in/link", "root/.hidden", "root/out"):
        (tmp_path / name).symlink_to(tmp_path / "far")
    assert walk(tmp_path / "root", (".jpg",)) == []
    assert linked_folders(tmp_path / "root") == [tmp_path / "root/in/link", tmp_path / "root/out"]
    assert linked_folders(tmp_path / "root", skip=[tmp_path / "far"]) == []


@pytest.mark.parametrize(("there", "asked"), [("caf\u00e9", "cafe\u0301"), ("cafe\u0301", "caf\u00e9")])
def test_a_file_is_found_in_its_other_unicode_form(tmp_path, there, asked):
    (tmp_path / there).write_text("")
    assert on_disk(tmp_path / asked).exists() and on_disk(tmp_path / "other") == tmp_path / "other"


@pytest.mark.parametrize("name", ["", " ", "a\0", "x" * 256, "a/" * 2001, "caf\udce9", "\ud800", 3, None])
def test_what_names_no_file(name):
    assert not names_a_file(name) and names_a_file("a/caf\u00e9.png")
