"""Plant every defect that `medseg manifest check` must find into copies of tongue600, phantoms and volumes, and count what it finds.

python bench/check_planted.py --data-root DIR [--count 12] [--rows 60] [--only NAME] [--record]

DIR holds images/, masks/ (ids of one class) and pairs.csv, as tongue600 does. Each defect is planted on --count of --rows rows, after
the import (A) and, where an import takes such files, before it (B); defects of files of objects go into an import of labelme files. A
plant counts as found where a finding of its own code names the sample; `others` are findings on the rows that were left alone. The last
line is one JSON object; exit code 1 where one is missed.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from record import command_line, proof

sys.path.insert(0, str(Path(__file__).parent.parent))

from medseg.labels import LabelSet
from medseg.manifest.check.doctor import Report, check_manifest
from medseg.manifest.importers.labelme import import_labelme
from medseg.manifest.importers.masks import import_masks
from medseg.manifest.importers.nifti import import_nifti
from medseg.manifest.split import given_split
from medseg.manifest.table import read_manifest
from medseg.phantom.write import write_phantoms
from tests.manifest.planting import (
    EXACT,
    INSTANCE_PLANTS,
    NEAR,
    PLANTS,
    VOLUME_PLANTS,
    Plant,
    Sample,
    add_copy,
    exif_right,
    inverted,
    unchanged,
    white,
    write_volumes,
)

LABELME = "labelme"  # the set whose importer writes files of objects
INVERTED_SHARES = (0.02, 0.1, 0.25, 0.4)


@dataclass(frozen=True)
class Base:
    """A clean set in images/ and masks/ that copies are made of."""

    name: str
    root: Path
    classes: tuple[str, ...]
    sound: tuple[str, ...] = ()  # findings of the clean set: code and sample


@dataclass
class Outcome:
    """What was planted and found of one defect in one set. by_share: on a share of the set, not on --count rows."""

    base: str
    flow: str
    defect: str
    planted: int
    found: int
    missed: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    by_share: bool = False


# --- sets


def base_of_masks(source: Path, root: Path, rows: int) -> Base:
    """Copies of some images and id masks; every second photograph becomes a JPEG."""
    images = sorted((source / "images").iterdir())
    chosen = np.random.default_rng(5).choice(len(images), rows, replace=False)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for place, index in enumerate(sorted(chosen)):
        path = images[index]
        if place % 2:
            Image.open(path).convert("RGB").save(root / "images" / f"{path.stem}.jpg", quality=95)
        else:
            shutil.copyfile(path, root / "images" / path.name)
        shutil.copyfile(source / "masks" / f"{path.stem}.png", root / "masks" / f"{path.stem}.png")
    return Base(source.name, root, ("tongue",))


def base_of_phantoms(folder: Path, root: Path, rows: int) -> Base:
    """Phantoms in folder/phantoms, imported by their labelme files, as images and id masks."""
    write_phantoms(folder / "phantoms", rows, seed=3)
    import_labelme(folder / "phantoms", folder / "manifest")
    manifest = read_manifest(folder / "manifest")
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for row in manifest:
        shutil.copyfile(manifest.image_path(row, folder / "phantoms"), root / "images" / Path(row.image).name)
        shutil.copyfile(manifest.mask_path(row, folder / "phantoms"), root / "masks" / f"{row.sample_id}.png")
    return Base("phantoms", root, manifest.labels.foreground)


def copy_of(base: Base, root: Path) -> list[Sample]:
    """The set under `root`, by hard links; a sample that is to be changed must be `own`ed first."""
    if base.name == LABELME:
        return copy_of_labelme(base, root)
    colours = tuple(map(tuple, LabelSet.of(*base.classes).palette[: len(base.classes) + 1].tolist()))
    samples = []
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
        for path in (base.root / folder).iterdir():
            os.link(path, root / folder / path.name)
    for image in sorted((root / "images").iterdir()):
        suffix = ".nii.gz" if image.name.endswith(".nii.gz") else ".png"
        stem = image.name.removesuffix(".nii.gz") if suffix == ".nii.gz" else image.stem
        samples.append(Sample(image, root / "masks" / (stem + suffix), len(base.classes) + 1, colours))
    return samples


def copy_of_labelme(base: Base, root: Path) -> list[Sample]:
    """Images beside their labelme files; masks and objects lie where the import will write them."""
    shutil.copytree(base.root, root, copy_function=os.link)
    out, places = root / "v1", sorted(root.glob("*.jpg"))
    return [Sample(path, out / "masks" / f"{path.stem}.png", instances=out / "instances" / f"{path.stem}.json") for path in places]


def own(sample: Sample) -> Sample:
    """Cut the sample's links, so that writing to it leaves the base as it is."""
    for path in (sample.image, sample.mask):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    return sample


