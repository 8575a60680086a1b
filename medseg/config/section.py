"""What every section of an experiment has in common."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
LEAST_PX = 16
PixelSize = Annotated[int, Field(ge=LEAST_PX, le=4096)]


class Section(BaseModel):
    """Shared rules: frozen, no unknown key, no infinity. Numbers may be written as YAML 1.1 misreads them (1e-3 is a text there)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_values_are_no_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        wants_truth = cls.model_fields[info.field_name].annotation is bool
        if wants_truth is not isinstance(value, bool) and (wants_truth or isinstance(value, bool)):
            raise ValueError("must be true or false" if wants_truth else "must not be true or false")
        return value


def section_of(annotation: Any) -> type[Section] | None:
    """The section that a key holds, or a list of which or whose absence it may hold; None where it holds values.

    >>> section_of(Section | None), section_of(tuple[Section, ...]), section_of(int)
    (<class 'medseg.config.section.Section'>, <class 'medseg.config.section.Section'>, None)
    """
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for argument in get_args(annotation) if (found := section_of(argument))), None)
