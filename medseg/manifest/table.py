"""manifest.csv, dataset.yaml and splits/<name>.csv: read with every rule checked, written once and never changed.

A version is immutable: writing the same bytes again is nothing, writing others is an error. Each error names the line as an
editor counts it (the header is line 1). Checks run on whole columns, so that a million rows are a matter of seconds.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import ValidationError

from medseg.errors import ManifestError
from medseg.files import leaves_root, write_bytes, write_text
from medseg.labels import LabelSet
from medseg.manifest.imagefiles import FIRST_CHANNEL
from medseg.manifest.ledger import record_made
from medseg.manifest.schema import (
    BAD_SAMPLE_ID,
    FLAG_PREFIX,
    HISTORY,
    PIXEL_PREFIX,
    SPACINGS,
    SPLIT_COLUMNS,
    SPLIT_NAMES,
    Dataset,
    Manifest,
    Split,
    columns_of,
)  # fmt: skip
from medseg.types import Row
from medseg.yamlio import dump_yaml, first_problem, read_yaml

MANIFEST_FILE, DATASET_FILE, SPLITS_FOLDER = "manifest.csv", "dataset.yaml", "splits"
SPLIT_HEADER = "# medseg-split 1"
_SIZES = ("height_px", "width_px")
_HEX = r"[0-9a-f]{64}"
_MAY_LEAVE = r"(?:^/|^\\|^[A-Za-z]:|\.\.)"
_NAME = r"[A-Za-z0-9][\w.-]*"


# --- dataset.yaml


def read_dataset(path: Path) -> Dataset:
    """Read dataset.yaml; ManifestError for a missing file, an unknown key, or labels that contradict each other."""
    content = read_yaml(path, ManifestError)
    try:
        return Dataset.model_validate(content)
    except ValidationError as cause:
        key, message = first_problem(cause)
        raise ManifestError(path, f"{key}: {message}", "correct that key") from None


def dataset_text(dataset: Dataset) -> str:
    """dataset.yaml as text, in one canonical form."""
    content = dataset.model_dump(mode="json")
    content["labels"]["classes"] = dict(dataset.labels.classes)  # JSON mode turns integer keys into strings
    return dump_yaml(content)


# --- manifest.csv


def manifest_folder(path: Path) -> Path:
    """The folder of a manifest that the user names by its folder or by its manifest.csv."""
    return path.parent if path.suffix == ".csv" else path


def digest_of(folder: Path) -> str:
    """SHA-256 of what makes a version: manifest.csv and dataset.yaml."""
    return _digest(folder, (folder / MANIFEST_FILE).read_bytes())


def _digest(folder: Path, table: bytes) -> str:
    return hashlib.sha256(table + (folder / DATASET_FILE).read_bytes()).hexdigest()


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest, given its folder or its manifest.csv; ManifestError names file, row, rule and way out."""
    folder = manifest_folder(path)
    table = folder / MANIFEST_FILE
    if not table.is_file():
        raise ManifestError(table, "there is no such file", "check the path, or make it by `medseg manifest import`")
    dataset = read_dataset(folder / DATASET_FILE)
    content = table.read_bytes()
    return Manifest(folder, parse_manifest(content, table, dataset.labels), dataset, _digest(folder, content))


def parse_manifest(content: bytes, table: Path, labels: LabelSet) -> pd.DataFrame:
    """The checked, typed table of a manifest's bytes, sorted by sample id; its index keeps the line order of the file."""
    raw = read_csv(content, table)
    _check_columns(raw, table, labels)
    if raw.empty:
        raise ManifestError(table, "the manifest is empty: it has a header and no row", "import the images again")
    _check_names(raw, table)
    _check_numbers(raw, table, labels)
    _check_labelled(raw, table, labels)
    frame = _typed(raw, labels)
    _check_pixels(frame, table, labels)
    return frame.sort_values("sample_id", kind="stable")


def read_csv(content: bytes, table: Path) -> pd.DataFrame:
    """Every cell as text, a blank one as ''; blank lines are kept, so that line numbers hold."""
    content = content.rstrip()
    frame = _read_plain(content)
    return _read_any(content, table) if frame is None else frame