def imported(base: Base, root: Path, as_is: bool = False) -> Path:
    """Import the copy; rows that cannot be imported are left out."""
    out = root / "v1"
    if base.name == "volumes":
        import_nifti(root / "images", root / "masks", out, base.classes)
    elif base.name == LABELME:
        import_labelme(root, out)
    else:
        import_masks(root / "images", root / "masks", out, base.classes, as_is=as_is, skip_refused=as_is)
    return out


def stem_of(sample: Sample) -> str:
    """The sample's id."""
    return sample.image.name.removesuffix(".nii.gz") if sample.image.name.endswith(".nii.gz") else sample.image.stem


# --- one defect


def plants_of(base: Base) -> dict[str, Plant]:
    """The defects that can be planted in a set."""
    return {"volumes": VOLUME_PLANTS, LABELME: INSTANCE_PLANTS}.get(base.name, PLANTS)


def judged(base: Base, flow: str, defect: str, targets: Sequence[tuple[str, str]], codes: Sequence[str], report: Report) -> Outcome:
    """targets: (sample id, how it was planted)."""
    named: dict[str, set[str]] = {}
    for finding in report.findings:
        for sample in (finding.sample_id, *finding.others):
            named.setdefault(sample, set()).add(finding.code)
    planted = {sample for sample, _ in targets}
    missed = [
        f"{sample} ({how}): {sorted(named.get(sample, set()))}" for sample, how in targets if not set(codes) & named.get(sample, set())
    ]
    others = [
        f"{finding.sample_id} {finding.code}: {finding.rule}"
        for finding in report.findings
        if finding.sample_id
        and not {finding.sample_id, *finding.others} & planted
        and f"{finding.code} {finding.sample_id}" not in base.sound
    ]
    return Outcome(base.name, flow, defect, len(targets), len(targets) - len(missed), missed, others)


def plant(base: Base, flow: str, defect: str, count: int, folder: Path) -> Outcome:
    """Plant one kind of `plants_of` and check; of a file of objects, the finding must name that file."""
    spec = plants_of(base)[defect]
    root = folder / f"{base.name}-{flow}-{defect}".replace("/", "_").replace(" ", "_")
    samples = copy_of(base, root)
    rng = np.random.default_rng([*defect.encode()])
    chosen = sorted(rng.choice(len(samples), count, replace=False))
    out = imported(base, root) if flow == "A" else root
    targets = []
    for number, index in enumerate(chosen):
        sample = own(samples[index])
        spec.variants[number % len(spec.variants)](sample, rng)
        targets.append((stem_of(sample), f"variant {number % len(spec.variants)}"))
    out = out if flow == "A" else imported(base, root, as_is=True)
    report = check_manifest(out, root, jobs=1)
    shutil.rmtree(root)
    if base.name == LABELME:
        planted = {stem for stem, _ in targets}
        report = replace(
            report, findings=[f for f in report.findings if f.sample_id not in planted or Path(f.file).parent.name == "instances"]
        )
    return judged(base, flow, defect, targets, spec.codes, report)


