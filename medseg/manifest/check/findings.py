"""What the doctor may find. A finding names its code, the row and file, the rule that is broken, and the way out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning"]

CODES: dict[str, Severity] = {
    "file-missing": "error",  # an image, mask or instances file that is not there
    "file-unreadable": "error",  # truncated, damaged, or not an image
    "path-leaves-root": "error",  # through a symbolic link
    "extension-lies": "warning",  # PNG inside .jpg and the like
    "hash-changed": "error",  # other bytes than when the manifest was written
    "size-mismatch": "error",  # mask, image and manifest disagree
    "spacing-mismatch": "error",
    "affine-mismatch": "error",
    "forms-disagree": "warning",  # qform and sform of one volume
    "exif-orientation": "error",  # the mask follows the stored pixels, not the upright photograph
    "values-outside": "error",  # ids that no class has
    "two-valued-mask": "error",  # 0/255 and the like
    "factor-mask": "error",  # ids times a factor
    "palette-mask": "error",  # classes by a palette's colours, not its indices
    "colour-mask": "error",  # classes by RGB colours
    "interpolated-mask": "error",  # values between classes: resized or JPEG-edited
    "lossy-mask": "warning",  # a mask in a lossy format, even where its values still fit
    "mixed-conventions": "warning",  # a mask of another convention than most of the set
    "inverted-mask": "error",
    "mask-misfit": "warning",  # its outline lies on no edges of the photograph: swapped with another, or shifted
    "pixels-mismatch": "error",  # the manifest's px_ columns do not count this mask
    "empty-mask": "warning",
    "specks": "warning",
    "holes": "warning",
    "class-never-present": "warning",
    "class-missing-in-split": "warning",
    "tiny-image": "warning",
    "huge-image": "warning",
    "nan-image": "error",
    "constant-image": "error",
    "duplicate": "warning",  # the same decoded pixels
    "duplicate-across-splits": "error",
    "duplicate-mask": "warning",  # one mask for two different images: a swapped or copied file
    "near-duplicate": "warning",
    "near-duplicate-across-splits": "error",
    "group-in-two-splits": "error",
    "split-unusable": "error",  # a split file that does not fit the manifest
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing the doctor found.

    row: the line of manifest.csv as an editor counts it, None for the set as a whole.  file: the file at fault.  others: further
    samples involved.  split: the split concerned, '' where none is.
    """

    code: str
    rule: str
    fix: str
    file: str = ""
    row: int | None = None
    sample_id: str = ""
    others: tuple[str, ...] = ()
    split: str = ""

    @property
    def severity(self) -> Severity:
        """error or warning, by the code."""
        return CODES[self.code]

    def as_json(self) -> dict[str, Any]:
        """The finding as a JSON object."""
        return {"code": self.code, "severity": self.severity, **{k: v for k, v in asdict(self).items() if k != "code"}}


def ranked(findings: Sequence[Finding]) -> list[tuple[str, int]]:
    """(code, findings of it): errors first, the rarer before the more frequent, because what is everywhere hides what is rare."""
    counted = Counter(finding.code for finding in findings)
    return sorted(counted.items(), key=lambda item: (CODES[item[0]], item[1], item[0]))


def exit_code(findings: Sequence[Finding], strict: bool) -> int:
    """2 where there is an error, 1 where there are warnings and `strict` is asked for, else 0.

    >>> exit_code([Finding("specks", "", "")], strict=True), exit_code([Finding("specks", "", "")], strict=False)
    (1, 0)
    """
    severities = {finding.severity for finding in findings}
    return 2 if "error" in severities else 1 if strict and "warning" in severities else 0
