"""What one draw changes: drawn here from its identity, applied by the modules beside this one."""

from __future__ import annotations

import math
from typing import NamedTuple

from medseg.config import AugmentConfig
from medseg.seeding import numpy_generator


class Window(NamedTuple):
    """A rectangle in the frame; all four as shares of the frame's height (top, height) and width (left, width), in [0, 1]."""

    top: float
    left: float
    height: float
    width: float


FRAME = Window(0.0, 0.0, 1.0, 1.0)
NOTHING = Window(0.0, 0.0, 0.0, 0.0)


class Change(NamedTuple):
    """One draw's parameters; the defaults change nothing.

    turn_rad, zoom, shift_x, shift_y: a map from output to input in units of half the frame's sides.  brightness, contrast, saturation:
    factors.  crop: the part that is enlarged to the frame.  elastic: the largest displacement as a share of the frame's sides.  noise: a
    standard deviation, of a range of 1.  blur_px: a standard deviation.  cutout: the part that is hidden.  field_seed: what the random
    fields of elastic and noise are drawn from.
    """

    flip: bool
    turn_rad: float
    zoom: float
    shift_x: float
    shift_y: float
    brightness: float
    contrast: float
    gamma: float
    saturation: float
    hue_rad: float
    crop: Window = FRAME
    elastic: float = 0.0
    noise: float = 0.0
    blur_px: float = 0.0
    cutout: Window = NOTHING
    field_seed: int = 0


def draw_change(config: AugmentConfig, seed: int, epoch: int, position: int) -> Change:
    """The change of one draw; depends on its identity alone."""
    generator = numpy_generator(seed, epoch, position, "augment")
    u = generator.uniform(-1.0, 1.0, size=9)
    change = Change(
        flip=bool(generator.random() < config.flip_probability),
        turn_rad=math.radians(config.rotate_deg) * u[0],
        zoom=(1.0 - config.scale) ** u[1],
        shift_x=2.0 * config.shift * u[2],
        shift_y=2.0 * config.shift * u[3],
        brightness=1.0 + config.brightness * u[4],
        contrast=1.0 + config.contrast * u[5],
        gamma=(1.0 + config.gamma) ** u[6],
        saturation=1.0 + config.saturation * u[7],
        hue_rad=2.0 * math.pi * config.hue * u[8],
    )
    if config.crop or config.elastic or config.noise or config.blur_px or config.cutout:
        return _with_rare(change, config, seed, epoch, position)
    return change


def _with_rare(change: Change, config: AugmentConfig, seed: int, epoch: int, position: int) -> Change:
    """Add the changes that happen with `config.probability`.

    Their numbers come from a generator of their own, so that switching one on leaves the other parameters of a draw as they were; for the
    same reason all are drawn in one place, whichever are on.
    """
    generator = numpy_generator(seed, epoch, position, "augment: crop, elastic, noise, blur, cut-out")
    crop, elastic, noise, blur, cutout = (bool(happens) for happens in generator.random(5) < config.probability)
    u, field_seed = generator.random(10), int(generator.integers(2**63))
    side = 1.0 - config.crop * u[0]
    return change._replace(
        crop=_place(side, side, u[1], u[2]) if crop and config.crop else FRAME,
        elastic=config.elastic * u[3] if elastic else 0.0,
        noise=config.noise * u[4] if noise else 0.0,
        blur_px=config.blur_px * (1.0 - u[5]) if blur else 0.0,
        cutout=_place(config.cutout * u[6], config.cutout * u[7], u[8], u[9]) if cutout and config.cutout else NOTHING,
        field_seed=field_seed if (elastic and config.elastic) or (noise and config.noise) else 0,
    )


def _place(height: float, width: float, down: float, right: float) -> Window:
    """A window of these sides inside the frame; `down` and `right` in [0, 1) choose where."""
    return Window(down * (1.0 - height), right * (1.0 - width), height, width)
