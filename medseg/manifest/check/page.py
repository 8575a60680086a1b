"""The findings as one self-contained page, a picture beside each: what a person would rather look at than read."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from functools import lru_cache
from html import escape
from pathlib import Path

import numpy as np
from scipy import ndimage

from medseg.errors import MedsegError
from medseg.files import write_text
from medseg.images import encode_jpeg, is_volume, read_image, read_raw_mask, resize_image, resize_mask
from medseg.manifest.check.doctor import Report
from medseg.manifest.check.findings import CODES, Finding, ranked
from medseg.manifest.check.shapes import holes_of, specks_of
from medseg.manifest.near import grey_slice
from medseg.manifest.schema import Manifest
from medseg.types import Row, Size
from medseg.volumes import read_volume

SIDE_PX = 220  # of a picture
PICTURES = 600  # findings with pictures; more would make a page that no browser opens
LINE = np.array([255, 221, 0], np.uint8)  # of a mask's outline
TINT = 0.25  # of its inside
MARK = np.array([229, 57, 53], np.uint8)  # of specks and holes
MARKED: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # code -> what of a mask it speaks of
    "specks": lambda values: specks_of(values, range(1, int(values.max()) + 1)),
    "holes": holes_of,
}
Progress = Callable[[int, int], None]

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --error: #c62828; --warning: #b26a00; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1rem auto; max-width: 70rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem .2rem 0; text-align: left; } td.n { text-align: right; }
article { border-top: 1px solid var(--line); display: flex; flex-wrap: wrap; gap: 1rem; padding: .8rem 0; }
article div { flex: 1 1 20rem; overflow-wrap: anywhere; } figure { margin: 0; }
figcaption { font-size: .8rem; max-width: 220px; overflow-wrap: anywhere; }
img { max-width: 220px; display: block; } .error { color: var(--error); } .warning { color: var(--warning); }
@media (prefers-color-scheme: dark) { :root { --error: #ff8a80; --warning: #ffcc80; } }
"""

_CUT = '<p id="no-pictures"><strong>No pictures from here on: more of them would make a page that no browser opens.</strong></p>'


def write_page(report: Report, path: Path, on_progress: Progress | None = None) -> None:
    """Write the page; masks are outlined and tinted in yellow. Beyond PICTURES findings the rest is listed in words, and the page says
    so, above all and where the pictures end."""
    pictures = _Pictures(report.manifest, report.data_root)
    sections = []
    done = 0
    for code, count in ranked(report.findings):
        shown = []
        for finding in (finding for finding in report.findings if finding.code == code):
            shown += [_CUT] if done == PICTURES else []
            shown.append(_article(finding, pictures if done < PICTURES else None))
            done += 1
            if on_progress:
                on_progress(done, len(report.findings))
        sections.append(f'<h2 id="{code}" class="{CODES[code]}">{code} ({count})</h2>{"".join(shown)}')
    write_text(path, _html(report, sections))


def _html(report: Report, sections: Sequence[str]) -> str:
    title = f"Check of {escape(report.manifest.dataset.name)}"
    clean = "" if sections else "<p>No finding: every file is as the manifest says, and no rule is broken.</p>"
    rest = '<a href="#no-pictures">the rest</a> is in words'
    many = f"<p>Only the first {PICTURES} of {len(report.findings)} findings have pictures; {rest}.</p>"
    many = many if len(report.findings) > PICTURES else ""
    head = (
        f"<p>{len(report.manifest)} rows, {report.flagged()} of them with a finding. Manifest {escape(str(report.manifest.folder))}, "
        f"SHA-256 {report.manifest.digest[:12]}. Masks are outlined and tinted in yellow, specks and holes are red.</p>"
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>{head}{clean}{many}'
        f"{_summary(report.findings)}{''.join(sections)}</body></html>\n"
    )


def _summary(findings: Sequence[Finding]) -> str:
    lines = [
        f'<tr><td class="{CODES[code]}">{CODES[code]}</td><td><a href="#{code}">{code}</a></td><td class="n">{count}</td></tr>'
        for code, count in ranked(findings)
    ]
    return f"<table><tr><th>severity</th><th>code</th><th>findings</th></tr>{''.join(lines)}</table>" if lines else ""


def _article(finding: Finding, pictures: _Pictures | None) -> str:
    row = f", row {finding.row}" if finding.row else ""
    name = f"<strong>{escape(finding.sample_id or 'the set')}</strong>{row}"
    split = f" · split {escape(finding.split)}" if finding.split else ""
    text = f"<div>{name}{split}<br>{escape(finding.rule)}<br><em>{escape(finding.fix)}</em><br><small>{escape(finding.file)}</small></div>"
    samples = [sample for sample in (finding.sample_id, *finding.others[:3]) if sample] if pictures else []
    shown = "".join(pictures.figure(sample, finding.code) for sample in samples) if pictures else ""
    return f"<article>{shown}{text}</article>"


