"""Splits: grouped (never one patient on two sides), stratified by the classes an image shows, seeded; or a given table.

Stratification is the greedy iterative one of Sechidis et al. (ECML PKDD 2011, algorithm 1), on whole groups: the rarest class
first, each of its groups to the part that still lacks most of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from medseg.errors import ManifestError
from medseg.files import posix, sha256_file
from medseg.images import IMAGE_SUFFIXES
from medseg.manifest.schema import PIXEL_PREFIX, SPLIT_NAMES, Manifest, Split
from medseg.manifest.table import check_assignment, read_csv, split_path, write_split
from medseg.seeding import numpy_generator

SAMPLE_KEYS = ("sample_id", "sample", "image")
GROUP_KEYS = ("group_id", "group")
FORMS = 2  # of a path in `_ends`


# --- a new split


def make_split(manifest: Manifest, name: str, ratios: Sequence[float] = (0.7, 0.1, 0.2), seed: int = 0) -> Split:
    """Write splits/<name>.csv with the labelled images in train, val and test by `ratios` (shares of images, adding up to 1).

    Raises ManifestError where a part with a ratio over 0 would have no image, or another split of that name exists.
    """
    path = split_path(manifest, name)
    _check_ratios(ratios)
    labelled = manifest.frame[manifest.frame["mask"].notna()]
    if labelled.empty:
        raise ManifestError(
            path, f"no labelled image among the {len(manifest)} of {manifest.folder}", "annotate some and import them again"
        )
    groups, shown_GK, images_G = _group_table(labelled, manifest)
    parts = [part for part, ratio in zip(SPLIT_NAMES, ratios, strict=True) if ratio > 0]
    if len(groups) < len(parts):
        rule = f"{len(groups)} group(s) cannot fill {', '.join(parts)}: a split with no image"
        raise ManifestError(path, rule, "add groups, or set a ratio to 0")
    shares_P = np.array([ratio for ratio in ratios if ratio > 0])
    part_G = stratify(shown_GK, images_G, shares_P, numpy_generator(seed, "split"))
    part_of = dict(zip(groups, (parts[index] for index in part_G), strict=True))
    frame = labelled[["sample_id", "group_id"]].assign(split=labelled["group_id"].map(part_of))
    return write_split(manifest, name, frame, {"seed": seed, "ratios": "/".join(f"{ratio:g}" for ratio in ratios)})


def _check_ratios(ratios: Sequence[float]) -> None:
    good = len(ratios) == len(SPLIT_NAMES) and all(0 <= ratio <= 1 for ratio in ratios) and abs(sum(ratios) - 1) < 1e-6
    if not good:
        rule = f"three shares for {', '.join(SPLIT_NAMES)} that add up to 1, got {list(ratios)}"
        raise ManifestError("--ratios", rule, "such as 0.7 0.1 0.2")


def _group_table(labelled: pd.DataFrame, manifest: Manifest) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Groups by name, their images that show each foreground class (G, K - 1), their images (G)."""
    columns = [PIXEL_PREFIX + name for name in manifest.labels.foreground]
    shown = (labelled[columns] > 0).astype("int64").groupby(labelled["group_id"]).sum().sort_index()
    images = labelled.groupby("group_id").size().sort_index()
    return [str(group) for group in shown.index], shown.to_numpy(), images.to_numpy()


