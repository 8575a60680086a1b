"""Draw an abdomen as an MR volume, and its label volume.

Everything lies in the frame of a body first: millimetres, x to the person's right, y to the front, z to the head, the origin in the
middle of the first lumbar vertebra's height; half a body is 120 mm wide and 85 mm deep. Each voxel's place in that frame is bent by
slow waves, so that no ellipsoid stays one. Tissues are painted one over the other; the labels are what is left of four organs, so the
truth is right to the voxel's centre, up to the blur of the scanner. Parameters are drawn from generators named by their part, so that
a volume depends on (seed, index) alone.

Brightness is that of a fat-suppressed T2 image. Fluid is as bright in the bowel and the spinal canal as in the gallbladder, the
spleen as bright as the kidneys, and liver, vertebrae, fat and pancreas overlap: no threshold finds an organ.

Legend: X, Y, Z voxels of the grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import nibabel as nib
import numpy as np
from scipy.ndimage import binary_fill_holes, gaussian_filter
from scipy.spatial.transform import Rotation

from medseg.phantom.solids import Places, Solid, Triple, tube, union_depth, waves
from medseg.seeding import numpy_generator

ORGANS = ("liver", "kidney_left", "kidney_right", "gallbladder")  # ids 1, 2, 3, 4
LEFT_RIGHT_PAIRS = (("kidney_left", "kidney_right"),)
ORIENTATIONS = ("RAS", "LPS", "LAS", "LPI", "LSA")  # axes of the file; the last is stored as coronal slices
HALF_WIDTH_MM, HALF_DEPTH_MM = 120.0, 85.0

Part = Callable[[str], np.random.Generator]

_LEVELS = {
    "air": 0.015, "lung": 0.05, "fat": 0.30, "muscle": 0.20, "bone": 0.34, "disc": 0.16, "fluid": 0.96, "vessel": 0.10,
    "spleen": 0.66, "pancreas": 0.46, "liver": 0.43, "kidney": 0.66, "gallbladder": 0.96,
}  # fmt: skip
_LIVER = (Solid((54, 6, 24), (60, 66, 62)), Solid((-8, 36, 42), (58, 27, 27), turn=(0.0, 0.12, 0.1)))
_HOLLOW = Solid((-2, -4, -34), (56, 62, 66))  # the liver's lower face lies on this
_KIDNEYS = {
    "kidney_left": Solid((-53, -31, 2), (22, 19, 46), turn=(0.1, 0.15, 0.0), bend=0.3),
    "kidney_right": Solid((53, -31, -12), (22, 19, 45), turn=(0.1, -0.15, 0.0), bend=-0.3),
}
_GALLBLADDER = Solid((42, 36, -19), (12.2, 12.2, 24), turn=(-0.35, 0.2, 0.0), taper=-0.35)
_DIAPHRAGM = Solid((0, 0, -12), (112, 82, 94))


@dataclass(frozen=True, slots=True, eq=False)
class Abdomen:
    """image_XYZ: int16. mask_XYZ: uint8, 0 and the place in ORGANS from 1. affine: float64 (4, 4), index -> mm in RAS.

    The axes are those of the file; orientation names them.
    """

    image_XYZ: np.ndarray
    mask_XYZ: np.ndarray
    affine: np.ndarray
    orientation: str


class Grid(NamedTuple):
    """shape: voxels along right, front, head. affine: index -> mm in RAS. centre_mm, stretch, turn: where the body's frame lies."""

    shape: tuple[int, int, int]
    affine: np.ndarray
    centre_mm: np.ndarray
    stretch: np.ndarray
    turn: Rotation


@dataclass(slots=True, eq=False)
class Canvas:
    """What is painted so far: brightness and ids, (X, Y, Z); places: each voxel's in the body's frame, in mm."""

    places: Places
    levels: dict[str, float]
    image_XYZ: np.ndarray
    mask_XYZ: np.ndarray

    def paint(self, inside_XYZ: np.ndarray, tissue: str | float, organ: str | None = None) -> None:
        """Paint a tissue (or a brightness) over what is there; what is no organ takes the organs' voxels away."""
        self.shade(inside_XYZ, tissue)
        self.mask_XYZ[inside_XYZ] = ORGANS.index(organ) + 1 if organ else 0

    def shade(self, inside_XYZ: np.ndarray, tissue: str | float) -> None:
        """Paint, and leave the labels."""
        self.image_XYZ[inside_XYZ] = self.levels[tissue] if isinstance(tissue, str) else tissue


