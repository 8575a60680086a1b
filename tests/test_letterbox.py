"""The way back from the frame against torch's interpolation, at sizes that shrink, grow and do neither."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medseg import letterbox
from medseg.engine.infer import to_original_grid
from medseg.letterbox import bands, fit_letterbox, inside, most_probable, place_image, taps
from medseg.types import Size

SIZES = [Size(40, 60), Size(64, 96), Size(200, 131), Size(7, 300), Size(1, 1), Size(333, 20)]


def random_probs(seed: int, frame: Size, classes: int = 4) -> np.ndarray:
    values = np.random.default_rng(seed).normal(0, 2, (classes, *frame)).astype(np.float32)
    return np.exp(values) / np.exp(values).sum(axis=0)


@pytest.mark.parametrize("original", SIZES, ids=str)
def test_the_image_s_own_pixels_are_those_of_torch(original):
    box = fit_letterbox(original, Size(64, 96))
    probs = random_probs(sum(original), box.frame)
    wanted = to_original_grid(torch.from_numpy(probs), box).numpy()
    [whole] = [found for _, found in bands(probs, box)]
    assert np.abs(whole - wanted).max() < 2e-6
    mask, highest = most_probable(probs, box)
    assert mask.dtype == np.uint8 and mask.shape == tuple(original) and highest.dtype == np.float32
    margin = np.sort(wanted, axis=0)[-1] - np.sort(wanted, axis=0)[-2]
    assert (mask == wanted.argmax(axis=0))[margin > 1e-5].all()
    assert np.abs(highest - wanted.max(axis=0)).max() < 2e-6


def test_bands_of_few_rows_are_the_whole(monkeypatch):
    box = fit_letterbox(Size(101, 77), Size(64, 64))
    probs = random_probs(1, box.frame)
    mask, highest = most_probable(probs, box)
    monkeypatch.setattr(letterbox, "BAND_VALUES", 1)
    rows = [found.shape[1] for _, found in bands(probs, box)]
    assert rows == [1] * 101
    again = most_probable(probs, box)
    assert (again[0] == mask).all() and (again[1] == highest).all()


def test_taps_stay_inside_and_keep_a_constant():
    for size, out in ((1, 9), (5, 3), (3, 5), (160, 400)):
        low, high, share = taps(size, out)
        assert low.min() >= 0 and high.max() <= size - 1 and share.min() >= 0 and share.max() <= 1, (size, out)


def test_what_lies_around_the_image_is_black_and_not_read():
    box = fit_letterbox(Size(10, 40), Size(32, 32))
    frame = place_image(np.full((10, 40, 3), 200, np.uint8), box)
    inner = frame[(slice(None), *inside(box))]
    assert (inner == 200).all() and int(frame.sum()) == int(inner.sum())
    probs = np.zeros((2, 32, 32), np.float32)
    probs[1] = 1  # the letterbox's rim says class 1, the image's place class 0
    probs[:, 12:20] = np.array([1, 0], np.float32)[:, None, None]
    assert (most_probable(probs, box)[0] == 0).all()