def stratify(shown_GK: np.ndarray, images_G: np.ndarray, shares_P: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """The part of each group: parts hold `shares_P` of the images and of the images that show each class; none is empty.

    The rarest class is dealt first and therefore best: each part is within one group of its share. Groups of many images go
    first, and small ones even out; ties are broken by `draw`.
    """
    part_G = np.full(len(images_G), -1)
    lacking_PK = shares_P[:, None] * shown_GK.sum(axis=0)
    lacking_P = shares_P * images_G.sum()
    shuffled = draw.permutation(len(images_G))
    order = shuffled[np.argsort(-images_G[shuffled], kind="stable")]
    while (free := order[part_G[order] < 0]).size:
        rarest = _rarest_class(shown_GK[free])
        for group in free if rarest is None else free[shown_GK[free, rarest] > 0]:
            lacking = lacking_P if rarest is None else lacking_PK[:, rarest]
            part = np.lexsort((draw.random(len(shares_P)), lacking_P.round(9), lacking.round(9)))[-1]
            part_G[group] = part
            lacking_PK[part] -= shown_GK[group]
            lacking_P[part] -= images_G[group]
    return _none_empty(part_G, images_G, len(shares_P))


def _rarest_class(shown_GK: np.ndarray) -> int | None:
    """The class that the fewest groups show, among those shown at all."""
    groups_K = (shown_GK > 0).sum(axis=0)
    return int(np.where(groups_K > 0, groups_K, np.iinfo(np.int64).max).argmin()) if groups_K.any() else None


def _none_empty(part_G: np.ndarray, images_G: np.ndarray, parts: int) -> np.ndarray:
    """Move the smallest group of the part with most groups into a part that got none (few groups, small share)."""
    for part in range(parts):
        if not (part_G == part).any():
            fullest = np.bincount(part_G, minlength=parts).argmax()
            members = np.flatnonzero(part_G == fullest)
            part_G[members[images_G[members].argmin()]] = part
    return part_G


# --- a given split


def given_split(manifest: Manifest, name: str, table: Path) -> tuple[Split, list[str]]:
    """Take over a CSV with a split per sample or image as splits/<name>.csv; returns the split and warnings.

    Its columns: one of sample_id, sample, image (a path, matched by its end), `split` (train, val, test) and perhaps group or
    group_id, which then replaces the manifest's. Raises ManifestError naming the row, the rule and the way out.
    """
    raw = _given_table(table)
    key = next((column for column in SAMPLE_KEYS if column in raw.columns), None)
    if key is None or "split" not in raw.columns:
        rule = f"needs a column of {', '.join(SAMPLE_KEYS)} and the column split, got {list(raw.columns)}"
        raise ManifestError(table, rule, "rename the columns")
    _check_parts(raw, key, table)
    sample = _match_images(raw[key], manifest, table) if key == "image" else _match_samples(raw[key], manifest)
    if sample.isna().all():
        rule = f"none of its {len(raw)} rows names a sample of {manifest.folder} (first: {raw[key].iloc[0]!r})"
        raise ManifestError(table, rule, f"its {key} column must hold {'image paths' if key == 'image' else 'sample ids'} of the manifest")
    _check_once(sample, raw[key], table)
    rows = pd.DataFrame({"sample_id": sample, "group_id": _groups(raw, sample, manifest), "split": raw["split"]})
    labelled = set(manifest.frame.loc[manifest.frame["mask"].notna(), "sample_id"])
    kept = rows[rows["sample_id"].isin(labelled)]
    warnings = _warnings(raw[key], sample, kept, labelled)
    if kept.empty:
        raise ManifestError(table, "every image it lists is unlabelled: a split with no image", "annotate some and import them again")
    check_assignment(kept, table, manifest, first_line=2)
    _check_patients(kept, manifest, table)
    return write_split(manifest, name, kept, {"from": table.name, "from_sha256": sha256_file(table)}), warnings


def _given_table(table: Path) -> pd.DataFrame:
    if not table.is_file():
        raise ManifestError(table, "there is no such file", "check --from")
    raw = read_csv(table.read_bytes(), table)
    if raw.empty:
        raise ManifestError(table, "the table has no row", "list each image with its split")
    return raw


def _check_parts(raw: pd.DataFrame, key: str, table: Path) -> None:
    unknown = ~raw["split"].isin(SPLIT_NAMES)
    if unknown.any():
        position = int(unknown.to_numpy().argmax())
        where = f"{table} row {position + 2} ({raw[key].iloc[position]})"
        raise ManifestError(where, f"unknown split {raw['split'].iloc[position]!r}", f"use one of {', '.join(SPLIT_NAMES)}")


def _match_samples(keys: pd.Series, manifest: Manifest) -> pd.Series:
    """The sample each key names, missing where the manifest has none."""
    turned = keys.map(posix)
    return turned.where(turned.isin(manifest.frame["sample_id"]))


def _match_images(keys: pd.Series, manifest: Manifest, table: Path) -> pd.Series:
    """The sample whose image path ends with the whole key, or else whose whole image path the key ends with; suffixes may differ."""
    by_end: dict[str, set[str]] = {}
    by_path: dict[str, set[str]] = {}
    for sample, image in zip(manifest.frame["sample_id"], manifest.frame["image"], strict=True):
        for end in _ends(str(image)):
            by_end.setdefault(end, set()).add(str(sample))
        for path in _ends(str(image))[:FORMS]:
            by_path.setdefault(path, set()).add(str(sample))
    found = []
    for position, key in enumerate(keys):
        ends = _ends(str(key))
        samples = next((by_end[whole] for whole in ends[:FORMS] if whole in by_end), None) or next(
            (by_path[end] for end in ends if end in by_path), set()
        )
        if len(samples) > 1:
            rule = f"{key!r} fits several samples: {', '.join(sorted(samples)[:3])}"
            raise ManifestError(f"{table} row {position + 2}", rule, "write the image path as the manifest does")
        found.append(next(iter(samples), None))
    return pd.Series(found, index=keys.index, dtype="str")


def _ends(image: str) -> list[str]:
    """A path and its ends, longest first, each in FORMS ways: with the suffix of an image, and without it.

    >>> _ends("a/b.1.png")
    ['a/b.1.png', 'a/b.1', 'b.1.png', 'b.1']
    """
    parts = [part for part in PurePosixPath(posix(image)).parts if part not in ("/", ".", "..")]
    ends = ["/".join(parts[start:]) for start in range(len(parts))]
    return [form for end in ends for form in (end, _without_image_suffix(end))]


def _without_image_suffix(path: str) -> str:
    return path[: -len(PurePosixPath(path).suffix)] if path.lower().endswith(IMAGE_SUFFIXES) else path


def _check_once(sample: pd.Series, keys: pd.Series, table: Path) -> None:
    repeated = sample.notna() & sample.duplicated()
    if repeated.any():
        position = int(repeated.to_numpy().argmax())
        rule = f"the sample {sample.iloc[position]!r} is listed twice"
        raise ManifestError(f"{table} row {position + 2} ({keys.iloc[position]})", rule, "keep one of the rows")


def _groups(raw: pd.DataFrame, sample: pd.Series, manifest: Manifest) -> pd.Series:
    column = next((column for column in GROUP_KEYS if column in raw.columns), None)
    if column is not None:
        return raw[column]
    return sample.map(manifest.frame.set_index("sample_id")["group_id"])


def _check_patients(kept: pd.DataFrame, manifest: Manifest, table: Path) -> None:
    """The table's own groups may be finer than the manifest's: a group of the manifest must not be torn either."""
    known = kept["sample_id"].map(manifest.frame.set_index("sample_id")["group_id"])
    check_assignment(kept.assign(group_id=known), table, manifest, first_line=2)


def _warnings(keys: pd.Series, sample: pd.Series, kept: pd.DataFrame, labelled: set[str]) -> list[str]:
    unknown = keys[sample.isna()].tolist()
    plain = sample[sample.notna() & ~sample.isin(labelled)].tolist()
    unlisted = sorted(labelled - set(kept["sample_id"]))
    told = (
        (unknown, "listed, but not in the manifest"),
        (plain, "listed, but unlabelled: left out"),
        (unlisted, "labelled, but not listed: in no split"),
    )
    return [f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" for names, what in told if names]


# --- looking at a split


def describe(manifest: Manifest, split: Split) -> pd.DataFrame:
    """One row a part: images, groups, and for each class the images that show it and its share of all counted pixels (0 to 1)."""
    joined = split.frame[["sample_id", "group_id", "split"]].merge(manifest.frame.drop(columns="group_id"), on="sample_id")
    present = [part for part in SPLIT_NAMES if (joined["split"] == part).any()]
    return pd.DataFrame([_described(part, joined[joined["split"] == part], manifest) for part in present])


def _described(part: str, rows: pd.DataFrame, manifest: Manifest) -> dict[str, object]:
    pixels = {name: rows[PIXEL_PREFIX + name].fillna(0).astype("int64") for name in manifest.labels.names}
    counted = sum(int(column.sum()) for column in pixels.values())
    line: dict[str, object] = {"split": part, "images": len(rows), "groups": rows["group_id"].nunique()}
    for name in manifest.labels.foreground:
        line[f"images_{name}"] = int((pixels[name] > 0).sum())
        line[f"share_{name}"] = int(pixels[name].sum()) / counted if counted else float("nan")
    return line