class _Pictures:
    """Small pictures of samples with their masks' outlines; each is made once."""

    def __init__(self, manifest: Manifest, data_root: Path) -> None:
        self._manifest, self._root = manifest, data_root
        self._position = {str(sample): position for position, sample in enumerate(manifest.frame["sample_id"])}
        self._cached = lru_cache(maxsize=256)(self._figure)

    def figure(self, sample: str, code: str) -> str:
        """The figure of a sample for a finding of this code."""
        return self._cached(sample, code if code in MARKED else "")

    def _figure(self, sample: str, code: str) -> str:
        row = self._manifest.row(self._position[sample])
        try:
            picture, place = _drawn(self._manifest, row, self._root, code)
        except (MedsegError, OSError):
            return f"<figure><figcaption>{escape(sample)}: cannot be shown</figcaption></figure>"
        source = base64.b64encode(encode_jpeg(picture)).decode()
        text, told = escape(sample), escape(f"{sample}, {place}" if place else sample)
        return f'<figure><img alt="{text}" src="data:image/jpeg;base64,{source}"><figcaption>{told}</figcaption></figure>'


def _drawn(manifest: Manifest, row: Row, data_root: Path, code: str) -> tuple[np.ndarray, str]:
    """uint8 (H, W, 3) of at most SIDE_PX with the mask and what `code` speaks of, and which slice of a volume it is ('' for others)."""
    path, values = manifest.image_path(row, data_root), _mask_values(manifest, row, data_root)
    marks = None if values is None or code not in MARKED else MARKED[code](values)
    place = ""
    if is_volume(path):
        array = read_volume(path)[0]
        z = array.shape[2] // 2 if marks is None or not marks.any() else int(marks.sum(axis=(0, 1)).argmax())
        picture, place = grey_slice(array, z), f"slice {z + 1} of {array.shape[2]}"
        values, marks = (None if one is None else one[:, :, min(z, one.shape[2] - 1)].T for one in (values, marks))
    else:
        picture = read_image(path)
    small = _scaled(picture, enlarge=bool(place))
    if values is not None:
        _lay(small, values)
    if marks is not None:
        _mark(small, marks)
    return small, place


def _scaled(picture: np.ndarray, enlarge: bool) -> np.ndarray:
    """A copy of at most SIDE_PX a side. A slice of few voxels is enlarged by the nearest neighbour: each voxel can be seen then, and
    nothing is made up between them."""
    scale = SIDE_PX / max(picture.shape[:2])
    enlarged = enlarge and scale > 1
    size = Size(*(max(1, round(side * (scale if enlarged else min(1.0, scale)))) for side in picture.shape[:2]))
    if enlarged:
        return np.repeat(resize_mask(picture[..., 0], size)[..., None], 3, axis=2)
    return resize_image(picture, size).copy()


def _lay(small_HWC: np.ndarray, values_HW: np.ndarray) -> None:
    """Outline and tint the mask, in place; the tint tells inside from outside where a mask is inverted."""
    mask = resize_mask(values_HW, Size(*small_HWC.shape[:2]))
    inside = mask > 0
    small_HWC[inside] = (small_HWC[inside] * (1 - TINT) + LINE * TINT).astype(np.uint8)
    small_HWC[mask != ndimage.grey_erosion(mask, 3)] = LINE


def _mark(small_HWC: np.ndarray, marks_HW: np.ndarray) -> None:
    """Paint what is marked, in place, each pixel with its neighbours: a speck of one pixel must not vanish in a small picture."""
    scale = np.array(small_HWC.shape[:2]) / marks_HW.shape
    rows, columns = ((np.argwhere(marks_HW) + 0.5) * scale).astype(int).T
    painted = np.zeros(small_HWC.shape[:2], bool)
    painted[rows, columns] = True
    small_HWC[ndimage.binary_dilation(painted, np.ones((3, 3)))] = MARK


def _mask_values(manifest: Manifest, row: Row, data_root: Path) -> np.ndarray | None:
    """uint8 (H, W) or (X, Y, Z): distinct values of the mask numbered, whatever its convention; None where there is none to show."""
    if row.mask is None:
        return None
    try:
        path = manifest.mask_path(row, data_root)
        values = read_volume(path)[0] if is_volume(path) else read_raw_mask(path).values
    except (MedsegError, OSError):
        return None
    if not is_volume(path) and values.ndim == 3:
        values = values.astype(np.int64) @ np.array([65536, 256, 1])
    _, numbered = np.unique(values, return_inverse=True)
    return np.minimum(numbered, 255).astype(np.uint8).reshape(values.shape)
