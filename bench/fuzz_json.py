"""Feed damaged annotation files to the JSON readers: each must be imported or refused by a MedsegError, and nothing else may happen.

python bench/fuzz_json.py [--inputs 100000] [--seed 0] [--record]      prints one JSON line; exit code 1 where a reader failed
"""

from __future__ import annotations

import base64
import copy
import io
import json
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from record import command_line, tell

from medseg.errors import AnnotationError, ManifestError, MedsegError
from medseg.files import parse_json
from medseg.instances import Instance, checked_instances, decode, instances_text
from medseg.labels import LabelSet
from medseg.manifest.importers import coco, labelme
from medseg.types import Size

HEIGHT, WIDTH = 12, 16
LABELS = LabelSet.of("tongue", "coating")
MOST_PIXELS = 1_000_000  # painted; a larger size is legal and only slow


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


PHOTOGRAPH = png(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
BITMAP = base64.b64encode(png(np.eye(4, 5, dtype=np.uint8))).decode()


def labelme_documents() -> list[Any]:
    """Valid files of several versions, with every kind of shape."""
    kinds = {
        "polygon": [[1, 1], [9.5, 2], [4, 8]], "rectangle": [[2, 2], [7, 5.5]], "oriented_rectangle": [[1, 1], [5, 2], [4, 6], [0, 5]],
        "circle": [[8, 6], [10, 6]], "line": [[0, 0], [15, 11]], "linestrip": [[0, 3], [5, 5], [9, 1]], "point": [[3, 3]],
        "mask": [[2, 3], [6, 6]],
    }  # fmt: skip
    shapes = [
        {"label": "tongue", "points": points, "group_id": index % 2 or None, "shape_type": kind, "flags": {}, "description": "",
         "mask": BITMAP if kind == "mask" else None}
        for index, (kind, points) in enumerate(kinds.items())
    ]  # fmt: skip
    new = {
        "version": "6.3.1", "flags": {"blurred": True}, "shapes": shapes, "imagePath": "a.png", "imageData": None,
        "imageHeight": HEIGHT, "imageWidth": WIDTH,
    }  # fmt: skip
    old_shapes = [{"label": "coating", "line_color": None, "fill_color": None, "points": kinds["polygon"]}]
    old = {"shapes": old_shapes, "lineColor": [0, 255, 0, 128], "imagePath": "gone.png", "imageData": base64.b64encode(PHOTOGRAPH).decode()}
    return [new, old]


def coco_documents() -> list[Any]:
    """A valid file with polygons, both kinds of run-length code and a crowd."""
    area = HEIGHT * WIDTH
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 2, "iscrowd": 0, "area": 9, "bbox": [1, 1, 3, 3], "segmentation": [[1, 1, 9.5, 2, 4, 8]]},
        {"id": 2, "image_id": 1, "category_id": 1, "iscrowd": 1, "segmentation": {"counts": [20, 30, area - 50], "size": [HEIGHT, WIDTH]}},
        {"id": 3, "image_id": "b", "category_id": 1, "segmentation": {"counts": "05k5", "size": [HEIGHT, WIDTH]}},
    ]
    images = [{"id": key, "file_name": f"{key}.png", "height": HEIGHT, "width": WIDTH} for key in (1, "b")]
    return [{"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "tongue"}, {"id": 2, "name": "coating"}]}]


def instance_documents() -> list[Any]:
    """A valid file of instances."""
    size = Size(HEIGHT, WIDTH)
    return [json.loads(instances_text(size, [Instance("tongue", "1", False, "05k5", size)] * 2))]


# --- damage


def values(rng: random.Random) -> Any:
    """Something that stands where another thing should."""
    deep: Any = []
    for _ in range(rng.choice((3, 50, 300))):
        deep = [deep]
    pool = (
        None, True, False, 0, -1, 1, 2**31, 2**63, -(2**70), 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), 1e6, 1e9, 100_001,
        "", " ",
        "\ud800", "\0", "舌" * 50, "a" * 5000, "../../etc/passwd", "/", "C:\\x", "a.png", "mask", "circle", "tongue", [], {}, [[]], [None],
        {"counts": "", "size": []}, [1, 2, 3, 4, 5, 6], [[1, 2]] * 3, deep, BITMAP, BITMAP[:30],
    )  # fmt: skip
    text = "".join(chr(rng.randrange(48, 112)) for _ in range(rng.randrange(1, 12)))
    anything = "".join(chr(rng.randrange(1, 0x3000)) for _ in range(rng.randrange(1, 12)))
    return rng.choice((*pool, text, anything, rng.randrange(-50, 500), rng.uniform(-50, 500)))


def place(node: Any, rng: random.Random) -> tuple[Any, Any]:
    """(container, key) of something in a document, found by going down from its root; it must hold something."""
    while True:
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        child = node[key]
        if not isinstance(child, dict | list) or not child or rng.random() < 0.15:
            return node, key
        node = child


def damaged(document: str, rng: random.Random) -> bytes:
    """A document with one to four changes to its content, and sometimes to its bytes."""
    content = json.loads(document)
    for _ in range(rng.randrange(5)):
        if isinstance(content, dict | list) and content:
            change(*place(content, rng), rng, place(content, rng))
    raw = json.dumps(content, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    return cut(raw, rng) if rng.random() < 0.2 else raw


def change(parent: Any, key: Any, rng: random.Random, other: tuple[Any, Any]) -> None:
    kind = rng.randrange(6)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent[key], int | float) and abs(parent[key]) < 1e300:
        parent[key] = parent[key] * rng.choice((-1, 0, 0.5, 2, 1000, 10**6, 1e12)) + rng.choice((0, 1, -1, 0.5))
    elif kind == 2 and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[key]))
    elif kind == 3:
        parent[key] = copy.deepcopy(other[0][other[1]])
    else:
        parent[key] = values(rng)