def draw_organs(seed: int, index: int) -> Abdomen:
    """Draw volume `index` of the data set `seed`; the result depends on the two alone."""

    def part(name: str) -> np.random.Generator:
        return numpy_generator("organ phantom", seed, index, name)

    grid = _draw_grid(part("grid"))
    canvas = _draw_canvas(part, grid)
    cavity_XYZ = _paint_wall(part("wall"), canvas)
    below_XYZ = cavity_XYZ & _DIAPHRAGM.varied(part("diaphragm"), 3, 0.03, 0.03).holds(canvas.places)
    canvas.paint(cavity_XYZ & ~below_XYZ & (canvas.places.points_3XYZ[2] > 20), "lung")
    _paint_bowel(part("bowel"), canvas, below_XYZ)
    _paint_neighbours(part("neighbours"), canvas, below_XYZ)
    _paint_liver(part("liver"), canvas, below_XYZ)
    _paint_back(part("back"), canvas)
    for side in _KIDNEYS:
        _paint_kidney(part(side), canvas, side, cavity_XYZ)
    _paint_gallbladder(part("gallbladder"), canvas, below_XYZ)
    closed_XYZ = binary_fill_holes(canvas.mask_XYZ > 0) & (canvas.mask_XYZ == 0)
    canvas.paint(closed_XYZ, "liver", "liver")  # pockets of a few voxels between two organs, which nobody would outline
    return _stored(_scan(part, canvas), canvas.mask_XYZ, grid, str(part("orientation").choice(ORIENTATIONS)))


def _draw_grid(rng: np.random.Generator) -> Grid:
    """The scanner's grid around a body that lies a little crooked on its table."""
    spacing_mm = np.array([*([rng.uniform(2.5, 3.0)] * 2), rng.uniform(4.5, 5.5)])
    stretch = np.array([rng.uniform(0.95, 1.05), rng.uniform(0.94, 1.06), 1.0])
    body_mm = 2 * stretch[:2] * (HALF_WIDTH_MM, HALF_DEPTH_MM) + rng.uniform(14, 34, 2)
    shape = np.ceil([*body_mm, rng.uniform(180, 192)] / spacing_mm).astype(int)
    tilt = Rotation.from_rotvec(rng.normal(0, 0.04, 3).clip(-0.08, 0.08))
    centre_mm = rng.normal(0, 15, 3)
    affine = np.eye(4)
    affine[:3, :3] = tilt.as_matrix() * spacing_mm
    affine[:3, 3] = centre_mm - affine[:3, :3] @ ((shape - 1) / 2 + rng.uniform(-1, 1, 3))
    turn = Rotation.from_rotvec(rng.normal(0, 0.03, 3).clip(-0.06, 0.06))
    x, y, z = (int(count) for count in shape)
    return Grid((x, y, z), affine, centre_mm, stretch, turn)


def _draw_canvas(part: Part, grid: Grid) -> Canvas:
    rng = part("levels")
    levels = {tissue: level * float(np.exp(rng.normal(0, 0.05))) for tissue, level in _LEVELS.items()}
    points_3XYZ = _places(grid)
    bends = [waves(part(f"bend {axis}"), points_3XYZ, 5, (110, 220)) for axis in "xyz"]
    points_3XYZ += np.float32(2.8) * np.stack(bends)
    return Canvas(Places.of(points_3XYZ), levels, np.full(grid.shape, levels["air"], np.float32), np.zeros(grid.shape, np.uint8))