def plant_shares(base: Base, share: float, folder: Path) -> Outcome:
    """A share of the set inverted."""
    root = folder / f"{base.name}-inverted-{share}"
    samples = copy_of(base, root)
    rng = np.random.default_rng(int(share * 100))
    chosen = rng.choice(len(samples), max(1, round(share * len(samples))), replace=False)
    targets = []
    for index in chosen:
        inverted(1)(own(samples[index]), rng)
        targets.append((stem_of(samples[index]), f"{share:.0%}"))
    report = check_manifest(imported(base, root, as_is=True), root, jobs=1)
    shutil.rmtree(root)
    outcome = judged(base, "B", f"inverted, {share:.0%} of the set", targets, ("inverted-mask",), report)
    return replace(outcome, by_share=True)


def plant_copies(base: Base, kind: str, count: int, folder: Path) -> Outcome:
    """Exact or near duplicates, every second one in another part of a split than its original."""
    root = folder / f"{base.name}-{kind.replace(' ', '_')}"
    samples = copy_of(base, root)
    rng = np.random.default_rng([*kind.encode()])
    chosen = rng.choice(len(samples), max(count, len(NEAR) if kind == "near duplicate" else 0), replace=False)
    parts = {stem_of(sample): ("train", "val", "test")[place % 3] for place, sample in enumerate(samples)}
    targets, across = [], set()
    for number, index in enumerate(chosen):
        how = list(NEAR)[number % len(NEAR)] if kind == "near duplicate" else f"exact {number % len(EXACT)}"
        change, form, options = NEAR[how] if kind == "near duplicate" else (unchanged, *EXACT[number % len(EXACT)])
        copy = add_copy(samples[index], f"copy{number:02d}", change, rng, form, **options)
        part = parts[stem_of(samples[index])]
        parts[stem_of(copy)] = part if number % 2 else {"train": "test", "val": "train", "test": "val"}[part]
        targets.append((stem_of(copy), how))
        across |= set() if number % 2 else {stem_of(copy)}
    out = imported(base, root, as_is=True)
    table = root / "parts.csv"
    pd.DataFrame({"sample": parts.keys(), "split": parts.values()}).to_csv(table, index=False)
    given_split(read_manifest(out), "main", table)
    report = check_manifest(out, root, jobs=1)
    shutil.rmtree(root)
    code = "near-duplicate" if kind == "near duplicate" else "duplicate"
    outcome = judged(base, "B", kind, targets, (code,), report)
    told = judged(base, "B", kind, [target for target in targets if target[0] in across], (f"{code}-across-splits",), report)
    outcome.planted, outcome.found = outcome.planted + told.planted, outcome.found + told.found
    outcome.missed += [f"across: {line}" for line in told.missed]
    return outcome


