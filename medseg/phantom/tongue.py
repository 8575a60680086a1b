"""Draw a tongue photograph and its annotation.

Everything lies in a face frame first: the origin between the lips, u to the right, v down to the chin, about one half tongue
width a unit. A `Pose` carries it to pixels. Parameters are drawn from generators named by their part, then applied, so that an
image depends on (seed, index, size, has_lesion) alone and its face stays the same with and without the lesion.

Outlines come first and the picture is painted from the masks that labelme's rule draws of them; the truth is therefore right to
the pixel, up to the blur of the lens. Colours are sRGB in [0, 1].

Legend: C channels, H height, W width, N points. A canvas is float32 (3, H, W).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter

from medseg.rasterise import Shape, draw
from medseg.seeding import numpy_generator
from medseg.types import Size

PHANTOM_CLASSES = ("tongue", "coating", "lesion")
PHANTOM_REGIONS = {"whole_tongue": PHANTOM_CLASSES}
LESION_SHARE = (0.0030, 0.0048)  # of the image's pixels: visible at 160 x 160, still under half a per cent
COATING_SHARE = (0.2, 0.48)  # of the tongue

Part = Callable[[str], np.random.Generator]
Colour = np.ndarray


@dataclass(frozen=True, slots=True)
class Phantom:
    """image_HWC: uint8 RGB. shapes: polygons in paint order, tongue, coating, lesion; `points` in pixels, two decimals."""

    image_HWC: np.ndarray
    shapes: tuple[Shape, ...]
    has_lesion: bool


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the face frame lies: its origin and unit in pixels, its roll in radians."""

    x_px: float
    y_px: float
    unit_px: float
    roll: float

    def to_pixels(self, points_N2: np.ndarray) -> np.ndarray:
        """Face frame (N, 2) -> pixels (N, 2)."""
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        return points_N2 @ np.array([[cos, sin], [-sin, cos]]) * self.unit_px + (self.x_px, self.y_px)

    def grid(self, size: Size) -> tuple[np.ndarray, np.ndarray]:
        """The face coordinates (u, v) of every pixel's centre, float32 (H, W) each."""
        y, x = np.mgrid[: size.height_px, : size.width_px].astype(np.float32)
        x, y = (x - self.x_px) / self.unit_px, (y - self.y_px) / self.unit_px
        cos, sin = float(np.cos(self.roll)), float(np.sin(self.roll))
        return cos * x + sin * y, cos * y - sin * x


@dataclass(frozen=True, slots=True)
class Light:
    """direction: unit vector (x, y) towards the lamp; fall, vignette: relative loss of light across the frame; gain_RGB: exposure
    times colour temperature; blur_px and noise belong to the camera."""

    direction: np.ndarray
    fall: float
    vignette: float
    gain_RGB: Colour
    blur_px: float
    noise: float


@dataclass(frozen=True, slots=True)
class Form:
    """A tongue's outline in face units; taper narrows the tip, power sharpens it, bend moves it sideways, notch scallops it."""

    half_width: float
    length: float
    root: float
    taper: float
    power: float
    bend: float
    notch: float


@dataclass(frozen=True, slots=True)
class Colours:
    """sRGB triples in [0, 1]."""

    skin: Colour
    lips: Colour
    tongue: Colour
    coating: Colour
    wall: Colour
    cloth: Colour


@dataclass(frozen=True, slots=True)
class Scene:
    """What every painter needs: the frame, the pixel's face coordinates, the light and the colours."""

    size: Size
    pose: Pose
    form: Form
    light: Light
    colours: Colours
    u_HW: np.ndarray
    v_HW: np.ndarray

    def crop(self, box: tuple[slice, slice]) -> Scene:
        """The scene of a window, for painters that need no more than a third of the frame. The pose stays the frame's."""
        u_HW = self.u_HW[box]
        return replace(self, size=Size(*u_HW.shape), u_HW=u_HW, v_HW=self.v_HW[box])