def _places(grid: Grid) -> np.ndarray:
    """float32 (3, X, Y, Z): every voxel's centre in the body's frame before it is bent, in mm."""
    from_centre = np.column_stack([grid.affine[:3, :3], grid.affine[:3, 3] - grid.centre_mm])
    to_body = (grid.turn.inv().as_matrix() / grid.stretch[:, None]) @ from_centre
    i, j, k = np.ogrid[: grid.shape[0], : grid.shape[1], : grid.shape[2]]
    return np.stack([a * i + b * j + c * k + d for a, b, c, d in to_body]).astype(np.float32)


def _paint_wall(rng: np.random.Generator, canvas: Canvas) -> np.ndarray:
    """Fat under the skin and a ring of muscle; returns what they enclose, bool (X, Y, Z)."""
    places, body = canvas.places, tube(0, 0, HALF_WIDTH_MM, HALF_DEPTH_MM)
    fat_mm, muscle_mm = rng.uniform(5, 10), rng.uniform(6, 9)
    canvas.paint(body.holds(places), "fat")
    canvas.paint(body.grown(-fat_mm).holds(places), "muscle")
    cavity_XYZ = body.grown(-fat_mm - muscle_mm).holds(places)
    canvas.paint(cavity_XYZ, "fat")
    return cavity_XYZ


def _paint_bowel(rng: np.random.Generator, canvas: Canvas, below_XYZ: np.ndarray) -> None:
    """Loops of any brightness, from gas to fluid, each in a wall of muscle."""
    for _ in range(14):
        centre: Triple = (rng.uniform(-78, 72), rng.uniform(-4, 52), rng.uniform(-88, -12))
        loop = Solid(centre, (rng.uniform(9, 14), rng.uniform(9, 14), rng.uniform(12, 26)), turn=tuple(rng.normal(0, 0.9, 3)))
        content = float(rng.choice([rng.uniform(0.3, 0.6), canvas.levels["fluid"] * rng.uniform(0.85, 1.0), canvas.levels["air"]]))
        canvas.paint(loop.grown(2.5).holds(canvas.places) & below_XYZ, "muscle")
        canvas.paint(loop.holds(canvas.places) & below_XYZ, content)


def _paint_neighbours(rng: np.random.Generator, canvas: Canvas, below_XYZ: np.ndarray) -> None:
    """What looks like the organs and is none: spleen, stomach, pancreas."""
    stomach = Solid((-46, 22, 36), (28, 28, 36), turn=(0.3, 0.2, 0.0))
    spleen, pancreas = Solid((-80, -18, 34), (17, 34, 40)), Solid((-6, 4, 4), (46, 9, 11), turn=(0.0, 0.25, 0.15))
    content = rng.uniform(0.6, 1.0) * canvas.levels["fluid"]
    for solid, tissue in ((stomach.grown(3), "muscle"), (stomach, content), (pancreas, "pancreas"), (spleen, "spleen")):
        canvas.paint(solid.varied(rng, 0 if solid is stomach else 3, 0.0, 0.08).holds(canvas.places) & below_XYZ, tissue)


def _paint_liver(rng: np.random.Generator, canvas: Canvas, below_XYZ: np.ndarray) -> None:
    """Two lobes under the diaphragm, hollow below, with vessels that belong to it."""
    places = canvas.places
    lobes = [solid.varied(rng, 4, 0.07, 0.06) for solid in _LIVER]
    hollow = _HOLLOW.varied(rng, 4, 0.06, 0.06)
    liver_XYZ = (union_depth(lobes, places.points_3XYZ) > 0) & ~hollow.holds(places) & below_XYZ
    canvas.paint(liver_XYZ, "liver", "liver")
    for _ in range(6):
        centre: Triple = tuple(np.add((40, 8, 36), rng.normal(0, 18, 3)))
        vessel = Solid(centre, (rng.uniform(3, 5), rng.uniform(3, 5), rng.uniform(28, 48)), turn=tuple(rng.normal(0, 1.0, 3)))
        canvas.shade(vessel.holds(places) & liver_XYZ, "vessel")


