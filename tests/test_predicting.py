"""What `medseg predict` says of what it found, by an export whose right answer is known."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from medseg import api, images
from tests.exports import photograph, write_export


@pytest.mark.parametrize(("empty", "told"), [(0, None), (1, "nothing but background in 1 of 3 images: "), (5, "and 2 more")])
def test_images_in_which_nothing_is_found_are_told(empty, told, tmp_path, caplog):
    for place in range(empty + (2 if empty < 3 else 0)):
        red = np.full((48, 64, 3), (255, 0, 0), np.uint8)
        images.write_image(tmp_path / f"in/{place}.png", red if place < empty else photograph(48, 64))
    with caplog.at_level(logging.WARNING):
        written = api.predict(write_export(tmp_path / "export"), [tmp_path / "in"], tmp_path / "out", overlays=False)
    assert sum(not images.read_mask(one.mask).any() for one in written) == empty
    assert (told in caplog.text and str(tmp_path / "in/0.png") in caplog.text) if told else not caplog.text