def draw_tongue(seed: int, index: int, size: Size, has_lesion: bool) -> Phantom:
    """Draw image `index` of the data set `seed`; the result depends on the four arguments alone."""

    def part(name: str) -> np.random.Generator:
        return numpy_generator("phantom", seed, index, name)

    scene, outline = _draw_scene(part, size)
    tongue = _shape("tongue", outline)
    tongue_HW = _mask(tongue, size)
    coating = _draw_coating(part("coating"), scene, tongue_HW)
    lesion = _draw_lesion(part("lesion"), scene, tongue_HW) if has_lesion else ()
    canvas, face_HW = _paint_face(part("face"), scene)
    hole_HW = _paint_mouth(part("mouth"), scene, canvas)
    _paint_distractors(part("distractors"), scene, canvas, face_HW & ~hole_HW)
    near = _box(tongue_HW, round(0.35 * scene.pose.unit_px))
    close_up, coating_HW = scene.crop(near), _union(coating, size)
    _paint_tongue(part("tongue"), close_up, canvas[:, *near], tongue_HW[near], coating_HW[near])
    for shape in lesion:
        _paint_sore(part("sore"), canvas, _mask(shape, size))
    _paint_saliva(part("saliva"), close_up, canvas[:, *near], tongue_HW[near])
    return Phantom(_expose(part("camera"), scene, canvas), (tongue, *coating, *lesion), has_lesion)


def _draw_scene(part: Part, size: Size) -> tuple[Scene, np.ndarray]:
    """The scene, and the tongue's outline in pixels (N, 2), shifted so that it lies wholly in the frame."""
    form, pose = _draw_form(part("form")), _draw_pose(part("pose"), size)
    outline = _outline(part("outline"), form)
    low, high = (pose.to_pixels(outline).min(0), pose.to_pixels(outline).max(0))
    room = np.array([size.width_px, size.height_px]) - 1 - 0.03 * min(size)
    shift = np.maximum(0.03 * min(size) - low, 0) - np.maximum(high - room, 0)
    pose = replace(pose, x_px=pose.x_px + float(shift[0]), y_px=pose.y_px + float(shift[1]))
    u_HW, v_HW = pose.grid(size)
    scene = Scene(size, pose, form, _draw_light(part("light"), size), _draw_colours(part("colours")), u_HW, v_HW)
    return scene, pose.to_pixels(outline)


def _draw_form(rng: np.random.Generator) -> Form:
    return Form(
        half_width=rng.uniform(0.74, 1.0),
        length=rng.uniform(1.25, 1.95),
        root=rng.uniform(0.24, 0.40),
        taper=rng.uniform(0.0, 0.32),
        power=rng.uniform(0.8, 1.15),
        bend=rng.normal(0.0, 0.06),
        notch=rng.choice([0.0, 0.0, 0.012, 0.02]),
    )


def _draw_pose(rng: np.random.Generator, size: Size) -> Pose:
    return Pose(
        x_px=size.width_px * rng.uniform(0.42, 0.58),
        y_px=size.height_px * 0.5 - min(size) * rng.uniform(0.1, 0.24),
        unit_px=min(size) * rng.uniform(0.235, 0.32),
        roll=rng.normal(0.0, 0.11),
    )


def _draw_light(rng: np.random.Generator, size: Size) -> Light:
    angle = rng.normal(-np.pi / 2, 0.7)  # mostly from above
    warm = rng.normal(0.0, 0.055)
    return Light(
        direction=np.array([np.cos(angle), np.sin(angle)]),
        fall=rng.uniform(0.05, 0.4),
        vignette=rng.uniform(0.0, 0.35),
        gain_RGB=rng.uniform(0.84, 1.14) * np.array([1 + warm, 1.0, 1 - 1.4 * warm]),
        blur_px=min(size) / 256 * rng.uniform(0.45, 0.95),
        noise=rng.uniform(0.004, 0.014),
    )


def _draw_colours(rng: np.random.Generator) -> Colours:
    depth = rng.beta(1.3, 1.9)  # 0 fair, 1 dark
    skin = _mix([0.90, 0.74, 0.65], [0.45, 0.29, 0.21], depth) + rng.normal(0, 0.015, 3)
    pale, red, purple = np.array([0.85, 0.60, 0.58]), np.array([0.79, 0.37, 0.38]), np.array([0.62, 0.37, 0.45])
    weights = rng.dirichlet([1.2, 1.5, 0.8])
    tongue = weights[0] * pale + weights[1] * red + weights[2] * purple + rng.normal(0, 0.012, 3)
    lips = _mix(tongue, skin * [0.92, 0.66, 0.66], rng.uniform(0.25, 0.75))
    coating = _mix([0.90, 0.88, 0.85], [0.86, 0.79, 0.56], rng.beta(1.0, 1.4)) - rng.uniform(0.0, 0.06)
    return Colours(skin, lips, tongue, coating, rng.uniform(0.25, 0.9) + rng.normal(0, 0.04, 3), rng.uniform(0.08, 0.85, 3))