def _read_plain(content: bytes) -> pd.DataFrame | None:
    """The table by Arrow, five times as fast as pandas' own reader; None where the two could differ (quotes, ragged or blank lines)."""
    try:
        import pyarrow as pa  # type: ignore[import-untyped]
        from pyarrow import csv
    except ImportError:
        return None
    names = next(io.BytesIO(content), b"").decode("utf-8-sig", errors="replace").strip().split(",")
    if any(sign in content for sign in (b'"', b"\0")) or len(names) < 2 or len(set(names)) < len(names) or "" in names:
        return None
    text = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.large_string()), strings_can_be_null=False, null_values=[])
    lines = csv.ParseOptions(quote_char=False, ignore_empty_lines=False)
    try:
        return csv.read_csv(pa.py_buffer(content), convert_options=text, parse_options=lines).to_pandas()
    except (pa.ArrowInvalid, pa.ArrowKeyError):
        return None  # pandas knows better words for what is wrong


def _read_any(content: bytes, table: Path) -> pd.DataFrame:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # pandas only warns where a row is longer than the header
            frame = pd.read_csv(
                io.BytesIO(content), dtype=str, keep_default_na=False, skip_blank_lines=False, index_col=False,
                encoding="utf-8-sig",
            )  # fmt: skip
    except pd.errors.EmptyDataError:
        raise ManifestError(table, "the file is empty", "make it again") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning, UnicodeDecodeError, ValueError) as cause:
        raise ManifestError(table, f"not a readable CSV table ({' '.join(str(cause).split())})", "correct or make it again") from None
    return frame.fillna("")


def pixel_columns(labels: LabelSet) -> list[str]:
    """px_<class> for each class, background first."""
    return [PIXEL_PREFIX + name for name in labels.names]


def _check_columns(raw: pd.DataFrame, table: Path, labels: LabelSet) -> None:
    found = list(raw.columns)
    expected = columns_of(found, labels)
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    if missing or unknown:
        rule = f"the columns do not fit: missing {missing}, unknown {unknown}"
        raise ManifestError(table, rule, "px_<class> columns must be the classes of dataset.yaml; import again or correct the header")


def _refuse(bad: pd.Series, raw: pd.DataFrame, table: Path, rule: str, fix: str) -> None:
    """Raise ManifestError for the first row where `bad`; `rule` may show the row's cells as {column} or {column!r}."""
    if not bad.any():
        return
    position = int(bad.to_numpy().argmax())
    cells = {name: raw[name].iloc[position] for name in raw.columns}
    more = f" (and {int(bad.sum()) - 1} more rows)" if bad.sum() > 1 else ""
    where = f"{table} row {position + 2} ({cells['sample_id']})"
    shown = re.sub(r"\{([^{}!]+)(!r)?\}", lambda m: (repr if m[2] else str)(cells.get(m[1], m[0])), rule)
    raise ManifestError(where, shown + more, fix)


def _check_names(raw: pd.DataFrame, table: Path) -> None:
    _refuse(raw["sample_id"] == "", raw, table, "sample_id is blank", "give every row a name of its own")
    rule = "sample_id {sample_id!r} cannot name a file under an output folder"
    _refuse(raw["sample_id"].str.contains(BAD_SAMPLE_ID), raw, table, rule, "use a relative name without '..', '\\' or a drive letter")
    _refuse(raw["sample_id"].duplicated(), raw, table, "sample_id {sample_id!r} stands twice", "sample ids must be unique")
    _refuse(raw["group_id"].str.strip() == "", raw, table, "group_id is blank", "name the patient, or repeat the sample_id")
    _refuse(raw["image"] == "", raw, table, "image is blank", "give the path relative to the data root")
    for column in ("image", "mask", *({"instances"} & set(raw.columns))):
        rule = f"the {column} path {{{column}!r}} leaves its root"
        _refuse(
            _leaving(raw[column]),
            raw,
            table,
            rule,
            "paths are relative to the data root (or the manifest's folder) and stay under it",
        )


