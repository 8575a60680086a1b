"""Splits: grouped, stratified, seeded; or a given table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.errors import ManifestError
from medseg.labels import LabelSet
from medseg.manifest.ledger import ledger_path, read_ledger
from medseg.manifest.schema import Dataset, Manifest, Split
from medseg.manifest.split import describe, given_split, joined_groups, make_split, remarks, stratify, summary
from medseg.manifest.table import read_split, write_manifest, write_split

from .conftest import UNLABELLED, table_of

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
    assert warnings == ["val is empty: no labelled row is listed there"] and read_split(manifest, "given").digest == split.digest
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
        "2 labelled, but not listed: in no part, neither trained on nor scored (x/1, x/2)",
        "val and test are empty: no labelled row is listed there",
    ]


BAD_TABLES = {
    "columns": (
        "name,split\nx/1,train\n",
        r"pairs.csv: needs a column of sample_id, sample, image and the column split, got \['name'",
    ),
    "part": ("sample,split\nx/1,train\nx/3,dev\n", r"pairs.csv row 3 \(x/3\): unknown split 'dev'; use one of train, val, test"),
    "none known": (
        "sample,split\ny,train\n",
        r"none of its 1 row names a sample of .*\(first: 'y'\); its sample column must hold",
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


def test_parts_without_a_row_are_told(manifest: Manifest, tmp_path: Path) -> None:
    assert taken(manifest, tmp_path, "sample,split\nx/1,val\nx/2,val\nx/3,val\n")[1] == [
        "train and test are empty: no labelled row is listed there"
    ]


def test_a_table_of_folds_lacks_no_val(make_manifest: Make) -> None:
    manifest = make_manifest(patients(10, 1, 0))
    assert given_split(manifest, "taken", make_split(manifest, "cv", folds=3).path)[1] == []


def test_missing_table(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"gone.csv: there is no such file; check --from"):
        given_split(manifest, "given", tmp_path / "gone.csv")


def test_describe(manifest: Manifest, tmp_path: Path) -> None:
    split, _ = taken(manifest, tmp_path, "sample,split\nx/1,train\nx/2,train\nx/3,test\n")
    table = describe(manifest, split).set_index("split")
    assert table.loc["train", ["images", "groups", "images_tongue"]].tolist() == [2, 1, 0]
    assert table.loc["test", "share_coating"] == 0.0 and list(table.index) == ["train", "test"]


# --- area, folds, near duplicates


def test_area_is_shared_out_too(make_manifest: Make) -> None:
    """All show the tongue; fifteen of 45 patients have a tenfold area: each of five folds gets three of them, whatever the seed."""
    rows = [row | ({"px_tongue": 100, "px_background": 490} if row["group_id"] < "p015" else {}) for row in patients(45, 2, 0)]
    manifest = make_manifest(rows)
    for seed in range(5):
        split = make_split(manifest, f"s{seed}", (1, 0, 0), seed, folds=5)
        large = split.frame[split.frame["group_id"] < "p015"].drop_duplicates("group_id")
        assert large["fold"].value_counts().to_dict() == {str(fold): 3 for fold in range(5)}


@pytest.mark.parametrize("seed", range(10))
def test_with_areas_the_rarest_class_is_still_within_one_group(seed: int) -> None:
    draw = np.random.default_rng(seed)
    shown_GK = (draw.random((300, 3)) < [0.9, 0.5, 0.1]).astype(int)
    area_GK = shown_GK * draw.lognormal(5, 1.5, shown_GK.shape)
    shares_P = draw.dirichlet([6, 1, 2])
    part_G = stratify(shown_GK, np.ones(300, int), shares_P, draw, area_GK)
    for part in range(3):
        assert abs(shown_GK[part_G == part, 2].sum() - shares_P[part] * shown_GK[:, 2].sum()) <= 1


def test_folds(make_manifest: Make) -> None:
    manifest = make_manifest(patients(50, 3, 10))
    split = make_split(manifest, "cv", folds=5)
    assert split.folds == 5 and set(split.frame["split"]) == {"train", "test"}
    assert (split.frame.loc[split.frame["split"] == "test", "fold"] == "").all()
    seen: set[str] = set()
    for fold in range(5):
        chosen = read_split(manifest, "cv", fold=fold)
        train, val, test = (groups_in(chosen, part) for part in ("train", "val", "test"))
        assert not train & val and not test & (train | val) and len(val) == 8 and len(test) == 10
        assert test == groups_in(split, "test") and not seen & val
        assert len({f"p{g:03d}" for g in range(10)} & val) in (1, 2)
        seen |= val
    assert seen == groups_in(split, "train")
    assert "ratios=0.7/0.1/0.2; folds=5" in split.path.read_text().splitlines()[0]
    assert remarks(split) == ["5 folds: the ratio of val went to train; a fold is val when it is chosen"]
    with pytest.raises(ManifestError, match=r"cv.csv: there is no fold 5: it has the folds 0 to 4; name one"):
        split.fold(5)
    with pytest.raises(ManifestError, match=r"no image in the split 'val' .*; its val part is one of its folds 0 to 4"):
        split.ids("val")
    with pytest.raises(ManifestError, match=r"there is no fold 0: it has no folds; .*--folds"):
        make_split(manifest, "plain").fold(0)


@pytest.mark.parametrize("folds", [1, -1])
def test_bad_folds(make_manifest: Make, folds: int) -> None:
    with pytest.raises(ManifestError, match=r"--folds: at least 2 folds of rows outside test, got"):
        make_split(make_manifest(patients(9, 1, 0)), "a", folds=folds)


def test_more_folds_than_groups(make_manifest: Make) -> None:
    with pytest.raises(ManifestError, match=r"a.csv: 8 group\(s\) outside test cannot fill 9 folds; ask for fewer"):
        make_split(make_manifest(patients(10, 1, 0)), "a", folds=9)


BAD_FOLDS = {
    "gap": (",train,1", ",train,7", r"the folds must be 0, 1, ... without a gap, got \['0', '7'\]"),
    "of test": (",test,", ",test,0", r"of test has the fold 0: with folds every row outside test has one"),
    "missing": (",train,1", ",train,", r"of train has no fold: with folds every row outside test has one"),
}


@pytest.mark.parametrize(("old", "new", "message"), BAD_FOLDS.values(), ids=BAD_FOLDS)
def test_bad_fold_columns(make_manifest: Make, old: str, new: str, message: str) -> None:
    manifest = make_manifest(patients(10, 1, 0))
    path = make_split(manifest, "a", folds=2).path
    count = -1 if new.endswith("7") else 1
    path.write_text(path.read_text().replace(old + "\n", new + "\n", count))
    with pytest.raises(ManifestError, match=message):
        read_split(manifest, "a")


def test_a_group_in_two_folds(make_manifest: Make) -> None:
    manifest = make_manifest(patients(10, 2, 0))
    path = make_split(manifest, "a", folds=2).path
    path.write_text(path.read_text().replace(",train,1\n", ",train,0\n", 1))
    with pytest.raises(ManifestError, match=r"the group 'p\d+' is in two folds; put all samples"):
        read_split(manifest, "a")


@dataclass(frozen=True)
class Twins:
    first: str
    second: str


def test_near_duplicates_join_their_groups(make_manifest: Make) -> None:
    rows = [*patients(12, 2, 3), {"sample_id": "u"} | UNLABELLED]
    pairs = [Twins("p003/0", "p001/1"), Twins("p003/1", "p007/0"), Twins("p004/0", "p004/1"), Twins("u", "p009/0")]
    split = make_split(make_manifest(rows), "a", pairs=pairs)
    group_of = dict(zip(split.frame["sample_id"], split.frame["group_id"], strict=True))
    assert {group_of[f"{group}/{i}"] for group in ("p001", "p003", "p007") for i in (0, 1)} == {"p001"}
    assert group_of["p009/0"] == "p009" and split.frame["group_id"].nunique() == 10
    assert "near_duplicate_pairs=4; near_duplicate_clusters=2" in split.path.read_text().splitlines()[0]
    assert remarks(split) == ["4 pairs of near duplicates, 2 groups joined from several"]
    one = replace(split, facts={"near_duplicate_pairs": "1", "near_duplicate_clusters": "1", "kept_test": "1"})
    assert remarks(one) == [
        "1 row stays in test because an earlier split of this data set tests on it or on its group",
        "1 pair of near duplicates, 1 group joined from several",
    ]


def test_near_duplicates_are_joined_through_an_unlabelled_image(make_manifest: Make) -> None:
    """p001/0 ~ u ~ p003/0, and no pair of p001/0 and p003/0 themselves."""
    manifest = make_manifest([*patients(12, 2, 3), {"sample_id": "u"} | UNLABELLED])
    split = make_split(manifest, "a", pairs=[Twins("p001/0", "u"), Twins("p003/0", "u")])
    group_of = dict(zip(split.frame["sample_id"], split.frame["group_id"], strict=True))
    assert {group_of[f"{group}/{i}"] for group in ("p001", "p003") for i in (0, 1)} == {"p001"} and "u" not in group_of
    assert split.facts["near_duplicate_pairs"] == "2" and split.facts["near_duplicate_clusters"] == "1"


def test_joined_groups_against_a_flood_fill() -> None:
    """An oracle that shares nothing with union-find: spread from each group until nothing new is reached."""
    draw = np.random.default_rng(0)
    group_of = {f"s{i}": f"g{i % 40:02d}" for i in range(120)}
    pairs = [Twins(*(f"s{i}" for i in draw.integers(0, 120, 2))) for _ in range(25)]
    joined, _ = joined_groups(group_of, pairs)
    for sample, group in group_of.items():
        reached = {group}
        while True:
            more = {group_of[end] for pair in pairs for end in (pair.first, pair.second)
                    if {group_of[pair.first], group_of[pair.second]} & reached}  # fmt: skip
            if more <= reached:
                break
            reached |= more
        assert joined[sample] == min(reached)


# --- the locked test set


def test_a_later_split_keeps_the_test_rows(make_manifest: Make) -> None:
    manifest = make_manifest(patients(40, 2, 8))
    first = make_split(manifest, "main", seed=0)
    for name, seed, folds in (("other", 1, 0), ("cv", 2, 4)):
        split = make_split(manifest, name, seed=seed, folds=folds)
        assert groups_in(split, "test") == groups_in(first, "test")
        assert split.facts["kept_test"] == "16" and any("16 rows stay in test" in remark for remark in remarks(split))
        assert make_split(manifest, name, seed=seed, folds=folds).digest == split.digest
    assert make_split(manifest, "main", seed=0).digest == first.digest
    assert make_split(manifest, "none", (0.9, 0.1, 0)).facts["kept_test"] == "16"


def test_unlocking_is_recorded(make_manifest: Make) -> None:
    manifest = make_manifest(patients(40, 2, 8))
    first = make_split(manifest, "main", seed=0)
    split = make_split(manifest, "other", seed=1, unlock="the old one;\nhad leaked")
    assert groups_in(split, "test") != groups_in(first, "test")
    (told,) = remarks(split)
    assert told.endswith("had leaked; the next split keeps in test what any split has there, the earlier ones as well as this")
    assert split.facts["unlock_test"] == "the old one, had leaked" and read_split(manifest, "other").digest == split.digest
    make_split(manifest, "other", seed=1, unlock="the old one;\nhad leaked")
    moved = len(groups_in(first, "test") - groups_in(split, "test")) * 2
    for path in (first.path, split.path):
        made, line = read_ledger(ledger_path(path))
        assert made["event"] == "made"
        assert (line["event"], line["reason"], line["rows"], line["new_split"]) == ("unlock", "the old one; had leaked", moved, "other.csv")
    with pytest.raises(ManifestError, match=r"--unlock-test: the reason is blank; say why"):
        make_split(manifest, "third", unlock=" ")
    assert groups_in(make_split(manifest, "third"), "test") == groups_in(first, "test") | groups_in(split, "test")


def test_unlocking_is_recorded_by_every_split_that_tests_on_the_rows(manifest: Manifest, tmp_path: Path) -> None:
    """a tests on x/1 and x/3, b on x/2 (of the patient of x/1) alone, c on nothing."""
    table = tmp_path / "given.csv"
    paths = {}
    for name, rows in {"a": "x/1,test\nx/3,test\n", "b": "x/2,test\n", "c": "x/1,train\nx/3,val\n"}.items():
        table.write_text("sample,split\n" + rows)
        paths[name] = given_split(manifest, name, table, unlock="agreed" if name == "c" else None)[0].path
    found = {name: list(read_ledger(ledger_path(path)))[1:] for name, path in paths.items()}
    told = {name: [(line["event"], line["rows"], line["first"], line["new_split"]) for line in lines] for name, lines in found.items()}
    assert told == {
        "a": [("unlock", 2, "x/1", "c.csv")],
        "b": [("unlock", 1, "x/1", "c.csv")],
        "c": [("unlock", 2, "x/1", "c.csv")],
    }
    table.write_text("sample,split\nx/1,val\nx/3,test\n")
    with pytest.raises(ManifestError, match=r"1 row\(s\) of test of .*a.csv and 1 more, or of their groups, would be moved"):
        given_split(manifest, "d", table)


def test_unlocking_nothing_is_no_event(make_manifest: Make) -> None:
    split = make_split(make_manifest(patients(10, 1, 0)), "main", unlock="just in case")
    assert "unlock_test" not in split.facts and [line["event"] for line in read_ledger(ledger_path(split.path))] == ["made"]


def test_a_table_may_not_move_a_test_row(manifest: Manifest, tmp_path: Path) -> None:
    taken(manifest, tmp_path, "sample,split\nx/1,test\nx/3,train\n")
    table = tmp_path / "moved.csv"
    table.write_text("sample,split\nx/1,train\nx/3,test\n")
    message = (
        r"moved.csv: 1 row\(s\) of test of .*given.csv, or of their groups, would be moved to train or val \(first: x/1\); .*--unlock-test"
    )
    with pytest.raises(ManifestError, match=message):
        given_split(manifest, "new", table)
    table.write_text("sample,split\nx/2,val\nx/3,train\n")  # of the patient of x/1
    with pytest.raises(ManifestError, match=r"1 row\(s\) of test .*first: x/2"):
        given_split(manifest, "new", table)
    assert not (manifest.folder / "splits/new.csv").exists()
    split, _ = given_split(manifest, "new", table, unlock="agreed")
    assert split.facts["unlock_test"] == "agreed" and [line["event"] for line in read_ledger(ledger_path(split.path))] == ["made", "unlock"]


def versions(tmp_path: Path, labels: LabelSet, later: list[dict[str, Any]]) -> tuple[Split, Manifest]:
    """v1 with 20 patients and a split, and v2 with the rows given."""
    rows = [row | {"image_sha256": f"{place:064x}"} for place, row in enumerate(patients(20, 1, 0))]
    dataset = Dataset(name="set", labels=labels)
    old = write_manifest(tmp_path / "set/v1", table_of(rows, labels), dataset)
    return make_split(old, "main"), write_manifest(tmp_path / "set/v2", table_of(later, labels), dataset)


def test_test_rows_stay_in_the_next_version(tmp_path: Path, labels: LabelSet) -> None:
    """v2: the same images under new names, the first 3 of them joined by a new photograph of that patient, and 20 new patients."""
    same = [{"sample_id": f"n{p:02d}", "group_id": f"g{p:02d}", "image_sha256": f"{p:064x}"} for p in range(20)]
    again = [{"sample_id": f"m{p:02d}", "group_id": f"g{p:02d}", "image_sha256": f"{100 + p:064x}"} for p in range(20)]
    new = [{"sample_id": f"p{p:03d}/9", "group_id": f"p{p:03d}", "image_sha256": f"{200 + p:064x}"} for p in range(20)]
    first, manifest = versions(tmp_path, labels, [*same, *again, *new])
    split = make_split(manifest, "main", seed=5)
    part_of = dict(zip(split.frame["sample_id"], split.frame["split"], strict=True))
    for sample, part in zip(first.frame["sample_id"], first.frame["split"], strict=True):
        number = int(sample[1:4])
        assert (part_of[f"n{number:02d}"] == "test") == (part_of[f"m{number:02d}"] == "test") == (part == "test")
    assert {part_of[f"p{p:03d}/9"] for p in range(20)} == {"train", "val", "test"}
    assert int(split.facts["kept_test"]) == 8


@pytest.mark.parametrize("seed", range(4))
def test_an_unlabelled_test_image_still_holds_its_patient(tmp_path: Path, labels: LabelSet, seed: int) -> None:
    """v2: every image of v1 has lost its mask, and each patient has a new, labelled one; so have 20 new patients."""
    old = [row | UNLABELLED | {"image_sha256": f"{p:064x}"} for p, row in enumerate(patients(20, 1, 0))]
    new = [row | {"sample_id": f"n{p:03d}", "image_sha256": f"{100 + p:064x}"} for p, row in enumerate(patients(40, 1, 0))]
    first, manifest = versions(tmp_path, labels, [*old, *new])
    split = make_split(manifest, "main", seed=seed)
    part_of = dict(zip(split.frame["group_id"], split.frame["split"], strict=True))
    tested = groups_in(first, "test")
    assert len(tested) == 4 and {part_of[group] for group in tested} == {"test"} and split.facts["kept_test"] == "4"
    assert "test" not in {part_of[group] for group in groups_in(first, "train") | groups_in(first, "val")}


def test_a_table_may_not_move_the_patient_of_an_unlabelled_test_image(tmp_path: Path, labels: LabelSet) -> None:
    old = [row | UNLABELLED | {"image_sha256": f"{p:064x}"} for p, row in enumerate(patients(20, 1, 0))]
    new = [row | {"sample_id": f"n{p:03d}", "image_sha256": f"{100 + p:064x}"} for p, row in enumerate(patients(20, 1, 0))]
    first, manifest = versions(tmp_path, labels, [*old, *new])
    tested = min(groups_in(first, "test"))
    table = tmp_path / "given.csv"
    table.write_text(f"sample,split\nn{tested[1:]},train\n")
    with pytest.raises(ManifestError, match=rf"given.csv: 1 row\(s\) of test of .*v1/splits/main.csv, .*\(first: n{tested[1:]}\)"):
        given_split(manifest, "main", table)


def test_an_image_saved_anew_is_known_by_its_name(tmp_path: Path, labels: LabelSet) -> None:
    later = [row | {"image_sha256": f"{500 + place:064x}"} for place, row in enumerate(patients(20, 1, 0))]
    first, manifest = versions(tmp_path, labels, later)
    assert groups_in(make_split(manifest, "b", seed=7), "test") == groups_in(first, "test")


def test_a_name_that_now_means_another_image_is_no_lock(tmp_path: Path, labels: LabelSet) -> None:
    """v2 counts its samples the other way round: the images decide, not the names."""
    later = [row | {"image_sha256": f"{19 - place:064x}"} for place, row in enumerate(patients(20, 1, 0))]
    first, manifest = versions(tmp_path, labels, later)
    kept = {f"p{19 - int(group[1:]):03d}" for group in groups_in(first, "test")}
    assert groups_in(make_split(manifest, "b", seed=7), "test") == kept


def test_a_broken_earlier_split_is_told(make_manifest: Make) -> None:
    manifest = make_manifest(patients(10, 1, 0))
    path = make_split(manifest, "main").path
    path.write_text("sample_id,split\n")
    with pytest.raises(ManifestError, match=r"main.csv: the first line must begin with"):
        make_split(manifest, "other")


def edit(path: Path) -> None:
    """Move one test row to train by hand."""
    path.write_text(path.read_text().replace(",test,", ",train,", 1))


EDITED = r"main.csv: the split was edited by hand after it was made; restore it, take the edited table over under a new name"


def test_an_edited_split_is_refused(make_manifest: Make) -> None:
    manifest = make_manifest(patients(20, 1, 0))
    path = make_split(manifest, "main").path
    whole = path.read_text()
    edit(path)
    with pytest.raises(ManifestError, match=EDITED):
        read_split(manifest, "main")
    with pytest.raises(ManifestError, match=EDITED):  # nor does it lock: the row would be free
        make_split(manifest, "other")
    path.write_text("; ".join(fact for fact in whole.split("; ") if not fact.startswith("table_sha256")))
    with pytest.raises(ManifestError, match=r"main.csv: the first line states no table_sha256: made by an older medseg, or"):
        read_split(manifest, "main")


def test_an_edited_split_is_taken_over(make_manifest: Make, tmp_path: Path) -> None:
    """Its comment is no header, its folds are kept, and errors count the lines of the file."""
    manifest = make_manifest(patients(20, 1, 0))
    split = make_split(manifest, "cv", folds=2)
    table = tmp_path / "edited.csv"
    first, _, rows = split.path.read_text().partition("\n")
    table.write_text(f"{first}\n" + rows.replace(",train,0\n", ",train,1\n", 1))
    taken_over, warnings = given_split(manifest, "again", table)
    assert taken_over.ids("test") == split.ids("test") and not warnings and taken_over.folds == 2
    assert (taken_over.frame["fold"] != split.frame["fold"]).sum() == 1
    table.write_text(f"{first}\n" + rows.replace("p001/0", "p000/0"))
    with pytest.raises(ManifestError, match=r"edited.csv row 4 \(p000/0\): the sample 'p000/0' is listed twice"):
        given_split(manifest, "third", table)


def test_a_foreign_column_of_folds_is_not_ours(manifest: Manifest, tmp_path: Path) -> None:
    assert taken(manifest, tmp_path, "sample,split,fold\nx/1,train,A\nx/3,test,B\n")[0].folds == 0


def test_a_row_is_named_by_its_line_where_rows_are_left_out(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"pairs.csv row 4 \(x/1\): group_id is blank"):
        taken(manifest, tmp_path, "sample,group,split\nx/4,g,val\nx/9,g,val\nx/1,,val\n")


@pytest.mark.parametrize("column", ["split", "fold"])
def test_finer_groups_of_a_forged_split_tear_no_patient(make_manifest: Make, column: str) -> None:
    manifest = make_manifest(patients(10, 2, 0))
    split = make_split(manifest, "main", folds=2)
    first = split.frame.index[split.frame["split"] == "train"][0]
    patient = split.frame.loc[first, "group_id"]
    frame = split.frame.copy()
    frame.loc[first, "group_id"] = "finer"
    frame.loc[first, ["split", "fold"]] = ["test", ""] if column == "split" else ["train", str(1 - int(frame.loc[first, "fold"]))]
    where = "splits: train and test" if column == "split" else "folds"
    table = frame.to_csv(index=False)
    head = split.path.read_text().partition("\n")[0].replace(split.facts["table_sha256"], hashlib.sha256(table.encode()).hexdigest())
    split.path.write_text(f"{head}\n{table}")
    with pytest.raises(ManifestError, match=f"the group '{patient}' is in two {where}"):
        read_split(manifest, "main")
    with pytest.raises(ManifestError, match=f"the group '{patient}' is in two {where}"):
        write_split(manifest, "other", frame, {})
    assert not (manifest.folder / "splits/other.csv").exists()


# --- a removed split


REMOVED = r"main.csv: the split main was removed, but its ledger says that its 4 test rows were fixed; restore it .*--unlock-test REASON"


def test_removing_a_split_does_not_unlock_its_test_rows(make_manifest: Make, tmp_path: Path) -> None:
    manifest = make_manifest(patients(20, 1, 0))
    first = make_split(manifest, "main", seed=0)
    first.path.unlink()
    table = tmp_path / "given.csv"
    table.write_text("sample,split\np000/0,train\n")
    for name in ("main", "other"):
        with pytest.raises(ManifestError, match=REMOVED):
            make_split(manifest, name, seed=1)
        with pytest.raises(ManifestError, match=REMOVED):
            given_split(manifest, name, table)
    assert not list((manifest.folder / "splits").glob("*.csv"))
    assert make_split(manifest, "main", seed=0).digest == first.digest  # made again as it was, it is there again


def test_a_split_may_be_renamed(make_manifest: Make, tmp_path: Path) -> None:
    """Then a later one may test on more rows too."""
    manifest = make_manifest(patients(20, 1, 0))
    split = make_split(manifest, "main", seed=0)
    split.path.rename(split.path.with_name("official.csv"))
    table = tmp_path / "given.csv"
    table.write_text("sample,split\n" + "".join(f"{sample},test\n" for sample in split.ids("test") + split.ids("val")))
    assert len(given_split(manifest, "other", table)[0].ids("test")) == 6


@pytest.mark.parametrize("name", ["main", "other"])
def test_unlocking_a_removed_split_is_recorded_once(make_manifest: Make, name: str) -> None:
    manifest = make_manifest(patients(20, 1, 0))
    first = make_split(manifest, "main", seed=0)
    first.path.unlink()
    split = make_split(manifest, name, seed=1, unlock="lost; really")
    assert split.facts["unlock_test"] == "lost, really" and split.ids("test") != first.ids("test")
    assert make_split(manifest, name, seed=1, unlock="lost; really").digest == split.digest
    for path in {first.path, split.path}:
        (line,) = (line for line in read_ledger(ledger_path(path)) if line["event"] == "unlock")
        assert (line["reason"], line["rows"], line["removed"], line["new_split"]) == ("lost; really", 4, "main.csv", f"{name}.csv")
    assert make_split(manifest, "third", seed=2).ids("test") == split.ids("test")  # the removed one is settled, the new one locks
    split.path.unlink()
    (manifest.folder / "splits/third.csv").unlink()
    with pytest.raises(ManifestError, match=r"was removed, but its ledger says that its 4 test rows were fixed"):
        make_split(manifest, "fourth", seed=3)


def test_a_split_removed_from_an_earlier_version_is_told(tmp_path: Path, labels: LabelSet) -> None:
    first, manifest = versions(tmp_path, labels, patients(20, 1, 0))
    first.path.unlink()
    with pytest.raises(ManifestError, match=r"v1/splits/main.csv: the split main was removed"):
        make_split(manifest, "main", seed=5)


def test_a_removed_split_without_test_rows_fixed_none(make_manifest: Make) -> None:
    manifest = make_manifest(patients(20, 1, 0))
    make_split(manifest, "main", (0.8, 0.2, 0)).path.unlink()
    assert len(make_split(manifest, "main").ids("test")) == 4


def test_describe_sets_the_balance_beside_what_was_asked(make_manifest: Make) -> None:
    manifest = make_manifest(patients(20, 2, 10))
    table = describe(manifest, make_split(manifest, "a", (0.5, 0.25, 0.25), folds=3)).set_index("split")
    assert list(table.index) == ["train", "test", "fold 0", "fold 1", "fold 2"]
    assert table["asked"].tolist() == [0.75, 0.25, 0.25, 0.25, 0.25]
    assert table.loc["train", ["images", "groups", "share", "pixels_tongue"]].tolist() == [30, 15, 0.75, 300]
    folds = table.loc[["fold 0", "fold 1", "fold 2"], ["images", "pixels_coating"]]
    assert folds.sum().tolist() == table.loc["train", ["images", "pixels_coating"]].tolist()


def test_an_unlock_is_told_to_every_split_that_tests_on_the_row(make_manifest: Make) -> None:
    manifest = make_manifest(patients(40, 2, 8))
    first = make_split(manifest, "main", seed=0)
    second = make_split(manifest, "again", seed=3)  # the same test rows, kept by the lock
    third = make_split(manifest, "other", seed=1, unlock="leaked")
    moved = len(groups_in(first, "test") - groups_in(third, "test")) * 2
    for split in (first, second, third):
        (line,) = [line for line in read_ledger(ledger_path(split.path)) if line["event"] == "unlock"]
        assert (line["rows"], line["new_split"]) == (moved, "other.csv") and moved > 0


def test_the_table_of_a_split_has_a_line_a_class_and_fits_a_terminal(make_manifest: Make) -> None:
    manifest = make_manifest(patients(40, 2, 8))
    split = make_split(manifest, "main", seed=0, folds=5)
    lines = summary(manifest, split).splitlines()
    assert max(map(len, lines)) <= 100
    table = describe(manifest, split)
    for name in manifest.labels.foreground:
        told = [line for line in lines if line.startswith(f"{name} ")]
        assert told and str(int(table[f"images_{name}"].iloc[0])) in told[0].split()


@pytest.mark.parametrize("folds", [0, 10])
def test_thirty_classes_are_read_at_100_columns(tmp_path: Path, folds: int) -> None:
    labels = LabelSet.of(*(f"organ number {place:02d}" for place in range(30)))
    rows = [{"px_background": 570} | dict.fromkeys((f"px_{name}" for name in labels.foreground), 1) for _ in range(50)]
    rows[0] |= {"px_background": 571, "px_organ number 07": 0}
    manifest = write_manifest(tmp_path / "v1", table_of(rows, labels), Dataset(name="set", labels=labels))
    split = make_split(manifest, "a", folds=folds)
    lines = summary(manifest, split).splitlines()
    assert max(map(len, lines)) <= 100
    parts = [f"fold {place}" for place in range(10)] if folds else ["val"]
    assert all(any(line.split()[: len(part.split())] == part.split() for line in lines) for part in ("train", "test", *parts))
    blocks = 3 if folds else 1
    assert (
        sum(line.startswith("organ number 07 ") for line in lines) == blocks
        and sum(line.startswith("organ") for line in lines) == 30 * blocks
    )
    found = {part: (split.frame["split"] == part).sum() for part in ("train", "val", "test")}
    holder = split.frame.set_index("sample_id").loc["s000", "split"]
    if not folds:
        (line,) = (line for line in lines if line.startswith("organ number 07 "))
        cells = line.removeprefix("organ number 07").split()
        assert [int(cells[place]) for place in (0, 3, 6)] == [count - (part == holder) for part, count in found.items()]
        other = next(line for line in lines if line.startswith("organ number 08 "))
        assert other.removeprefix("organ number 08").split()[1:3] == ["0.167", "%"]  # 1 of 600 pixels


def test_a_part_without_any_pixel_has_no_share(manifest: Manifest, tmp_path: Path) -> None:
    table = tmp_path / "given.csv"
    table.write_text("sample,split\nx/1,train\nx/2,train\nx/3,test\n")
    assert "nan" not in summary(manifest, given_split(manifest, "given", table)[0]).lower()