def _wobble(rng: np.random.Generator, theta: np.ndarray, low: int, high: int, amplitude: float) -> np.ndarray:
    """A smooth closed noise over `theta`: harmonics low..high, falling as 1/k, with root mean square near `amplitude`."""
    k = np.arange(low, high + 1)
    weight = rng.normal(0, 1, k.size) * low / k
    weight *= amplitude / np.sqrt(0.5 * np.sum((low / k) ** 2.0))
    return np.cos(np.outer(theta, k) + rng.uniform(0, 2 * np.pi, k.size)) @ weight


def _outline(rng: np.random.Generator, form: Form, points: int = 110) -> np.ndarray:
    """The tongue's outline in the face frame (N, 2): half an ellipse for the root, a tapered half for the blade."""
    theta = np.linspace(0, 2 * np.pi, points, endpoint=False)
    cos, sin = np.cos(theta), np.sin(theta)
    v = np.where(sin > 0, form.length * np.abs(sin) ** form.power, -form.root * np.abs(sin))
    along = np.clip(v / form.length, 0, 1)
    u = form.half_width * np.sign(cos) * np.abs(cos) ** 0.92 * (1 - form.taper * along**1.5)
    swell = 1 + _wobble(rng, theta, 2, 6, 0.018) + form.notch * np.sin(17 * theta + rng.uniform(0, 6)) * (np.abs(cos) > 0.3)
    return np.stack([u * swell + form.bend * v**2, v * swell], axis=1)


def _blob(rng: np.random.Generator, centre: np.ndarray, radii: tuple[float, float], rough: float, points: int) -> np.ndarray:
    """An irregular closed curve (N, 2) about `centre`, with these semi-axes before a random turn of at most half a radian."""
    theta = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radius = np.clip(1 + _wobble(rng, theta, 2, 4, rough) + _wobble(rng, theta, 5, 22, 0.5 * rough), 0.45, 1.6)
    turn = rng.uniform(-0.5, 0.5)
    curve = np.stack([radii[0] * np.cos(theta), radii[1] * np.sin(theta)], axis=1) * radius[:, None]
    return curve @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + centre


def _shape(label: str, points_N2: np.ndarray) -> Shape:
    return Shape(label, "polygon", tuple((round(float(x), 2), round(float(y), 2)) for x, y in points_N2))


def _mask(shape: Shape, size: Size) -> np.ndarray:
    """bool (H, W): the pixels labelme would give the shape."""
    return draw([(shape, 1)], size) > 0


def _box(mask_HW: np.ndarray, margin_px: int) -> tuple[slice, slice]:
    """The rows and columns that hold a mask, and a margin."""
    rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
    return (
        slice(max(0, rows[0] - margin_px), rows[-1] + margin_px + 1),
        slice(max(0, columns[0] - margin_px), columns[-1] + margin_px + 1),
    )


def _union(shapes: tuple[Shape, ...], size: Size) -> np.ndarray:
    return draw([(shape, 1) for shape in shapes], size) > 0


def _fit_inside(label: str, points_N2: np.ndarray, room_HW: np.ndarray, size: Size) -> Shape:
    """The shape, shrunk about its middle until all its pixels lie in `room_HW`."""
    middle = points_N2.mean(0)
    for _ in range(60):
        shape = _shape(label, points_N2)
        if not np.any(_mask(shape, size) & ~room_HW):
            return shape
        points_N2 = middle + 0.95 * (points_N2 - middle)
    raise AssertionError(f"no room for the {label} at {middle}")