def plant_torn(base: Base, where: str, count: int, folder: Path) -> Outcome:
    """Groups torn by editing manifest.csv after the split was made, or the split's file."""
    root = folder / f"{base.name}-torn-{where}"
    samples = [stem_of(sample) for sample in copy_of(base, root)]
    out = imported(base, root)
    pairs = list(zip(samples[::2], samples[1::2], strict=False))[:count]
    frame = pd.read_csv(out / "manifest.csv", dtype=str, keep_default_na=False)
    grouped = frame.assign(group_id=frame["sample_id"].replace({b: a for a, b in pairs}))
    if where == "split":
        grouped.to_csv(out / "manifest.csv", index=False)
    table = root / "parts.csv"
    parts = {sample: ("train", "test")[place % 2 if where == "manifest" else place // 2 % 2] for place, sample in enumerate(samples)}
    pd.DataFrame({"sample": parts.keys(), "split": parts.values()}).to_csv(table, index=False)
    path = given_split(read_manifest(out), "main", table)[0].path
    if where == "split":
        head, _, body = path.read_text().partition("\n")
        for _, second in pairs:
            other = {"train": "test", "test": "train"}[parts[second]]
            body = "\n".join(
                line.replace(f",{parts[second]},", f",{other},") if line.startswith(f"{second},") else line for line in body.split("\n")
            )
        path.write_text(f"{head}\n{body}")
    else:
        grouped.to_csv(out / "manifest.csv", index=False)
    report = check_manifest(out, root, jobs=1)
    shutil.rmtree(root)
    return judged(base, "A", f"group torn in the {where}", [(second, "") for _, second in pairs], ("group-in-two-splits",), report)


def plant_classes(base: Base, count: int, folder: Path) -> Outcome:
    """Classes that no mask shows, one more in each of `count` sets."""
    found, others, missed = 0, [], []
    for number in range(count):
        root = folder / f"{base.name}-classes-{number}"
        copy_of(base, root)
        names = list(base.classes)
        names.insert(len(names), f"ghost{number}")
        out = root / "v1"
        import_masks(root / "images", root / "masks", out, names)
        report = check_manifest(out, root, jobs=1)
        told = [finding.rule for finding in report.findings if finding.code == "class-never-present"]
        found += any(names[-1] in rule for rule in told)
        others += [rule for rule in told if names[-1] not in rule]
        missed += [] if any(names[-1] in rule for rule in told) else [names[-1]]
        shutil.rmtree(root)
    return Outcome(base.name, "A", "class never present", count, found, missed, others)


def plant_mixed(base: Base, count: int, folder: Path) -> Outcome:
    """Some masks of another convention than the rest."""
    root = folder / f"{base.name}-mixed"
    samples = copy_of(base, root)
    variants = [white(255), *(PLANTS["RGB colours"].variants), *(PLANTS["palette"].variants)]
    rng = np.random.default_rng(0)
    targets = []
    for number, sample in enumerate(samples[: count * 3 : 3]):
        variants[number % len(variants)](own(sample), rng)
        targets.append((stem_of(sample), f"variant {number % len(variants)}"))
    report = check_manifest(imported(base, root, as_is=True), root, jobs=1)
    shutil.rmtree(root)
    return judged(base, "B", "several conventions", targets, ("mixed-conventions",), report)


def plant_exif_right(base: Base, count: int, folder: Path) -> Outcome:
    """No defect: photographs turned with their masks. Each row flagged counts as not found."""
    root = folder / f"{base.name}-upright"
    samples = copy_of(base, root)
    rng = np.random.default_rng(1)
    targets = []
    for number, sample in enumerate(samples[: count * 2]):
        exif_right(2 + number % 7)(own(sample), rng)
        targets.append((stem_of(sample), f"orientation {2 + number % 7}"))
    report = check_manifest(imported(base, root), root, jobs=1)
    shutil.rmtree(root)
    wrong = {finding.sample_id: finding.code for finding in report.findings if finding.code == "exif-orientation"}
    missed = [f"{sample} ({how}): {wrong[sample]}" for sample, how in targets if sample in wrong]
    return Outcome(base.name, "B", "sound: EXIF that fits", len(targets), len(targets) - len(missed), missed)


# --- all


def tasks(bases: Sequence[Base], count: int, only: str) -> Iterator[tuple[object, ...]]:
    """(function, arguments without the folder) of every set to be planted."""
    for base in bases:
        only_imported = base.name in ("volumes", LABELME)
        for defect, spec in plants_of(base).items():
            if spec.multi if len(base.classes) > 1 else spec.binary:
                yield from ((plant, base, flow, defect, count) for flow in ("A", *("B" if spec.importable and not only_imported else "")))
        if only_imported:
            continue
        yield from ((plant_shares, base, share) for share in INVERTED_SHARES)
        yield from ((plant_copies, base, kind, count) for kind in ("exact duplicate", "near duplicate"))
        yield from ((plant_torn, base, where, count) for where in ("manifest", "split"))
        yield from ((function, base, count) for function in (plant_classes, plant_mixed, plant_exif_right))


def run(task: tuple[object, ...], folder: Path) -> Outcome:
    """One task, in a process of its own."""
    function, *arguments = task
    try:
        outcome: Outcome = function(*arguments, folder)  # type: ignore[operator]
    except Exception as error:  # a crash of the doctor is a miss to be told with the others
        base = arguments[0]
        assert isinstance(base, Base)
        told = traceback.format_exc().splitlines()[-4:]
        return Outcome(base.name, "?", f"{arguments[1:]}", 1, 0, [f"{type(error).__name__}: {error}", *told])
    return outcome


def alarms(report: Report) -> list[str]:
    """The findings on rows of a clean set."""
    return [f"{finding.sample_id} {finding.code}: {finding.rule}" for finding in report.findings if finding.sample_id]


def clean(source: Path, folder: Path) -> dict[str, object]:
    """False alarms on the whole clean set (true near-duplicates among them)."""
    out = folder / "clean"
    import_masks(source / "images", source / "masks", out, ("tongue",))
    if (source / "pairs.csv").exists():
        given_split(read_manifest(out), "main", source / "pairs.csv")
    report = check_manifest(out, source)
    counts = Counter(finding.code for finding in report.findings)
    return {"rows": len(report.manifest), "rows_flagged": report.flagged(), "counts": dict(counts), "findings": alarms(report)}


def sound(base: Base, folder: Path) -> Base:
    """The base with what the doctor finds on it unharmed."""
    root = folder / f"{base.name}-sound"
    copy_of(base, root)
    report = check_manifest(imported(base, root), root, jobs=1)
    shutil.rmtree(root)
    return replace(base, sound=tuple(f"{finding.code} {finding.sample_id}" for finding in report.findings))


def main() -> int:
    """Print the table and one JSON line."""
    parser = command_line(__doc__, needs_photographs=True)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--only", default="", help="defects whose line holds this text")
    parser.add_argument("--no-clean", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_volumes(folder / "volumes", given.rows)
        bases = [
            base_of_masks(given.data_root.resolve(), folder / "masks", given.rows),
            base_of_phantoms(folder, folder / "multi", given.rows), Base("volumes", folder / "volumes", ("one", "two")),
        ]  # fmt: skip
        bases.append(Base(LABELME, folder / "phantoms", bases[1].classes))
        bases = [sound(base, folder) for base in bases]
        for base in bases:
            print(f"{base.name}: {len(base.sound)} findings unharmed {base.sound}")
        chosen = [task for task in tasks(bases, given.count, given.only) if given.only in f"{task[0].__name__} {task[2:]}"]  # type: ignore[attr-defined]
        with ProcessPoolExecutor(2) as pool:
            outcomes = [_print(outcome) for outcome in pool.map(run, chosen, [folder] * len(chosen))]
        told = {} if given.no_clean else clean(given.data_root.resolve(), folder)
    line = {
        "what": "planted", "rows": given.rows, "planted": sum(o.planted for o in outcomes), "found": sum(o.found for o in outcomes),
        "others": sum(len(o.others) for o in outcomes), "defects": [asdict(o) for o in outcomes], "clean": told,
    }  # fmt: skip
    if given.record:
        figures = {
            "kinds_of_defects_times_sets_and_flows": len(outcomes), "fewest_of_one": fewest(outcomes),
            "planted": line["planted"], "found": line["found"], "findings_on_untouched_rows": line["others"],
            "clean_tongue600": {key: told[key] for key in ("rows", "rows_flagged", "counts")} if told else "not run",
        }  # fmt: skip
        proof("Planted defects", f"python bench/check_planted.py --data-root tongue600 --count {given.count}", figures)
    print(json.dumps(line))
    return int(line["planted"] != line["found"])


def fewest(outcomes: Sequence[Outcome]) -> int:
    """How often the defect was planted that was planted least. Shares of a set are left out: their number is that of the share (2 % of
    60 rows is one mask), and the same defect is planted on --count rows besides."""
    return min((outcome.planted for outcome in outcomes if not outcome.by_share), default=0)


def _print(outcome: Outcome) -> Outcome:
    note = f"  others {len(outcome.others)}" if outcome.others else ""
    print(f"{outcome.base:10} {outcome.flow}  {outcome.defect:28} {outcome.found:3} of {outcome.planted:3}{note}", flush=True)
    for line in outcome.missed:
        print(f"    missed {line}")
    for line in outcome.others[:3]:
        print(f"    other  {line}")
    return outcome


if __name__ == "__main__":
    sys.exit(main())