def _leaving(paths: pd.Series) -> pd.Series:
    """Where a path leaves its root; the slow rule is asked only about paths that might."""
    suspicious = set(paths[paths.str.contains(_MAY_LEAVE)])
    return paths.isin([path for path in suspicious if leaves_root(path)])


def _check_numbers(raw: pd.DataFrame, table: Path, labels: LabelSet) -> None:
    for column in _SIZES:
        rule = f"{column} must be a positive whole number, got {{{column}!r}}"
        _refuse(~raw[column].str.fullmatch(r"0*[1-9]\d{0,8}"), raw, table, rule, "write the upright size in pixels")
    rule = "depth_px must be blank or a positive whole number, got {depth_px!r}"
    _refuse(~raw["depth_px"].str.fullmatch(r"|0*[1-9]\d{0,8}"), raw, table, rule, "leave it blank for a photograph")
    if "channels" in raw.columns:
        named = raw["image"].str.contains(FIRST_CHANNEL) & raw["channels"].str.fullmatch(r"0*([2-9]|[1-9]\d{1,3})")
        rule = "channels must be blank, or over 1 for an image named <case>_0000, got {channels!r} for {image}"
        _refuse((raw["channels"] != "") & ~named, raw, table, rule, "leave it blank for an image of one file")
    for column in SPACINGS:
        given = raw[column] != ""
        number = pd.to_numeric(raw.loc[given, column], errors="coerce").reindex(raw.index)
        good = ~given | ((number > 0) & (number < float("inf")))
        _refuse(~good, raw, table, f"{column} must be blank or positive, got {{{column}!r}}", "write millimetres per pixel")
    for column in pixel_columns(labels):
        rule = f"{column} must be blank or a whole number of pixels, got {{{column}!r}}"
        _refuse(~raw[column].str.fullmatch(r"|\d{1,15}"), raw, table, rule, "import the masks again")


def _check_labelled(raw: pd.DataFrame, table: Path, labels: LabelSet) -> None:
    rule = "image_sha256 must be 64 hexadecimal digits, got {image_sha256!r}"
    _refuse(~raw["image_sha256"].str.fullmatch(_HEX), raw, table, rule, "import the images again")
    for column in raw.columns[raw.columns.str.startswith(FLAG_PREFIX)]:
        rule = f"{column} must be true, false or blank, got {{{column}!r}}"
        _refuse(~raw[column].isin(["", "true", "false"]), raw, table, rule, "correct the cell")
    if "mask_as_stored" in raw.columns:
        rule = "mask_as_stored must be true or blank, and true only for a row with a mask, got {mask_as_stored!r}"
        bad = (raw["mask_as_stored"] != "") & ((raw["mask_as_stored"] != "true") | (raw["mask"] == ""))
        _refuse(bad, raw, table, rule, "correct the cell")
    if "history" in raw.columns:
        rule = "history must be blank, or of a row with a mask steps such as drawn or predicted:RUN>corrected, got {history!r}"
        bad = (raw["history"] != "") & (~raw["history"].str.fullmatch(HISTORY) | (raw["mask"] == ""))
        _refuse(bad, raw, table, rule, "correct the cell")
    if {"instances", "instances_sha256"} <= set(raw.columns):
        bad = (raw["instances"] != "") & ~raw["instances_sha256"].str.fullmatch(_HEX)
        _refuse(bad, raw, table, "a row with instances needs instances_sha256, got {instances_sha256!r}", "import the set again")
    labelled = raw["mask"] != ""
    rule = "a row with a mask needs mask_sha256, got {mask_sha256!r}"
    _refuse(labelled & ~raw["mask_sha256"].str.fullmatch(_HEX), raw, table, rule, "import the masks again")
    _refuse(~labelled & (raw["mask_sha256"] != ""), raw, table, "mask_sha256 without a mask", "name the mask, or leave both blank")
    for column in pixel_columns(labels):
        _refuse(labelled & (raw[column] == ""), raw, table, f"a row with a mask needs {column}", "import the masks again")
        rule = f"{column} without a mask: an image without annotation has no pixel counts"
        _refuse(~labelled & (raw[column] != ""), raw, table, rule, "name the mask, or leave the counts blank")


