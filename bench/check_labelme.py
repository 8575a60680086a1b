"""Import a folder of labelme files and compare every mask with labelme's own rule, written down independently in tests/oracles.py.

python bench/check_labelme.py --data-root DIR [--record]      prints one JSON line; exit code 1 where a pixel differs
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from record import command_line, proof

sys.path.insert(0, str(Path(__file__).parent.parent))

from medseg.images import read_image, read_mask, read_orientation
from medseg.instances import decode, read_instances
from medseg.manifest.importers.labelme import import_labelme
from medseg.manifest.schema import Manifest
from medseg.manifest.table import read_manifest
from medseg.types import Row
from tests.oracles import labelme_mask, labelme_shape


def compare(manifest: Manifest, row: Row, root: Path) -> dict[str, int]:
    """Differing pixels of one image's mask and of its instances (ungrouped, in the file's order)."""
    content = json.loads((root / f"{row.sample_id}.json").read_text())
    height, width = row.size
    ids = {name: class_id for class_id, name in manifest.labels.classes.items()}
    mask_HW = read_mask(manifest.mask_path(row, root))
    assert mask_HW.shape == (height, width) == read_image(manifest.image_path(row, root)).shape[:2]
    differing = int((mask_HW != labelme_mask(content, ids, height, width)).sum())
    found = read_instances(manifest.folder / str(row.instances))
    shapes = [labelme_shape(shape, height, width) for shape in content["shapes"]]
    assert len(found) == len(shapes) and all(shape.get("group_id") is None for shape in content["shapes"])
    return {"mask": differing, "instances": sum(int((decode(a) != b).sum()) for a, b in zip(found, shapes, strict=True))}


def main() -> int:
    """Print {"files", "differing_pixels", "differing_instance_pixels", "exif_photographs", "notes"}."""
    parser = command_line(__doc__, needs_photographs=True)
    options = parser.parse_args()
    root = options.data_root.resolve()
    with tempfile.TemporaryDirectory() as folder:
        report = import_labelme(root, Path(folder) / "v1")
        manifest = read_manifest(Path(folder) / "v1")
        rows = [row for row in manifest if row.mask is not None]
        results = [compare(manifest, row, root) for row in rows]
        turned = [row.image for row in rows if read_orientation(manifest.image_path(row, root)) > 1]
    line = {
        "files": len(rows), "differing_pixels": sum(result["mask"] for result in results),
        "differing_instance_pixels": sum(result["instances"] for result in results), "exif_photographs": turned,
        "notes": report.notes,
    }  # fmt: skip
    print(json.dumps(line, default=np.ndarray.tolist))
    if options.record:
        figures = {key: value for key, value in line.items() if key != "notes"}
        proof(f"Rasterisation of {root.name} against labelme's rule", f"python bench/check_labelme.py --data-root {root.name}", figures)
    return int(line["differing_pixels"] or line["differing_instance_pixels"] or not rows)


if __name__ == "__main__":
    sys.exit(main())