def _draw_coating(rng: np.random.Generator, scene: Scene, tongue_HW: np.ndarray) -> tuple[Shape, ...]:
    """One patch about the root and middle, or two: side by side along the groove, or one before the other."""
    room_HW = _soften(tongue_HW, 0.035 * scene.pose.unit_px) > 0.985
    form, share = scene.form, rng.uniform(*COATING_SHARE)
    area = share * form.half_width * (form.length + form.root) * 1.6  # the tongue's area, near enough
    v = form.length * rng.uniform(0.17, 0.32)
    kind = rng.choice(["one", "one", "one", "sides", "island"])
    if kind == "sides":
        width = min(0.4 * form.half_width, np.sqrt(area / 2 / np.pi / 1.6))
        spots = [(side * (width + 0.05), v, width, area / 2 / np.pi / width) for side in (-1, 1)]
    else:
        width = min(0.8 * form.half_width, np.sqrt(area / np.pi * rng.uniform(0.75, 1.25)))
        spots = [(rng.normal(0, 0.05), v, width, area / np.pi / width)]
        if kind == "island":
            spots.append((rng.uniform(-0.3, 0.3) * form.half_width, form.length * 0.8, 0.18, rng.uniform(0.1, 0.16)))
    rough = rng.uniform(0.05, 0.11)
    return tuple(_coating_patch(rng, scene, spot, rough, room_HW) for spot in spots)


def _coating_patch(
    rng: np.random.Generator, scene: Scene, spot: tuple[float, float, float, float], rough: float, room_HW: np.ndarray
) -> Shape:
    """A patch about spot (u, v, semi-axis, semi-axis); points beyond the tongue's edge are drawn in until they follow it."""
    u, v, width, height = spot
    points = scene.pose.to_pixels(_blob(rng, np.array([u + scene.form.bend * v**2, v]), (width, height), rough, 120))
    middle = points.mean(0)
    limit = np.array([scene.size.width_px, scene.size.height_px]) - 1
    for _ in range(40):
        x, y = points.round().astype(int).clip(0, limit).T
        points = np.where(room_HW[y, x][:, None], points, middle + 0.96 * (points - middle))
    return _fit_inside("coating", points, room_HW, scene.size)


def _draw_lesion(rng: np.random.Generator, scene: Scene, tongue_HW: np.ndarray) -> tuple[Shape, ...]:
    """One small polygon, of a share of the image's pixels drawn from LESION_SHARE, anywhere that it fits on the tongue."""
    area_px = rng.uniform(*LESION_SHARE) * scene.size.height_px * scene.size.width_px
    stretch = rng.uniform(1.0, 1.35)
    radius = np.sqrt(area_px / np.pi) - 0.5  # labelme's outline adds half a pixel all round
    room_HW = _soften(tongue_HW, 1 + 0.02 * scene.pose.unit_px) > 0.98
    for _ in range(80):
        along, side = rng.uniform(0.05, 0.92), rng.uniform(-0.85, 0.85)
        v = along * scene.form.length
        centre = np.array([side * scene.form.half_width + scene.form.bend * v**2, v])
        points = _blob(rng, scene.pose.to_pixels(centre[None])[0], (radius * stretch, radius / stretch), 0.07, 60)
        shape = _shape("lesion", points)
        if not np.any(_mask(shape, scene.size) & ~room_HW):
            return (shape,)
    middle = scene.pose.to_pixels(np.array([[0.0, 0.4 * scene.form.length]]))[0]
    return (_fit_inside("lesion", _blob(rng, middle, (radius, radius), 0.05, 60), room_HW, scene.size),)


def _mix(first: Colour | list[float], second: Colour | list[float], share: float) -> Colour:
    return (1 - share) * np.asarray(first) + share * np.asarray(second)


def _over(canvas_CHW: np.ndarray, colour: Colour | list[float], alpha_HW: np.ndarray) -> None:
    """Lay a colour over the canvas, in place; alpha in [0, 1]. Planes, not pixels, are contiguous: three times as fast."""
    layer = np.asarray(colour, np.float32)[:, None, None] - canvas_CHW
    layer *= alpha_HW.astype(np.float32, copy=False)
    canvas_CHW += layer


def _shade(canvas_CHW: np.ndarray, factor_HW: np.ndarray) -> None:
    """Multiply the canvas by a grey factor, in place."""
    canvas_CHW *= factor_HW.astype(np.float32, copy=False)