def _typed(raw: pd.DataFrame, labels: LabelSet) -> pd.DataFrame:
    """Text as str, counts as Int64, spacing as float64; a blank cell is missing."""
    frame = raw[columns_of(list(raw.columns), labels)].mask(raw == "")
    for column in (*_SIZES, "depth_px", *({"channels"} & set(raw.columns)), *pixel_columns(labels)):
        frame[column] = _numbers(raw[column], "int64")
    for column in SPACINGS:
        frame[column] = _numbers(raw[column], "float64")
    return frame


def _numbers(text: pd.Series, kind: Literal["int64", "float64"]) -> pd.Series:
    """Checked numbers as Int64 or float64, blank cells missing. Each text is parsed once: sizes and spacings repeat."""
    codes, texts = pd.factorize(text)
    blank = np.array([cell == "" for cell in texts], bool)[codes]
    if kind == "float64":
        return pd.Series(np.array([float(cell or "nan") for cell in texts], kind)[codes], index=text.index)
    return pd.Series(pd.arrays.IntegerArray(np.array([int(cell or 0) for cell in texts], kind)[codes], blank), index=text.index)


def _check_pixels(frame: pd.DataFrame, table: Path, labels: LabelSet) -> None:
    """The classes may cover less than the image (the rest is ignored), never more."""
    area = frame["height_px"] * frame["width_px"] * frame["depth_px"].fillna(1)
    over = (frame[pixel_columns(labels)].sum(axis=1) > area).fillna(False)
    rule = "the px_ columns add up to more pixels than {height_px} x {width_px}"
    _refuse(over, frame, table, rule, "import the masks again")


def manifest_bytes(frame: pd.DataFrame, labels: LabelSet) -> bytes:
    """manifest.csv as bytes: sorted by sample id, whole numbers without a point, '\\n' line ends."""
    ordered = frame[columns_of(list(frame.columns), labels)].sort_values("sample_id", kind="stable")
    return ordered.to_csv(index=False, lineterminator="\n").encode()


def check_version(folder: Path, frame: pd.DataFrame, dataset: Dataset) -> bytes:
    """The manifest's bytes, after checking them and that no other content stands in `folder`. Writes nothing."""
    content = manifest_bytes(frame, dataset.labels)
    parse_manifest(content, folder / MANIFEST_FILE, dataset.labels)
    _refuse_another(folder, content, dataset)
    return content


def _refuse_another(folder: Path, content: bytes, dataset: Dataset) -> None:
    table = folder / MANIFEST_FILE
    if (folder / DATASET_FILE).exists() and read_dataset(folder / DATASET_FILE) != dataset:
        raise ManifestError(folder / DATASET_FILE, "the file exists and differs", "write to a new version (v2 beside v1), or remove it")
    if table.exists() and table.read_bytes() != content:
        rule = f"this version exists and differs{_first_difference(table, content, dataset.labels)}"
        raise ManifestError(table, rule, "versions are immutable: write to a new one (v2 beside v1), or remove this one")


def _first_difference(table: Path, content: bytes, labels: LabelSet) -> str:
    """' (...)' with the first cell that differs, or '' where the tables cannot be set side by side."""
    try:
        old, fresh = parse_manifest(table.read_bytes(), table, labels), parse_manifest(content, table, labels)
    except ManifestError:
        return ""
    if len(old) != len(fresh):
        return f" ({len(old)} rows there, {len(fresh)} now)"
    for column in old.columns:  # both sorted by sample id
        left, right = old[column].astype(object).map(str).to_numpy(), fresh[column].astype(object).map(str).to_numpy()
        unlike = left != right
        if unlike.any():
            position = int(unlike.argmax())
            values = f"{left[position]:.16} there, {right[position]:.16} now"
            return f" ({column} of {old['sample_id'].iloc[position]}: {values}; {int(unlike.sum())} rows in all)"
    return ""


