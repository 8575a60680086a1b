"""How fast the mask doctor is: images a second over all processors, hashes included, files in the page cache.

Two figures: of the check itself (from reading the manifest to the last finding), and of the whole command, with the interpreter's
start and its imports, about two seconds that a larger set does not feel.

python bench/bench_check.py [--data-root DIR] [--record]      DIR with images/ and masks/, such as tongue600; else drawn phantoms
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import command_line, tell

from medseg.manifest.importers.labelme import import_labelme
from medseg.manifest.importers.masks import import_masks
from medseg.phantom.write import write_phantoms
from medseg.types import Size

DRAWN = 600


def prepared(data_root: Path | None, folder: Path) -> tuple[Path, Path]:
    """(manifest, data root) of the images to check."""
    if data_root is not None:
        import_masks(data_root / "images", data_root / "masks", folder / "v1", classes=["tongue"])
        return folder / "v1", data_root
    write_phantoms(folder / "phantom", DRAWN, 0, Size(400, 400), jobs=0)
    import_labelme(folder / "phantom", folder / "v1")
    return folder / "v1", folder / "phantom"


TIMED = """
import sys, time
from pathlib import Path
from medseg.manifest.check.doctor import check_manifest
started = time.perf_counter()
check_manifest(Path(sys.argv[1]), Path(sys.argv[2]))
print(time.perf_counter() - started)
"""


def check_alone(manifest: Path, data_root: Path) -> float:
    """Seconds of the check in a process of its own, imports done."""
    done = subprocess.run([sys.executable, "-c", TIMED, str(manifest), str(data_root)], check=True, capture_output=True, text=True)
    return float(done.stdout)


def checked(manifest: Path, data_root: Path, out: Path) -> tuple[float, dict[str, object]]:
    """(seconds of the whole command in a process of its own, what it found)."""
    command = [sys.executable, "-m", "medseg", "manifest", "check", str(manifest), "--data-root", str(data_root), "--json", str(out)]
    started = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    assert done.returncode in (0, 2), done.stderr
    found: dict[str, object] = json.loads(out.read_text())
    return seconds, found


if __name__ == "__main__":
    parser = command_line(__doc__)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        manifest, data_root = prepared(options.data_root, Path(temporary))
        runs = [checked(manifest, data_root, Path(temporary) / "found.json") for _ in range(3)]  # the first fills the page cache
        alone = min(check_alone(manifest, data_root) for _ in range(3))
    best, found = min(runs[1:], key=lambda run: run[0])
    rows = int(str(found["rows"]))
    figures = {
        "rows": rows, "rows_flagged": found["rows_flagged"], "findings": found["counts"],
        "processors": len(os.sched_getaffinity(0)), "images_per_s": round(rows / alone, 1),
        "images_per_s_whole_command": round(rows / best, 1), "seconds_whole_command": round(best, 2),
    }  # fmt: skip
    where = " --data-root tongue600" if options.data_root else ""
    tell("Check of 600 images, the best of two or three runs", f"python bench/bench_check.py{where}", figures, options.record)
