"""Specks and holes against a count of pieces by SciPy alone, on shapes that take the shortcut and shapes that do not."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medseg.manifest.check.shapes import HOLE_SHARE, LARGE, SPECK_PX, SPECK_SHARE, blemishes_of, holes_of, specks_of


def slow_specks(where: np.ndarray) -> np.ndarray:
    pieces, count = ndimage.label(where, np.ones((3, 3)))
    sizes = [int((pieces == piece).sum()) for piece in range(1, count + 1)]
    small = [size <= max(SPECK_PX, SPECK_SHARE * max(sizes)) and size * LARGE <= max(sizes) for size in sizes]
    return np.isin(pieces, [piece for piece, is_small in enumerate(small, start=1) if is_small])


def slow_holes(where: np.ndarray) -> np.ndarray:
    pieces, count = ndimage.label(~np.pad(where, 1))
    enclosed = [piece for piece in range(1, count + 1) if piece != pieces[0, 0] and (pieces == piece).sum() <= HOLE_SHARE * where.sum()]
    return np.isin(pieces, enclosed)[1:-1, 1:-1]


def drawn(generator: np.random.Generator) -> np.ndarray:
    """A disc or an ellipse, at times with a bite, a hole and specks."""
    rows, columns = np.mgrid[:48, :60]
    y, x, a, b = generator.uniform([15, 15, 6, 6], [33, 45, 22, 28])
    where = ((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 <= 1
    for _ in range(generator.integers(0, 4)):
        where[tuple(generator.integers(0, where.shape))] ^= True
    return where


def test_specks_and_holes_equal_a_count_of_pieces() -> None:
    generator = np.random.default_rng(0)
    spoiled = 0
    for _ in range(150):
        where = drawn(generator)
        ids = where.astype(np.uint8)
        np.testing.assert_array_equal(specks_of(ids, [1]), slow_specks(where))
        np.testing.assert_array_equal(holes_of(ids), slow_holes(where))
        spoiled += blemishes_of(ids, [1]).specks + blemishes_of(ids, [1]).holes > 0
    assert 25 < spoiled < 125  # both kinds were drawn


def test_small_shapes_of_any_form() -> None:
    generator = np.random.default_rng(1)
    for _ in range(600):
        where = generator.random(generator.integers(1, 8, 2)) < generator.uniform(0.3, 1.0)
        if where.any():
            ids = where.astype(np.uint8)
            np.testing.assert_array_equal(specks_of(ids, [1]), slow_specks(where))
            np.testing.assert_array_equal(holes_of(ids), slow_holes(where))
