"""Hostile files, each given to the real command line in a process of its own: the error, the exit code and the peak memory.

python bench/hostile.py [--record]      exits 1 where one is taken, ends in a traceback, needs a GiB or a minute; what is odd but may be
drawn (HARMLESS) must be taken, within the same bounds
"""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from record import command_line, tell

LIMIT_MIB, LIMIT_S = 1024, 60
Case = Callable[[Path], list[str]]


def labelme_case(change: Callable[[Path, dict[str, object]], str | None]) -> Case:
    """A folder with one photograph and one labelme file, spoilt by `change` (which may give the file's text)."""

    def make(folder: Path) -> list[str]:
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / "a.jpg")
        shape = {"label": "tongue", "shape_type": "polygon", "points": [[1, 1], [50, 1], [50, 30]]}
        content: dict[str, object] = {"version": "5.6.1", "shapes": [shape], "imagePath": "a.jpg", "imageHeight": 40, "imageWidth": 60}
        text = change(folder, content)
        (folder / "a.json").write_text(json.dumps(content) if text is None else text)
        return ["manifest", "import", "labelme", str(folder), "--out", str(folder.parent / "out")]

    return make


def traversal(folder: Path, content: dict[str, object]) -> str | None:
    """imagePath climbs out of the folder."""
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder.parent / "secret.jpg")
    content["imagePath"] = "../../../secret.jpg"
    return None


def truncated_json(folder: Path, content: dict[str, object]) -> str | None:
    """The file ends in the middle."""
    return json.dumps(content)[:-40]


def million_points(folder: Path, content: dict[str, object]) -> str | None:
    """A polygon of 10^6 points."""
    points = np.random.default_rng(0).uniform(0, 40, (1_000_000, 2)).round(2).tolist()
    content["shapes"] = [{"label": "tongue", "shape_type": "polygon", "points": points}]
    return None


def far_circle(folder: Path, content: dict[str, object]) -> str | None:
    """Circles of 900,000 px, over which Pillow never returns."""
    circle = {"label": "tongue", "shape_type": "circle", "points": [[5, 5], [900_000, 5]]}
    content["shapes"] = [circle] * 20
    return None


def symlink(folder: Path, content: dict[str, object]) -> str | None:
    """The photograph is a link out of the folder."""
    (folder / "a.jpg").rename(folder.parent / "elsewhere.jpg")
    (folder / "a.jpg").symlink_to(folder.parent / "elsewhere.jpg")
    return None


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header promises width x height and whose data are missing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def huge_header(folder: Path, content: dict[str, object]) -> str | None:
    """The photograph's header promises 50,000 x 50,000 pixels."""
    (folder / "a.jpg").unlink()
    (folder / "a.png").write_bytes(png_header(50_000, 50_000))
    content |= {"imagePath": "a.png", "imageHeight": 50_000, "imageWidth": 50_000}
    return None


def long_rle(folder: Path) -> list[str]:
    """A COCO run-length code that goes on past the image."""
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / "a.jpg")
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 1, "bbox": [0, 0, 1, 1], "area": 1}
    annotation["segmentation"] = {"size": [40, 60], "counts": [10, 5_000]}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 40, "width": 60}], "annotations": [annotation],
        "categories": [{"id": 1, "name": "tongue"}],
    }  # fmt: skip
    (folder / "coco.json").write_text(json.dumps(content))
    return ["manifest", "import", "coco", str(folder / "coco.json"), "--images", str(folder), "--out", str(folder.parent / "out")]


def zip_bomb(folder: Path) -> list[str]:
    """An archive of some MiB that unpacks to 8 GiB, given to the function that `medseg data fetch` unpacks with."""
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for number in range(8):
            with archive.open(f"{number}.bin", "w") as stream:
                for _ in range(64):
                    stream.write(bytes(16 * 2**20))
    return ["-c", UNPACK, str(folder / "bomb.zip"), str(folder / "out")]


UNPACK = """
import sys
from pathlib import Path
from medseg.errors import MedsegError
from medseg.fetch.unpack import Limits, unpack
try:
    unpack(Path(sys.argv[1]), Path(sys.argv[2]), Limits(64 * 2**30))
except MedsegError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
"""

CASES: dict[str, Case] = {
    "path traversal": labelme_case(traversal),
    "50,000 x 50,000 PNG header": labelme_case(huge_header),
    "truncated JSON": labelme_case(truncated_json),
    "10^6-point polygon": labelme_case(million_points),
    "RLE longer than the image": long_rle,
    "zip bomb": zip_bomb,
    "symlink out of the root": labelme_case(symlink),
    "circles of 900,000 px": labelme_case(far_circle),
}
HARMLESS = ("circles of 900,000 px",)


def bounded() -> None:
    """In the child: a command that never ends is killed, which shows in its exit code."""
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S))


def tried(make: Case) -> dict[str, object]:
    """Exit code, first line of the error and peak memory of the command on one hostile input."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "in"
        folder.mkdir()
        arguments = make(folder)
        command = [sys.executable, *([] if arguments[0] == "-c" else ["-m", "medseg"]), *arguments]
        with (Path(temporary) / "errors").open("w+") as stream:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stream, preexec_fn=bounded)
            _, status, usage = os.wait4(process.pid, 0)
            stream.seek(0)
            errors = stream.read()
        code = os.waitstatus_to_exitcode(status)
        told = next((line for line in errors.splitlines() if "error:" in line), errors.strip()[-200:] if code else "none")
        return {"exit_code": code, "peak_mib": round(usage.ru_maxrss / 1024), "error": told.replace(temporary, "").strip()}


if __name__ == "__main__":
    parser = command_line(__doc__)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    figures = {name: tried(make) for name, make in CASES.items()}
    tell("Hostile input", "python bench/hostile.py", figures, options.record)
    wanted = {name: 0 if name in HARMLESS else 2 for name in figures}
    bad = [name for name, seen in figures.items() if seen["exit_code"] != wanted[name] or int(str(seen["peak_mib"])) >= LIMIT_MIB]
    alone = len({str(seen["error"]) for seen in figures.values()}) == len(figures)
    sys.exit(f"not as they should be: {bad}" if bad or not alone else 0)