def write_manifest(folder: Path, frame: pd.DataFrame, dataset: Dataset) -> Manifest:
    """Write manifest.csv and dataset.yaml into `folder`; nothing where both are there and equal.

    dataset.yaml that says the same in other words (comments, order) is left as it is. Raises ManifestError where either differs.
    """
    write_checked(folder, check_version(folder, frame, dataset), dataset)
    return read_manifest(folder)


def write_checked(folder: Path, content: bytes, dataset: Dataset) -> None:
    """Write what check_version has returned, as write_manifest does; both files or neither, and no other version that came meanwhile."""
    _refuse_another(folder, content, dataset)
    described = (folder / DATASET_FILE).exists()
    try:
        if not described:
            write_text(folder / DATASET_FILE, dataset_text(dataset))
        if not (folder / MANIFEST_FILE).exists():
            write_bytes(folder / MANIFEST_FILE, content)
    except BaseException:
        if not described:
            (folder / DATASET_FILE).unlink(missing_ok=True)
        raise


def check_data_root(data_root: Path | None) -> Path:
    """The folder that image paths hang on; ManifestError where none is given or it is not there."""
    fix = "give --data-root DIR or set MEDSEG_DATA"
    if data_root is None or str(data_root) == "":
        raise ManifestError("data root", "no data root is given, and image paths are relative to one", fix)
    if not data_root.is_dir():
        raise ManifestError(data_root, "the data root is not there" if not data_root.exists() else "the data root is not a folder", fix)
    return data_root


# --- splits/<name>.csv


def split_path(manifest: Manifest, name: str) -> Path:
    """splits/<name>.csv of a manifest; ManifestError for a name that is not a plain file name."""
    if not re.fullmatch(_NAME, name):
        raise ManifestError(f"split {name!r}", "a split's name is letters, digits, '.', '-' and '_'", "choose another name")
    return manifest.folder / SPLITS_FOLDER / f"{name}.csv"


def split_names(manifest: Manifest) -> list[str]:
    """The names of the splits a manifest has, sorted."""
    return sorted(path.stem for path in (manifest.folder / SPLITS_FOLDER).glob("*.csv") if not path.name.startswith("."))


def read_split(manifest: Manifest, name_or_path: str | Path, fold: int | None = None) -> Split:
    """Read a split by its name or path and check it against its manifest; with `fold`, those rows are val and the others train.

    Raises ManifestError naming file, row and way out; also where the table is not the one that was written.
    """
    named = isinstance(name_or_path, str) and "/" not in name_or_path and not name_or_path.endswith(".csv")
    path = split_path(manifest, str(name_or_path)) if named else Path(name_or_path)
    if not path.is_file():
        there = ", ".join(split_names(manifest)) or "none"
        raise ManifestError(path, "there is no such split", f"available: {there}; or make it by `medseg manifest split --name {path.stem}`")
    content = path.read_bytes()
    first_line, _, table = content.partition(b"\n")
    facts = split_facts(first_line.decode(errors="replace"), path)
    _check_made_for(facts, path, manifest)
    frame = _checked_split(table, path, manifest)
    check_unedited(facts, table, path)  # last: the other errors name the row
    split = Split(path.stem, path, frame, hashlib.sha256(content).hexdigest(), facts)
    return split if fold is None else split.fold(fold)


def split_facts(line: str, path: Path) -> dict[str, str]:
    """What the first line of a split states: manifest_sha256, seed, ratios, ...; ManifestError where it is none of ours."""
    if not line.startswith(SPLIT_HEADER + ";"):
        fix = "make it by `medseg manifest split`, with --from for a table of your own"
        raise ManifestError(path, f"the first line must begin with {SPLIT_HEADER!r}", fix)
    return dict(part.strip().partition("=")[::2] for part in line.strip().split(";")[1:])