def cut(raw: bytes, rng: random.Random) -> bytes:
    """Bytes truncated, flipped, filled with brackets or noise."""
    at = rng.randrange(len(raw))
    return rng.choice(
        (
            raw[:at], raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :], raw[:at] + b"[" * rng.choice((10, 5000)) + raw[at:],
            raw[:at] + rng.randbytes(8) + raw[at:], raw[:at] + b'{"a":' * 3000 + raw[at:], b"\xef\xbb\xbf" + raw,
            raw.decode("utf-8", "replace").encode("utf-16"),
        )
    )  # fmt: skip


# --- the readers


def read_labelme(raw: bytes, folder: Path) -> str:
    """As an import does for one file: read, find and decode the photograph, draw."""
    path = folder / "a.json"
    draft = labelme.checked_draft(parse_json(raw, path, AnnotationError, ""), path)
    if draft is None:
        return "another kind"
    if draft.embedded or raw[-1] % 8 == len(raw) % 8:  # opening files takes most of the time
        path.write_bytes(raw)
        annotation = labelme.with_photograph(labelme.read_draft(path) or draft, folder)
    else:
        annotation = labelme.Annotation(path, "a", "a.png", Size(HEIGHT, WIDTH), "", draft.shapes, draft.flags, ())
        labelme.check_inside(annotation.shapes, annotation.size, path)
    unknown = frozenset(shape.label for shape in annotation.shapes) - set(LABELS.names)
    mask_HW, instances = labelme.drawn(annotation, LABELS, unknown, True)
    assert mask_HW.shape == tuple(annotation.size) and set(np.unique(mask_HW)) <= {0, 1, 2, 255}
    assert all(decode(instance).any() for instance in instances)
    return "imported"


def read_coco(raw: bytes, folder: Path) -> str:
    """As an import does for each image that is not refused, without the photograph."""
    path = folder / "coco.json"
    document = coco.checked_document(parse_json(raw, path, AnnotationError, ""), path)
    choices = coco.chosen("ignore", "area", False)
    for picture in document.pictures:
        outlines = document.outlines.get(picture.key, ()) if picture.key not in document.bad else ()
        codes = [outline.rle or coco.drawn(outline.polygons, picture.size) for outline in outlines]
        if picture.size.height_px * picture.size.width_px <= MOST_PIXELS and {outline.label for outline in outlines} <= set(LABELS.names):
            assert coco.painted(outlines, codes, picture.size, LABELS, choices).shape == tuple(picture.size)
    for error in (*document.bad.values(), *document.strays):
        raise error
    return "imported"


def read_objects(raw: bytes, folder: Path) -> str:
    """A file of instances, each decoded."""
    path = folder / "objects.json"
    for instance in checked_instances(parse_json(raw, path, ManifestError, ""), path):
        assert decode(instance).shape == tuple(instance.size)
    return "imported"


READERS: dict[str, tuple[Callable[[], list[Any]], Callable[[bytes, Path], str]]] = {
    "labelme": (labelme_documents, read_labelme), "coco": (coco_documents, read_coco), "instances": (instance_documents, read_objects),
}  # fmt: skip


def fuzz(name: str, inputs: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """(outcomes, tracebacks of failures) of one reader."""
    rng = random.Random(f"{name} {seed}")
    make, read = READERS[name]
    documents, outcomes, failures = [json.dumps(document) for document in make()], Counter[str](), []
    (folder / "a.png").write_bytes(PHOTOGRAPH)
    for _ in range(inputs):
        raw = damaged(rng.choice(documents), rng)
        try:
            outcomes[read(raw, folder)] += 1
        except MedsegError as error:
            outcomes[f"refused by {type(error).__name__}"] += 1
            str(error).encode("utf-8")  # it can be printed
        except Exception:
            outcomes["FAILED"] += 1
            failures.append(f"{raw[:2000]!r}\n{traceback.format_exc()}")
    return outcomes, failures


def main() -> int:
    """Share the inputs: half labelme, the rest COCO and a few instances."""
    parser = command_line(__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    shares = {"labelme": 0.5, "coco": 0.4, "instances": 0.1}
    began, line, bad = time.perf_counter(), {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name, share in shares.items():
            outcomes, failures = fuzz(name, round(arguments.inputs * share), arguments.seed, Path(folder))
            line[name], bad = dict(outcomes.most_common()), [*bad, *failures]
    for failure in bad[:5]:
        print(failure, file=sys.stderr)
    seconds = round(time.perf_counter() - began, 1)
    figures = {"inputs": arguments.inputs, "failed": len(bad), **line, "seed": arguments.seed, "seconds": seconds}
    command = f"python bench/fuzz_json.py --inputs {arguments.inputs} --seed {arguments.seed}"
    tell("Fuzz of the JSON importers", command, figures, arguments.record)
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