def _soften(mask_HW: np.ndarray, radius_px: float) -> np.ndarray:
    """A mask blurred by a Gaussian, float32 in [0, 1]. Wide blurs run on a quarter of the rows and columns, ten times as fast."""
    height, width = mask_HW.shape
    if radius_px < 2.5:
        image = Image.fromarray(mask_HW.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(radius_px))
        return np.asarray(image, np.float32) / 255
    small = Image.fromarray(mask_HW.astype(np.float32)).resize((-(-width // 4), -(-height // 4)), Image.Resampling.BOX)
    blurred = gaussian_filter(np.asarray(small), radius_px / 4, mode="nearest")
    return np.asarray(Image.fromarray(blurred).resize((width, height), Image.Resampling.BICUBIC)).clip(0, 1)


def _noise(rng: np.random.Generator, size: Size, cell_px: float) -> np.ndarray:
    """Smooth noise with bumps about `cell_px` wide, float32 (H, W), unit variance at the grid's nodes."""
    cells = (max(2, round(size.width_px / cell_px)), max(2, round(size.height_px / cell_px)))
    coarse = rng.standard_normal((cells[1], cells[0]), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize((size.width_px, size.height_px), Image.Resampling.BICUBIC))


def _bump(scene: Scene, u: float, v: float, wide: float, high: float) -> np.ndarray:
    """A Gaussian hill in face coordinates, float32 (H, W), 1 at its top."""
    return np.exp(-(((scene.u_HW - u) / wide) ** 2 + ((scene.v_HW - v) / high) ** 2))


def _polygon(scene: Scene, points_N2: np.ndarray) -> np.ndarray:
    """bool (H, W) of a polygon in face coordinates."""
    return _mask(_shape("", scene.pose.to_pixels(points_N2)), scene.size)


def _paint_face(rng: np.random.Generator, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Wall, clothes and the lower face with its shading: float32 (3, H, W); and where the face is: bool (H, W)."""
    size, unit, colours = scene.size, scene.pose.unit_px, scene.colours
    canvas = np.empty((3, *size), np.float32)
    canvas[:] = colours.wall[:, None, None]
    _shade(canvas, 1 + 0.05 * _noise(rng, size, 0.9 * unit))
    _over(canvas, colours.skin * 0.72, _soften((np.abs(scene.u_HW) < rng.uniform(1.2, 1.5)) & (scene.v_HW > 1), 2.5))  # the neck
    _over(canvas, colours.cloth, _soften(scene.v_HW > rng.uniform(2.75, 3.2) - 0.12 * scene.u_HW**2, 1.5))
    face_HW = _jaw(scene, rng)
    soft_HW = _soften(face_HW, 0.02 * unit)
    _shade(canvas, 1 - 0.5 * _soften(face_HW, 0.22 * unit))  # the face's shadow on neck and wall
    _over(canvas, colours.skin, soft_HW)
    relief = _face_relief(rng, scene) + 0.3 * _soften(face_HW, 0.35 * unit) - 0.28
    _shade(canvas, 1 + soft_HW * (relief - 1))
    flush = _bump(scene, -1.7, -0.6, 0.6, 0.7) + _bump(scene, 1.7, -0.6, 0.6, 0.7)
    _over(canvas, [0.78, 0.36, 0.33], soft_HW * rng.uniform(0.05, 0.22) * flush)
    _paint_nose(rng, scene, canvas)
    return canvas, face_HW


def _face_relief(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """Chin, cheeks, folds, philtrum and pores: a factor about 1, float32 (H, W)."""
    unit = scene.pose.unit_px
    relief = 1 + 0.10 * _bump(scene, 0, 2.25, 0.8, 0.45) - 0.20 * _bump(scene, 0, 1.25, 0.75, 0.25)
    relief += 0.08 * _bump(scene, 0.1, -1.05, 0.06, 0.2) - 0.08 * _bump(scene, 0, -1.05, 0.06, 0.2)
    for side in (-1, 1):
        relief += 0.10 * _bump(scene, 1.6 * side, -0.4, 0.5, 0.8)
        fold = (side * scene.u_HW - 1.42 - 0.28 * scene.v_HW) / 0.09
        relief -= 0.10 * np.exp(-(fold**2)) * _bump(scene, 1.5 * side, -0.2, 0.6, 0.8)
    return relief + 0.022 * _noise(rng, scene.size, 0.25 * unit) + 0.016 * _noise(rng, scene.size, 0.04 * unit)


def _jaw(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """bool (H, W) of the face below the eyes."""
    cheek, chin = rng.uniform(1.75, 2.35), rng.uniform(2.35, 2.75)
    theta = np.linspace(0, np.pi, 40)
    lower = np.stack([cheek * np.cos(theta) * np.abs(np.cos(theta)) ** 0.05, chin * np.sin(theta) ** 0.9], axis=1)
    return _polygon(scene, np.concatenate([lower, [[-1.06 * cheek, -9], [1.06 * cheek, -9]]]))


def _paint_nose(rng: np.random.Generator, scene: Scene, canvas: np.ndarray) -> None:
    v = -rng.uniform(1.5, 1.75)
    _shade(canvas, 1 - 0.16 * _bump(scene, 0, v + 0.08, 0.6, 0.16) + 0.06 * _bump(scene, 0, v - 0.3, 0.3, 0.3))
    for side in (-1, 1):
        _over(canvas, scene.colours.skin * 0.22, 0.85 * np.minimum(1, 1.6 * _bump(scene, 0.23 * side, v, 0.13, 0.065)))


def _paint_mouth(rng: np.random.Generator, scene: Scene, canvas: np.ndarray) -> np.ndarray:
    """Lips, the dark opening and a hint of the upper teeth; returns where the opening is, bool (H, W)."""
    theta = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    cos, sin = np.cos(theta), np.sin(theta)
    wide, full = scene.form.half_width + rng.uniform(0.22, 0.4), rng.uniform(0.8, 1.25)
    bow = 0.09 * np.exp(-((cos / 0.14) ** 2)) * (sin < 0)
    opening_v = np.where(sin < 0, rng.uniform(0.42, 0.52) * sin, 0.52 * sin)
    outer_v = opening_v + full * np.where(sin < 0, 0.3 * sin + bow, 0.36 * sin)
    hole_HW = _polygon(scene, np.stack([0.97 * wide * cos, opening_v], axis=1))
    lips_HW = _polygon(scene, np.stack([1.13 * wide * cos, outer_v], axis=1))
    near = _box(lips_HW, round(0.4 * scene.pose.unit_px))
    close_up, patch, gap_HW = scene.crop(near), canvas[:, *near], hole_HW[near]
    _paint_lips(rng, close_up, patch, lips_HW[near], gap_HW)
    _over(patch, rng.uniform(0.06, 0.16) * np.array([1, 0.5, 0.5]), _soften(gap_HW, 0.03 * scene.pose.unit_px))
    if rng.random() < 0.65:
        _paint_teeth(rng, close_up, patch, gap_HW)
    return hole_HW


def _paint_lips(rng: np.random.Generator, scene: Scene, canvas: np.ndarray, lips_HW: np.ndarray, hole_HW: np.ndarray) -> None:
    unit = scene.pose.unit_px
    soft_HW = _soften(lips_HW, 0.03 * unit)
    _shade(canvas, 1 - 0.16 * _soften(lips_HW, 0.12 * unit))
    _over(canvas, scene.colours.lips, soft_HW * 0.93)
    cracks = _noise(rng, scene.size, 0.035 * unit)
    relief = 0.6 + 0.5 * _soften(lips_HW & ~hole_HW, 0.07 * unit) + 0.05 * cracks
    _shade(canvas, 1 + soft_HW * (relief - 1))
    gloss = np.clip(_noise(rng, scene.size, 0.12 * unit) - 0.5, 0, 1) * _bump(scene, 0, 0.68, 0.9, 0.1)
    _over(canvas, [1, 0.97, 0.95], 0.55 * gloss * soft_HW)


def _paint_teeth(rng: np.random.Generator, scene: Scene, canvas: np.ndarray, hole_HW: np.ndarray) -> None:
    edge, pitch = -0.46 + rng.uniform(0.1, 0.2), rng.uniform(0.2, 0.26)
    u, v = scene.u_HW, scene.v_HW
    gap = np.abs(np.mod(u / pitch, 1) - 0.5)  # 0 in a tooth's middle, 0.5 between two
    row = hole_HW & (v < edge + 0.12 * u**2 - 0.16 * np.clip(gap - 0.38, 0, 1)) & (np.abs(u) < 0.75)
    colour = rng.uniform(0.72, 0.9) * np.array([1, 0.97, 0.88])
    _over(canvas, colour, _soften(row, 0.02 * scene.pose.unit_px) * (0.9 - 0.9 * u**2).clip(0, 1) * (1 - 0.4 * (gap > 0.46)))


def _paint_distractors(rng: np.random.Generator, scene: Scene, canvas: np.ndarray, room_HW: np.ndarray) -> None:
    """Sores, pimples and moles on skin and lips: the lesion's colours and structure where it cannot be."""
    unit = scene.pose.unit_px
    for _ in range(rng.integers(1, 6)):
        centre = scene.pose.to_pixels(_beside_the_tongue(rng)[None])[0]
        radius = rng.uniform(0.04, 0.15) * unit
        points = _blob(rng, centre, (radius * rng.uniform(0.9, 1.3), radius), 0.07, 40)
        _paint_sore(rng, canvas, _mask(_shape("", points), scene.size) & room_HW)
    if rng.random() < 0.4:  # a freckled or stubbled chin
        speck = np.clip(_noise(rng, scene.size, 0.05 * unit) - 1.6, 0, 1)
        _over(canvas, scene.colours.skin * 0.4, 0.6 * speck * _bump(scene, 0, 1.9, 1.6, 0.8) * room_HW)


def _beside_the_tongue(rng: np.random.Generator) -> np.ndarray:
    """A point (u, v) on a cheek, on or above the upper lip, on the lower lip's ends or on the chin."""
    kind, side = rng.choice(["cheek", "cheek", "lip", "corner", "chin"]), rng.choice([-1, 1])
    if kind == "cheek":
        return np.array([side * rng.uniform(1.25, 1.95), rng.uniform(-1.3, 1.3)])
    if kind == "lip":
        return np.array([side * rng.uniform(0, 1.0), rng.uniform(-1.3, -0.55)])
    if kind == "corner":
        return np.array([side * rng.uniform(0.85, 1.2), rng.uniform(0.35, 0.75)])
    return np.array([side * rng.uniform(0.3, 1.4), rng.uniform(1.3, 2.4)])


def _paint_sore(rng: np.random.Generator, canvas: np.ndarray, mask_HW: np.ndarray) -> None:
    """An ulcer (red rim, yellowish-white floor) or a dark red bleb (paler ring, lit cap), painted within its mask.

    The lesion and the distractors come from the same hand. Only the box around the sore is painted, a hundredth of the picture.
    """
    if mask_HW.sum() < 4:
        return
    box = _box(mask_HW, 6)
    cut, patch = mask_HW[box], canvas[:, *box]
    radius = float(np.sqrt(cut.sum() / np.pi))
    edge, depth = _soften(cut, 0.6), _soften(cut, 0.45 * radius)
    grain = gaussian_filter(rng.standard_normal(cut.shape), 0.1 * radius)
    depth = depth / depth.max() + 0.1 * grain / max(float(grain.std()), 1e-6) * (depth > 0.3)
    red, dark = np.array([0.64, 0.13, 0.15]) + rng.normal(0, 0.04, 3), np.array([0.36, 0.06, 0.11]) + rng.normal(0, 0.025, 3)
    if rng.random() < 0.62:
        floor = np.clip((depth - rng.uniform(0.62, 0.76)) / 0.2, 0, 1)
        _over(patch, red, rng.uniform(0.62, 0.85) * edge)
        _over(patch, np.array([0.92, 0.85, 0.64]) + rng.normal(0, 0.03, 3), rng.uniform(0.72, 0.92) * floor * edge)
    else:
        ring = np.exp(-(((depth - 0.78) / 0.09) ** 2))
        _over(patch, dark, rng.uniform(0.72, 0.88) * edge)
        _over(patch, red + 0.12, 0.55 * ring * edge)
        cap = np.roll(depth > 1.0, (-round(0.25 * radius), -round(0.2 * radius)), (0, 1))
        _over(patch, [0.95, 0.82, 0.82], 0.45 * cap * edge)


def _paint_tongue(rng: np.random.Generator, scene: Scene, canvas: np.ndarray, tongue_HW: np.ndarray, coating_HW: np.ndarray) -> None:
    """The body with groove, papillae and coating, its relief, and its shadow on lip and chin."""
    unit, size = scene.pose.unit_px, scene.size
    away = tuple(int(step) for step in np.round(-0.05 * unit * scene.light.direction[::-1]))
    drop = np.roll(_soften(tongue_HW, 0.09 * unit), away, (0, 1))
    _shade(canvas, 1 - rng.uniform(0.4, 0.65) * drop)
    body = np.empty_like(canvas)
    body[:] = scene.colours.tongue[:, None, None]
    fine, mottle = _noise(rng, size, 0.035 * unit), _noise(rng, size, 0.3 * unit)
    _over(body, scene.colours.tongue * [0.95, 0.62, 0.62], np.clip(0.12 * mottle + 0.22 * _tip(scene), 0, 0.5))
    papillae = np.clip(_noise(rng, size, 0.06 * unit) - 1.1, 0, 1) * rng.uniform(0.3, 0.8)
    _over(body, [0.74, 0.20, 0.22], papillae)
    _shade(body, 1 + 0.045 * fine)
    thick = np.clip(rng.uniform(0.78, 0.93) + 0.07 * mottle + 0.09 * fine, 0.6, 1.0)
    _over(body, scene.colours.coating, _soften(coating_HW, 0.02 * unit) * thick)
    _shade(body, 1 + 0.03 * _noise(rng, size, 0.05 * unit) * coating_HW)
    _shade(body, _relief(rng, scene, tongue_HW))
    canvas += _soften(tongue_HW, 0.55) * (body - canvas)


def _tip(scene: Scene) -> np.ndarray:
    """0 at the root, 1 at the tip, float32 (H, W)."""
    return np.clip(scene.v_HW / scene.form.length, 0, 1) ** 2


def _relief(rng: np.random.Generator, scene: Scene, tongue_HW: np.ndarray) -> np.ndarray:
    """How the tongue's roundness and groove take the light: a factor about 1, float32 (H, W)."""
    u, v, form, unit = scene.u_HW, scene.v_HW, scene.form, scene.pose.unit_px
    dome = _soften(tongue_HW, 0.2 * unit)
    slope_y, slope_x = np.gradient(dome)
    slant = -(slope_x * scene.light.direction[0] + slope_y * scene.light.direction[1]) * 0.2 * unit
    wander = form.bend * v**2 + 0.03 * np.sin(3 * v + rng.uniform(0, 6))
    groove = np.exp(-(((u - wander) / rng.uniform(0.04, 0.1)) ** 2)) * np.clip(1 - v / (0.85 * form.length), 0, 1)
    cave = np.clip((0.12 - v) / 0.4, 0, 1)  # the root lies in the mouth's shade
    return 0.66 + 0.42 * dome + 0.5 * slant - rng.uniform(0.06, 0.24) * groove - rng.uniform(0.2, 0.35) * cave


def _paint_saliva(rng: np.random.Generator, scene: Scene, canvas: np.ndarray, tongue_HW: np.ndarray) -> None:
    """Wet highlights: the small share of a bumpy dome that is turned most towards the lamp."""
    unit = scene.pose.unit_px
    wet_HW = _soften(tongue_HW, 0.1 * unit) ** 2 * (scene.v_HW > 0.05)
    height = 1.6 * _soften(tongue_HW, 0.25 * unit)
    height += 0.10 * _noise(rng, scene.size, 0.16 * unit) + 0.008 * _noise(rng, scene.size, 0.05 * unit)
    slope_y, slope_x = np.gradient(height)
    facing = -(slope_x * scene.light.direction[0] + slope_y * scene.light.direction[1]) * wet_HW * unit
    brink, peak = np.quantile(facing[tongue_HW][::7], [1 - rng.uniform(0.01, 0.06), 0.998])
    _over(canvas, [1.0, 0.98, 0.96], rng.uniform(0.35, 0.75) * np.clip((facing - brink) / max(peak - brink, 1e-6), 0, 1) * wet_HW)


def _expose(rng: np.random.Generator, scene: Scene, canvas: np.ndarray) -> np.ndarray:
    """Lamp, lens and sensor: light falling off, colour temperature, blur, noise; uint8 (H, W, 3)."""
    size, light = scene.size, scene.light
    y, x = np.ogrid[-1 : 1 : size.height_px * 1j, -1 : 1 : size.width_px * 1j]
    fall = 1 + 0.5 * light.fall * (x * light.direction[0] + y * light.direction[1]) - light.vignette * 0.5 * (x**2 + y**2)
    _shade(canvas, fall)
    canvas *= 255 * light.gain_RGB.astype(np.float32)[:, None, None]
    sharp = Image.fromarray(np.ascontiguousarray(canvas.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)))
    picture = np.asarray(sharp.filter(ImageFilter.GaussianBlur(light.blur_px)), np.float32)
    grain = rng.standard_normal((*size, 1), dtype=np.float32)  # of brightness: JPEG drops most of the colour's
    return (picture + 255 * light.noise * grain + 0.5).clip(0, 255).astype(np.uint8)