def check_unedited(facts: Mapping[str, str], table: bytes, path: Path) -> None:
    """Raise ManifestError where the table below the first line is not the one the first line was written for."""
    stated = facts.get("table_sha256")
    if stated != hashlib.sha256(table).hexdigest():
        edited = "the split was edited by hand after it was made"
        rule = edited if stated else f"the first line states no table_sha256: made by an older medseg, or {edited}"
        raise ManifestError(path, rule, "restore it, take the edited table over under a new name by --from, or remove it and make it again")


def _check_made_for(facts: Mapping[str, str], path: Path, manifest: Manifest) -> None:
    if facts.get("manifest_sha256") != manifest.digest:
        made_for, here = facts.get("manifest_sha256", "none")[:12], manifest.digest[:12]
        rule = f"made for another version of the manifest ({made_for}, here {here})"
        raise ManifestError(path, rule, f"take the manifest it was made for, or make a split of {manifest.folder} under a new name")


def _checked_split(content: bytes, path: Path, manifest: Manifest) -> pd.DataFrame:
    raw = read_csv(b"\n" + content, path) if not content.strip() else read_csv(content, path)
    if list(raw.columns) != list(SPLIT_COLUMNS):
        raise ManifestError(path, f"the columns must be {list(SPLIT_COLUMNS)}, got {list(raw.columns)}", "make the split again")
    if raw.empty:
        raise ManifestError(path, "the split has no row", "make the split again")
    check_assignment(raw, path, manifest, first_line=3)  # below the comment and the header
    _check_folds(raw, path)
    check_patients(raw, path, manifest)
    return raw


def check_patients(frame: pd.DataFrame, path: Path, manifest: Manifest) -> None:
    """Refuse a group of the manifest in two parts or folds: the split's own groups may be finer than the manifest's."""
    known = manifest.frame["group_id"].to_numpy(object)
    group = pd.Series(known[pd.Index(manifest.frame["sample_id"]).get_indexer(pd.Index(frame["sample_id"]))], frame.index, "str")
    if group.equals(frame["group_id"]):
        return
    _check_torn(group, frame["split"], path)
    if "fold" in frame.columns:
        _check_folds(frame.assign(group_id=group), path)


def _check_folds(frame: pd.DataFrame, path: Path) -> None:
    """Folds are 0, 1, ... without a gap, on every row outside test or on none, and no group is in two of them."""
    folds = frame.loc[frame["fold"] != "", "fold"]
    if folds.empty:
        return
    fix = "make the split again"
    if sorted(folds.unique()) != sorted(map(str, range(folds.nunique()))):
        raise ManifestError(path, f"the folds must be 0, 1, ... without a gap, got {sorted(folds.unique())[:8]}", fix)
    wrong = (frame["fold"] == "") != (frame["split"] == "test")
    if wrong.any():
        row = frame.iloc[int(wrong.to_numpy().argmax())]
        rule = f"{row['sample_id']} of {row['split']} has {'the fold ' + row['fold'] if row['fold'] else 'no fold'}"
        raise ManifestError(path, f"{rule}: with folds every row outside test has one, and no row of test", fix)
    torn = frame.groupby("group_id")["fold"].nunique()
    if (torn > 1).any():
        raise ManifestError(path, f"the group {torn.index[torn > 1][0]!r} is in two folds", "put all samples of a group into one fold")


def among(values: pd.Series, known: pd.Series) -> pd.Series:
    """Which of `values` are in `known`; by its hash table, because `isin` of pandas 3.1 turns a million texts into Python objects."""
    return pd.Series(pd.Index(known.drop_duplicates()).get_indexer(pd.Index(values)) >= 0, index=values.index)


def texts(column: pd.Series) -> list[str]:
    """A column as a list; a loop over the column itself makes each text anew and is ten times slower."""
    listed: list[str] = column.to_numpy(dtype=object).tolist()
    return listed