def _paint_back(rng: np.random.Generator, canvas: Canvas) -> None:
    """Spine with discs and canal, the muscles beside it, the great vessels before it."""
    places = canvas.places
    for side in (-1, 1):
        canvas.paint(tube(side * 30, -59, 25, 15).holds(places), "muscle")
        canvas.paint(Solid((side * 32.0, -36, -70), (15, 17, 62)).holds(places), "muscle")
    canvas.paint(tube(0, -60, 17, 14).holds(places), "bone")
    spine_XYZ = tube(0, -38, 21, 16).holds(places)
    canvas.paint(spine_XYZ, "bone")
    between_XYZ = (places.points_3XYZ[2] + np.float32(rng.uniform(0, 34))) % 34 < 8
    canvas.paint(spine_XYZ & between_XYZ, "disc")
    canvas.paint(tube(0, -61, 8, 7).holds(places), "fluid")
    canvas.paint(tube(-8 + rng.normal(0, 2), -12, 9, 9).holds(places), "vessel")
    canvas.paint(tube(17 + rng.normal(0, 2), -12, 11, 8).holds(places), "vessel")


def _paint_kidney(rng: np.random.Generator, canvas: Canvas, side: str, cavity_XYZ: np.ndarray) -> None:
    """In a capsule of fat, with a brighter inside and a sinus of fat that opens to the middle and is no kidney."""
    places = canvas.places
    kidney = _KIDNEYS[side].varied(rng, 3, 0.08, 0.08)
    inward = -np.sign(kidney.centre_mm[0])
    sinus = Solid(tuple(np.add(kidney.centre_mm, (13 * inward, 4, 0))), (14, 8, 15), kidney.turn)
    canvas.paint(kidney.grown(4).holds(places) & cavity_XYZ, "fat")
    canvas.paint(kidney.holds(places) & cavity_XYZ, "kidney", side)
    canvas.shade(kidney.grown(-7).holds(places) & cavity_XYZ, 1.12 * canvas.levels["kidney"])
    canvas.paint(sinus.holds(places) & cavity_XYZ, "fat")


def _paint_gallbladder(rng: np.random.Generator, canvas: Canvas, below_XYZ: np.ndarray) -> None:
    """A pear of bile in a thin wall, half sunk into the liver's lower face."""
    gallbladder = _GALLBLADDER.varied(rng, 3, 0.08, 0.12)
    canvas.paint(gallbladder.grown(3).holds(canvas.places) & below_XYZ, "muscle")
    canvas.paint(gallbladder.holds(canvas.places) & below_XYZ, "gallbladder", "gallbladder")


def _scan(part: Part, canvas: Canvas) -> np.ndarray:
    """int16 (X, Y, Z): grain of the tissue, blur, slow unevenness of the coils, and noise of a magnitude image (Rician).

    Gudbjartsson and Patz, The Rician distribution of noisy MRI data, Magnetic Resonance in Medicine 1995.
    """
    rng, shape = part("scan"), canvas.image_XYZ.shape
    grain = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 1.0)
    image = gaussian_filter(canvas.image_XYZ * (1 + 0.25 * grain), (0.5, 0.5, 0.35))
    image *= np.exp(np.float32(rng.uniform(0.08, 0.18)) * waves(part("coils"), canvas.places.points_3XYZ, 4, (260, 500)))
    sigma = np.float32(rng.uniform(0.02, 0.04))
    real = image + sigma * rng.standard_normal(shape, dtype=np.float32)
    magnitude = np.hypot(real, sigma * rng.standard_normal(shape, dtype=np.float32))
    return np.asarray(np.rint(magnitude * np.float32(rng.uniform(400, 1500))), np.int16)


def _stored(image_XYZ: np.ndarray, mask_XYZ: np.ndarray, grid: Grid, orientation: str) -> Abdomen:
    """The volumes on the axes of the file, and the affine that goes with them."""
    change = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(orientation))
    affine = grid.affine @ nib.orientations.inv_ornt_aff(change, grid.shape)
    image, mask = (np.ascontiguousarray(nib.orientations.apply_orientation(array, change)) for array in (image_XYZ, mask_XYZ))
    return Abdomen(image, mask, affine, orientation)
