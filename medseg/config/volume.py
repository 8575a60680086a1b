"""The section `data.volume`: how volumes come onto the network's grid. `medseg plan` writes it, with the reason of each value.

Legend: D, H, W are the axes of the network's grid, depth first. The volume is turned to RAS; `depth_axis` becomes D, and the other two
follow in the order z, y, x. Spacings and patches are told in the order D, H, W.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from medseg.config.section import Positive, Section

Axis = Literal["x", "y", "z"]
_ZYX: tuple[Axis, Axis, Axis] = ("z", "y", "x")
PatchSide = Annotated[int, Field(ge=4, le=4096)]


class ChannelConfig(Section):
    """How the intensities of one channel become what the network sees (Isensee et al. 2021)."""

    normalise: Literal["zscore", "zscore_inside", "window", "unit_range"] = Field(
        "zscore",
        description="less the mean, by the deviation: of all voxels, or (inside) of those that are not 0 and their holes, the others "
        "staying 0; window: clipped and scaled by the numbers below, for CT; unit_range: smallest 0, largest 1",
    )
    lower: float | None = Field(None, description="window: what is less becomes this, e.g. percentile 0.5 of the foreground")
    upper: float | None = Field(None, description="window: what is more becomes this, e.g. percentile 99.5")
    mean: float | None = Field(None, description="window: is then taken away")
    deviation: Positive | None = Field(None, description="window: by which it is then divided")

    @model_validator(mode="after")
    def _window_is_whole(self) -> ChannelConfig:
        given = [getattr(self, key) is not None for key in ("lower", "upper", "mean", "deviation")]
        if self.normalise == "window" and not all(given):
            raise ValueError("window needs lower, upper, mean and deviation")
        if self.normalise != "window" and any(given):
            raise ValueError(f"lower, upper, mean and deviation are of window; {self.normalise} is chosen")
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            raise ValueError(f"lower {self.lower:g} is not below upper {self.upper:g}")
        return self


class VolumeConfig(Section):
    """The grid of the network, and its intensities. Of volumes alone; photographs have data.size_px."""

    spacing_mm: tuple[Positive, Positive, Positive] = Field(description="of the network's grid, along D, H, W")
    depth_axis: Axis = Field("z", description="the axis of RAS that becomes D; the coarsest one of anisotropic volumes")
    channels: tuple[ChannelConfig, ...] = Field((ChannelConfig(),), description="one a channel of the images, in their order")
    crop: Literal["nonzero", "none"] = Field("nonzero", description="nonzero: only the box of what is not 0 in any channel is kept")

    @property
    def axes(self) -> tuple[Axis, Axis, Axis]:
        """The axes of RAS that D, H and W are."""
        first, *others = self.depth_axis, *(axis for axis in _ZYX if axis != self.depth_axis)
        return first, others[0], others[1]

    def mirrored(self, axes: Sequence[str], sides: int) -> tuple[int, ...]:
        """Which of D, H, W (0 to 2) those axes of RAS are along which an image of so many sides has a mirror image.

        A slice has none across itself: across x it would be the same slice, and its left be called right.

        >>> sagittal = VolumeConfig(spacing_mm=(1, 1, 1), depth_axis="x")
        >>> sagittal.mirrored(("x", "y"), 2), sagittal.mirrored(("x", "y"), 3)
        ((2,), (0, 2))
        """
        places = (self.axes.index(axis) for axis in axes)  # type: ignore[arg-type]
        return tuple(place for place in places if place or sides == 3)

    @field_validator("channels")
    @classmethod
    def _some(cls, value: tuple[ChannelConfig, ...]) -> tuple[ChannelConfig, ...]:
        if not value:
            raise ValueError("an image has one channel or more")
        return value
