"""Splits: grouped, stratified, seeded; or a given table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.errors import ManifestError
from medseg.manifest.schema import Manifest, Split
from medseg.manifest.split import describe, given_split, make_split, stratify
from medseg.manifest.table import read_split

from .conftest import UNLABELLED

Make = Callable[[list[dict[str, Any]]], Manifest]
RARE = {"px_background": 590, "px_coating": 10}


def patients(groups: int, images: int, rare_groups: int) -> list[dict[str, Any]]:
    """`images` photographs of each of `groups` patients; the tongue on all, coating on those of the first `rare_groups`."""
    return [
        {"sample_id": f"p{g:03d}/{i}", "group_id": f"p{g:03d}", "px_background": 580, "px_tongue": 10}
        | ({"px_coating": 10} if g < rare_groups else {})
        for g in range(groups)
        for i in range(images)
    ]


def groups_in(split: Split, part: str) -> set[str]:
    return set(split.frame.loc[split.frame["split"] == part, "group_id"])


def test_groups_stay_together_and_shares_hold(make_manifest: Make) -> None:
    split = make_split(make_manifest(patients(50, 3, 10)), "a")
    train, val, test = (groups_in(split, part) for part in ("train", "val", "test"))
    assert not train & val and not train & test and not val & test
    assert (len(train), len(val), len(test)) == (35, 5, 10)
    rare = {f"p{g:03d}" for g in range(10)}
    assert (len(train & rare), len(val & rare), len(test & rare)) == (7, 1, 2)


def test_the_seed_decides(make_manifest: Make) -> None:
    manifest = make_manifest(patients(40, 2, 5))
    first, second = make_split(manifest, "a", seed=1), make_split(manifest, "b", seed=1)
    assert first.frame.equals(second.frame) and "seed=1; ratios=0.7/0.1/0.2" in first.path.read_text()
    assert not make_split(manifest, "c", seed=2).frame.equals(first.frame)
    assert make_split(manifest, "a", seed=1).digest == first.digest
    with pytest.raises(ManifestError, match=r"a.csv: this split exists and differs; splits are immutable"):
        make_split(manifest, "a", seed=2)


@pytest.mark.parametrize("seed", range(20))
def test_the_rarest_class_is_within_one_group_of_its_share(seed: int) -> None:
    draw = np.random.default_rng(seed)
    shown_GK = (draw.random((200, 4)) < [0.9, 0.5, 0.2, 0.05]).astype(int)
    shares_P = np.array([0.7, 0.1, 0.2])
    part_G = stratify(shown_GK, np.ones(200, int), shares_P, draw)
    for part in range(3):
        found_K = shown_GK[part_G == part].sum(axis=0)
        ideal_K = shares_P[part] * shown_GK.sum(axis=0)
        assert abs(found_K[3] - ideal_K[3]) <= 1
        assert (abs(found_K - ideal_K) <= 4).all()  # the others share what is left
        assert abs((part_G == part).sum() - 200 * shares_P[part]) <= 8


def test_groups_of_unlike_size_are_shared_by_images() -> None:
    images_G = np.array([100, *[2] * 100])
    part_G = stratify(images_G[:, None], images_G, np.array([0.5, 0.5]), np.random.default_rng(0))
    assert abs(images_G[part_G == 0].sum() - 150) <= 2


def test_unlabelled_images_are_in_no_split(make_manifest: Make) -> None:
    manifest = make_manifest([*patients(10, 1, 0), {"sample_id": "u"} | UNLABELLED])
    split = make_split(manifest, "a")
    assert "u" not in set(split.frame["sample_id"]) and len(split.frame) == 10


def test_small_sets_fill_every_part_or_say_so(make_manifest: Make) -> None:
    manifest = make_manifest(patients(3, 4, 1))
    assert sorted(make_split(manifest, "a").frame.groupby("split").size()) == [4, 4, 4]
    assert set(make_split(manifest, "two", ratios=(0.8, 0, 0.2)).frame["split"]) == {"train", "test"}


def test_too_few_groups(make_manifest: Make) -> None:
    manifest = make_manifest(patients(2, 9, 1))
    with pytest.raises(ManifestError, match=r"a.csv: 2 group\(s\) cannot fill train, val, test: a split with no image; add groups"):
        make_split(manifest, "a")
    assert not (manifest.folder / "splits").exists()


def test_nothing_labelled(make_manifest: Make) -> None:
    with pytest.raises(ManifestError, match=r"no labelled image among the 1 of .*; annotate some"):
        make_split(make_manifest([UNLABELLED]), "a")


@pytest.mark.parametrize("ratios", [(0.7, 0.2), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1)])
def test_bad_ratios(make_manifest: Make, ratios: tuple[float, ...]) -> None:
    with pytest.raises(ManifestError, match=r"--ratios: three shares for train, val, test that add up to 1, got"):
        make_split(make_manifest([{}]), "a", ratios=ratios)


# --- a given table


@pytest.fixture
def manifest(make_manifest: Make) -> Manifest:
    """x/1 and x/2 of one patient, x/3, and the unlabelled x/4."""
    rows: list[dict[str, Any]] = [{"sample_id": f"x/{n}", "group_id": "p" if n < 3 else str(n)} for n in (1, 2, 3)]
    return make_manifest([*rows, {"sample_id": "x/4"} | UNLABELLED])


def taken(manifest: Manifest, tmp_path: Path, text: str) -> tuple[Split, list[str]]:
    table = tmp_path / "pairs.csv"
    table.write_text(text)
    return given_split(manifest, "given", table)


KEYS = {
    "sample_id": "sample_id,split\nx/1,train\nx/2,train\nx/3,test\n",
    "sample": "sample,group,split\nx/1,p,train\nx\\2,p,train\nx/3,q,test\n",
    "image": "image,mask,split\nimages/x/1.png,m,train\nimages/x/2.png,m,train\nimages/x/3.png,m,test\n",
    "longer image": "image,split\n/data/images/x/1.png,train\n.\\images\\x\\2.png,train\nimages/x/3.png,test\n",
    "stem": "\ufeffimage,split\n1.jpg,train\nx/2,train\n3,test\n",
}


@pytest.mark.parametrize("text", KEYS.values(), ids=KEYS)
def test_keys(manifest: Manifest, tmp_path: Path, text: str) -> None:
    split, warnings = taken(manifest, tmp_path, text)
    assert dict(zip(split.frame["sample_id"], split.frame["split"], strict=True)) == {
        "x/1": "train",
        "x/2": "train",
        "x/3": "test",
    }
    assert warnings == [] and read_split(manifest, "given").digest == split.digest
    assert "from=pairs.csv; from_sha256=" in split.path.read_text().splitlines()[0]


def test_the_tables_groups_replace_the_manifests(manifest: Manifest, tmp_path: Path) -> None:
    split, _ = taken(manifest, tmp_path, "sample,group,split\nx/1,a,train\nx/2,b,train\nx/3,a,train\n")
    assert split.frame["group_id"].tolist() == ["a", "b", "a"]


def test_warnings_count_what_is_left_out(manifest: Manifest, tmp_path: Path) -> None:
    split, warnings = taken(manifest, tmp_path, "sample,split\nx/3,train\nx/4,val\nx/9,test\n")
    assert split.frame["sample_id"].tolist() == ["x/3"]
    assert warnings == [
        "1 listed, but not in the manifest (x/9)",
        "1 listed, but unlabelled: left out (x/4)",
        "2 labelled, but not listed: in no split (x/1, x/2)",
    ]


BAD_TABLES = {
    "columns": (
        "name,split\nx/1,train\n",
        r"pairs.csv: needs a column of sample_id, sample, image and the column split, got \['name'",
    ),
    "part": ("sample,split\nx/1,train\nx/3,dev\n", r"pairs.csv row 3 \(x/3\): unknown split 'dev'; use one of train, val, test"),
    "none known": (
        "sample,split\ny,train\n",
        r"none of its 1 rows names a sample of .*\(first: 'y'\); its sample column must hold",
    ),
    "twice": ("sample,split\nx/1,train\nx/1,train\n", r"pairs.csv row 3 \(x/1\): the sample 'x/1' is listed twice; keep one"),
    "torn": ("sample,split\nx/1,train\nx/2,test\n", r"pairs.csv: the group 'p' is in two splits: train and test; put all"),
    "torn here": ("sample,group,split\nx/1,g,val\nx/3,g,test\n", r"the group 'g' is in two splits: val and test"),
    "torn patient": ("sample,group,split\nx/1,g,val\nx/2,h,test\n", r"the group 'p' is in two splits: val and test"),
    "blank group": ("sample,group,split\nx/1,,val\n", r"pairs.csv row 2 \(x/1\): group_id is blank"),
    "unlabelled": ("sample,split\nx/4,test\n", r"every image it lists is unlabelled: a split with no image; annotate"),
    "no row": ("sample,split\n", r"pairs.csv: the table has no row; list each image"),
    "empty": ("", r"pairs.csv: the file is empty"),
}


@pytest.mark.parametrize(("text", "message"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_bad_table(manifest: Manifest, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        taken(manifest, tmp_path, text)
    assert not (manifest.folder / "splits").exists()


def test_ambiguous_image(make_manifest: Make, tmp_path: Path) -> None:
    manifest = make_manifest([{"sample_id": "a/1"}, {"sample_id": "b/1"}])
    with pytest.raises(ManifestError, match=r"pairs.csv row 2: '1.png' fits several samples: a/1, b/1; write the image path"):
        taken(manifest, tmp_path, "image,split\n1.png,train\n")


def test_a_part_of_another_path_is_no_match(make_manifest: Make, tmp_path: Path) -> None:
    """set_1/104 was refused at the import: its row must not be taken for set_2/104."""
    manifest = make_manifest([{"sample_id": "set_2/104"}, {"sample_id": "set_2/105"}])
    split, warnings = taken(manifest, tmp_path, "image,split\nset_1/104.jpg,test\nset_2/105.jpg,train\n105.1,test\n")
    assert dict(zip(split.frame["sample_id"], split.frame["split"], strict=True)) == {"set_2/105": "train"}
    assert warnings[0] == "2 listed, but not in the manifest (set_1/104.jpg, 105.1)"


def test_missing_table(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"gone.csv: there is no such file; check --from"):
        given_split(manifest, "given", tmp_path / "gone.csv")


def test_describe(manifest: Manifest, tmp_path: Path) -> None:
    split, _ = taken(manifest, tmp_path, "sample,split\nx/1,train\nx/2,train\nx/3,test\n")
    table = describe(manifest, split).set_index("split")
    assert table.loc["train", ["images", "groups", "images_tongue"]].tolist() == [2, 1, 0]
    assert table.loc["test", "share_coating"] == 0.0 and list(table.index) == ["train", "test"]
