"""Near-duplicates of a folder of photographs, against brute force: every pair's pixel correlation at four sizes, grey and RGB.

python bench/near_pairs.py FOLDER [--record]      prints the pairs; exits 1 where brute force sees one above 0.99 that medseg did not find
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from record import proof

from medseg.images import IMAGE_SUFFIXES, read_image
from medseg.manifest.near import SAME, near_pairs, thumbnail

SIDES_PX = (32, 64, 128, 256)


def correlations(paths: list[Path], side_px: int, mode: str) -> np.ndarray:
    """Pearson correlation of every pair, decoded and scaled by Pillow alone; a dot product of what is left without the mean."""
    pictures = [ImageOps.exif_transpose(Image.open(path)).convert(mode).resize((side_px, side_px)) for path in paths]
    rows = np.stack([np.asarray(picture, np.float32).ravel() for picture in pictures])
    rows -= rows.mean(axis=1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


def by_brute_force(paths: list[Path], names: list[str]) -> dict[tuple[str, str], float]:
    """Pairs above SAME at any size, with the highest correlation."""
    highest = np.max([correlations(paths, side, mode) for side in SIDES_PX for mode in ("L", "RGB")], axis=0)
    first, second = np.nonzero(np.triu(highest, 1) > SAME)
    return {(names[a], names[b]): float(highest[a, b]) for a, b in zip(first, second, strict=True)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    paths = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    names = [path.relative_to(options.folder).with_suffix("").as_posix() for path in paths]
    pairs = near_pairs(names, np.stack([thumbnail(read_image(path)) for path in paths]))
    for pair in sorted(pairs, key=lambda pair: -pair.correlation):
        print(f"{pair.correlation:.4f}  {pair.first}  {pair.second}  {pair.how}")
    brute = by_brute_force(paths, names)
    missed = sorted(set(brute) - {(pair.first, pair.second) for pair in pairs})
    figures = {
        "images": len(paths), "pairs_found": len(pairs), "of_them_above_0.99": sum(pair.correlation > SAME for pair in pairs),
        "pairs_above_0.99_by_brute_force": len(brute), "of_them_missed": [" ".join(pair) for pair in missed] or "none",
    }  # fmt: skip
    print(json.dumps(figures))
    if options.record:
        name = f"Near-duplicates in {options.folder.name}, against brute force at {', '.join(map(str, SIDES_PX))} px, grey and RGB"
        proof(name, f"python bench/near_pairs.py {options.folder.name}", figures)
    sys.exit(1 if missed else 0)