def check_assignment(frame: pd.DataFrame, path: Path, manifest: Manifest, first_line: int) -> None:
    """Refuse unknown or repeated samples, unknown parts and a group in two parts; `first_line` is the line of the row of index 0."""

    def refuse(bad: pd.Series, rule: str, fix: str) -> None:
        if bad.any():
            position = int(bad.to_numpy().argmax())
            row = {str(key): value for key, value in frame.iloc[position].items()}
            raise ManifestError(f"{path} row {first_line + int(frame.index[position])} ({row['sample_id']})", rule.format(**row), fix)

    names = ", ".join(SPLIT_NAMES)
    refuse(
        ~among(frame["sample_id"], manifest.frame["sample_id"]),
        "the manifest has no such sample",
        "remove the row, or import the image",
    )
    refuse(frame["sample_id"].duplicated(), "sample_id {sample_id!r} stands twice", "keep one of the rows")
    refuse(~frame["split"].isin(SPLIT_NAMES), "unknown split {split!r}", f"use one of {names}")
    refuse(frame["group_id"].str.strip() == "", "group_id is blank", "name the patient, or repeat the sample_id")
    _check_torn(frame["group_id"], frame["split"], path)


def _check_torn(group: pd.Series, part: pd.Series, path: Path) -> None:
    """Refuse a group in two parts; both columns have a value a row."""
    pairs = pd.DataFrame({"group": group, "part": part}).drop_duplicates()
    torn = sorted(pairs.loc[pairs["group"].duplicated(), "group"].unique())
    if len(torn):
        held = " and ".join(name for name in SPLIT_NAMES if name in set(pairs.loc[pairs["group"] == torn[0], "part"]))
        more = f" (and {len(torn) - 1} more groups)" if len(torn) > 1 else ""
        raise ManifestError(path, f"the group {torn[0]!r} is in two splits: {held}{more}", "put all samples of a group into one split")


def write_split(manifest: Manifest, name: str, frame: pd.DataFrame, facts: Mapping[str, object]) -> Split:
    """Write splits/<name>.csv with `facts` (seed, ratios, source) in its first line, and its test rows into its ledger; nothing where
    both are there and equal.

    Raises ManifestError where the frame breaks a rule, or another split of that name exists.
    """
    path = split_path(manifest, name)
    with_fold = frame if "fold" in frame.columns else frame.assign(fold="")
    ordered = with_fold[list(SPLIT_COLUMNS)].sort_values("sample_id", kind="stable").reset_index(drop=True)
    if ordered.empty:
        raise ManifestError(path, "the split has no image", "list at least one labelled image")
    check_assignment(ordered, path, manifest, first_line=3)
    _check_folds(ordered, path)
    check_patients(ordered, path, manifest)
    content = _split_bytes(ordered, {"manifest_sha256": manifest.digest}, facts)
    if path.exists() and path.read_bytes() != content:
        raise ManifestError(path, "this split exists and differs", "splits are immutable: choose another --name")
    if not path.exists():
        write_bytes(path, content)
    split = read_split(manifest, name)
    record_made(split)
    return split


def _split_bytes(ordered: pd.DataFrame, made_for: Mapping[str, object], facts: Mapping[str, object]) -> bytes:
    table = ordered.to_csv(index=False, lineterminator="\n").encode()
    stated = {**made_for, "table_sha256": hashlib.sha256(table).hexdigest(), **facts}
    first_line = "; ".join([SPLIT_HEADER, *(f"{key}={str(value).replace(';', ',')}" for key, value in stated.items())])
    return f"{first_line}\n".encode() + table


def select(manifest: Manifest, split: Split, part: str) -> list[Row]:
    """The labelled rows of one part, by sample id, with the group the split gives them. ManifestError where there is none."""
    wanted = set(split.ids(part))
    chosen = manifest.frame["sample_id"].isin(wanted) & manifest.frame["mask"].notna()
    group_of = dict(zip(split.frame["sample_id"], split.frame["group_id"].astype(str), strict=True))
    found = manifest.rows(chosen.to_numpy().nonzero()[0].tolist())
    rows = [replace(row, group_id=group_of[row.sample_id]) for row in found]
    if not rows:
        raise ManifestError(split.path, f"no labelled image in the split {part!r}", "annotate some, or make the split again")
    return rows
