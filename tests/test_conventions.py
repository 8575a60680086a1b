"""How a mask file writes its classes: hand cases, and what must never be confused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medseg.conventions import BLOCK, Refusal, ValueMap, classify, content_of, convert, decide, reads_as_stored, snap
from medseg.errors import LabelError
from medseg.images import RawMask
from medseg.labels import LabelSet

TONGUE = LabelSet.of("tongue")
AB = LabelSet.of("a", "b")
ABC = LabelSet.of("a", "b", "c")
RED_GREEN = LabelSet.of("a", "b", colours={"a": [255, 0, 0], "b": [0, 255, 0]}, ignore_colour=(224, 224, 192))

YY, XX = np.mgrid[:80, :100]
DISC = np.hypot(YY - 40, XX - 50) < 25
BAR = (YY > 60) & (XX < 40)


def raw(values: object, palette: list[tuple[int, int, int]] | None = None, form: str = "PNG") -> RawMask:
    array = np.asarray(values)
    return RawMask(array if array.ndim > 1 else array[None], None if palette is None else np.array(palette, np.uint8), "?", form, 1)


def kind(values: object, labels: LabelSet, palette: list[tuple[int, int, int]] | None = None, form: str = "PNG") -> str:
    return classify(content_of(raw(values, palette, form)), labels)


def tables(files: list[list[int]], labels: LabelSet, given: dict[int, int] | None = None) -> list[object]:
    """The table of each file, restricted to what it holds, or the kind of its refusal."""
    found = decide([content_of(raw(np.array(file, np.int32))) for file in files], labels, given)
    return [
        {value: result.table[value] for value in set(file)} if isinstance(result, ValueMap) else result.kind
        for file, result in zip(files, found, strict=True)
    ]


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


@pytest.mark.parametrize(
    ("values", "labels", "expected"),
    [
        ([0], TONGUE, "ids"), ([0, 1], TONGUE, "ids"), ([1], TONGUE, "ids"), ([0, 1, 255], TONGUE, "ids"), ([1, 255], TONGUE, "ids"),
        ([0, 255], TONGUE, "two_valued"), ([255], TONGUE, "two_valued"), ([0, 128], TONGUE, "two_valued"), ([1, 2], TONGUE, "two_valued"),
        ([127, 255], TONGUE, "two_valued"), ([0, 65535], TONGUE, "two_valued"), ([0, 128, 255], TONGUE, "outside"),
        ([0, 1, 7], TONGUE, "outside"), ([-1, 0], TONGUE, "outside"), ([0, 1, 2], AB, "ids"), ([0, 1, 2, 7], AB, "outside"),
        ([0, 255], AB, "two_valued"), ([255], AB, "two_valued"), ([0, 100], AB, "two_valued"), ([0, 127, 255], AB, "factor"),
        ([0, 128, 255], AB, "factor"), ([0, 127, 254], AB, "factor"), ([0, 2, 4], AB, "factor"), ([0, 85, 170, 255], ABC, "factor"),
        ([0, 85, 255], ABC, "factor"), ([0, 1000, 3000], ABC, "factor"), ([0, 10, 20, 31], ABC, "outside"), ([0, 50, 51], ABC, "outside"),
        ([3, 4], AB, "outside"),
    ],
)  # fmt: skip
def test_one_file(values: list[int], labels: LabelSet, expected: str) -> None:
    assert kind(np.array(values, np.int32), labels) == expected


@pytest.mark.parametrize(
    ("files", "labels", "expected"),
    [
        # one that shows 0 and 85 alone is read as the others of its set
        ([[0, 85], [0, 85, 170], [255], [0]], ABC, [{0: 0, 85: 1}, {0: 0, 85: 1, 170: 2}, {255: 3}, {0: 0}]),
        # all of one class: 127 is the background of this set, 1 that of the next
        ([[127], [127, 255], [255]], TONGUE, [{127: 0}, {127: 0, 255: 1}, {255: 1}]),
        ([[1], [1, 2], [2]], TONGUE, [{1: 0}, {1: 0, 2: 1}, {2: 1}]),
        # ids times two hide among ids
        ([[0, 2, 4], [0, 6], [0, 8, 2]], LabelSet.of(*"abcd"), [{0: 0, 2: 1, 4: 2}, {0: 0, 6: 3}, {0: 0, 8: 4, 2: 1}]),
        # one odd file does not turn the reading of many
        ([[0, 2]] * 20 + [[0, 4]], AB, [{0: 0, 2: 2}] * 20 + ["two_valued"]),
        ([[0, 1]] * 3 + [[0, 9]], TONGUE, [{0: 0, 1: 1}] * 3 + ["outside"]),
        # bits beside black and white
        ([[0, 1], [0, 255], [1]], TONGUE, [{0: 0, 1: 1}, {0: 0, 255: 1}, {1: 1}]),
        ([[0, 1], [0, 255], [0, 255]], TONGUE, [{0: 0, 1: 1}, {0: 0, 255: 1}, {0: 0, 255: 1}]),
        # where 255 stands beside a class in most masks that hold it, it is the ignore id alone as well
        ([[0, 255], [1, 255], [0, 1, 255]], TONGUE, [{0: 0, 255: 255}, {1: 1, 255: 255}, {0: 0, 1: 1, 255: 255}]),
        ([[255], [1, 2, 255], [2, 255], [0, 1]], AB, [{255: 255}, {1: 1, 2: 2, 255: 255}, {2: 2, 255: 255}, {0: 0, 1: 1}]),
        # one such mask among many does not turn their foreground into ignored; it is asked about
        ([[0, 255]] * 20 + [[0, 1, 255]], TONGUE, [{0: 0, 255: 1}] * 20 + ["two_valued"]),
        ([[0, 127, 255]] * 20 + [[0, 1, 255]], AB, [{0: 0, 127: 1, 255: 2}] * 20 + ["factor"]),
        ([[0, 1], [0, 2], *[[0, 255]] * 20, [0, 1, 255]], AB, [{0: 0, 1: 1}, {0: 0, 2: 2}] + ["two_valued"] * 21),
        # both kinds side by side: nobody knows
        ([[0, 255], [1, 255]], TONGUE, ["two_valued", "two_valued"]),
        ([[0, 255], [1, 2, 255], [255], [0, 1]], AB, ["two_valued", "two_valued", "two_valued", {0: 0, 1: 1}]),
        # two whites in one set; a value that would be two classes
        ([[0, 255], [0, 128], [0, 255]], TONGUE, [{0: 0, 255: 1}, {0: 0, 128: 1}, {0: 0, 255: 1}]),
        ([[0, 127], [127, 255]], TONGUE, ["outside", "outside"]),
        # a stray spoils its own file only
        ([[0, 255]] * 4 + [[0, 7, 255]], TONGUE, [{0: 0, 255: 1}] * 4 + ["outside"]),
        ([[0, 85, 170]] * 4 + [[0, 85, 99]], ABC, [{0: 0, 85: 1, 170: 2}] * 4 + ["outside"]),
        # {1, 2} or {2, 4}: nobody knows
        ([[0, 100, 200]], LabelSet.of(*"abcd"), ["outside"]),
    ],
)
def test_a_set(files: list[list[int]], labels: LabelSet, expected: list[object]) -> None:
    assert tables(files, labels) == expected


def test_what_the_user_says_wins() -> None:
    assert tables([[0, 255], [0]], AB, {255: 2}) == [{0: 0, 255: 2}, {0: 0}]
    assert tables([[0, 128, 255]], TONGUE, {128: 255}) == [{0: 0, 128: 255, 255: 1}]
    assert tables([[0, 1, 7]], AB, {7: 0}) == [{0: 0, 1: 1, 7: 0}]
    assert tables([[0, 1]], TONGUE, {0: 1, 1: 0}) == [{0: 1, 1: 0}]
    found = decide([content_of(raw([0, 1, 7]))], AB, {7: 0})[0]
    assert isinstance(found, ValueMap) and found.said == "7 is read as background (--map)" and found.changes


def test_white_beside_masks_with_an_ignored_border_is_asked_about() -> None:
    files = [content_of(raw([0, 255])), content_of(raw([0, 255])), content_of(raw([0, 1, 255]))]
    refusals = decide(files, TONGUE)
    assert all(isinstance(one, Refusal) and one.fix == "say which with --map 255=ignore or --map 255=CLASS" for one in refusals)
    assert isinstance(refusals[0], Refusal) and refusals[0].rule.endswith(
        "of the masks that hold it, 2 hold only 0 and 255 and 1 hold a class beside it"
    )
    for meaning in (255, 1):
        told = decide(files, TONGUE, {255: meaning})
        assert [one.table[255] for one in told if isinstance(one, ValueMap)] == [meaning] * 3


def test_a_palette_that_shows_the_ignored_colour_at_255_is_believed() -> None:
    """A VOC mask of background and void alone."""
    black, red, void = (0, 0, 0), (255, 0, 0), (224, 224, 192)
    palette = [black, red, *[(1, 2, 3)] * 253, void]
    found = decide([content_of(raw(values, palette)) for values in ([0, 255], [0, 255], [0, 1, 255])], RED_GREEN)
    assert [one.table[255] for one in found if isinstance(one, ValueMap)] == [255, 255, 255]


def test_a_large_mask_is_counted_by_blocks() -> None:
    """The same over the seams of the blocks as in one piece."""
    values = np.repeat(np.random.default_rng(0).integers(0, 4, (2000, 60)).astype(np.uint8), 80, axis=1)
    content = content_of(raw(values))
    solid = np.ones(values.shape, bool)
    for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
        other = np.roll(values, shift, axis)
        edge = [slice(None), slice(None)]
        edge[axis] = slice(0, 1) if shift > 0 else slice(-1, None)
        other[tuple(edge)] = values[tuple(edge)]
        solid &= other == values
    assert values.size > 2 * BLOCK and content.solid == tuple(int((solid & (values == value)).sum()) for value in range(4))
    assert np.array_equal(convert(raw(values), ValueMap("ids", {0: 3, 1: 2, 2: 1, 3: 0}, "")), 3 - values)


def test_refusals_say_the_way_out() -> None:
    refusal = decide([content_of(raw([0, 255]))], AB)[0]
    assert isinstance(refusal, Refusal)
    with pytest.raises(LabelError, match=r"x.png: the mask holds only 0 and 255, which is the ignore id; 255 may mean a or b; say it with"):
        raise refusal.error("x.png")
    refusal = decide([content_of(raw([0, 1, 7, 9]))], AB)[0]
    assert isinstance(refusal, Refusal) and "{7, 9}, the classes are {0..2} and ignore is 255" in refusal.rule
    refusal = decide([content_of(raw(np.full((2, 2, 3), [1, 2, 3], np.uint8)))], AB)[0]
    assert isinstance(refusal, Refusal) and refusal.rule == "the mask holds colours of no class: #010203 (4 pixels)"


def test_a_gif_numbers_its_greys_as_it_likes() -> None:
    """Pillow stores the grey values 0 and 2 as the indices 0 and 1: the index would be another class, silently."""
    stream = io.BytesIO()
    Image.fromarray((2 * DISC).astype(np.uint8)).save(stream, "GIF")
    image = Image.open(stream)
    assert image.mode == "P" and set(np.unique(np.asarray(image))) == {0, 1}, "Pillow no longer does so"
    gif = raw(np.asarray(image), [(0, 0, 0), (2, 2, 2)], "GIF")
    assert not reads_as_stored(gif)
    found = decide([content_of(gif)], AB)[0]
    assert isinstance(found, ValueMap) and np.array_equal(convert(gif, found), 2 * DISC)


def test_a_one_bit_palette_of_white_and_black_is_not_inverted() -> None:
    for form in ("BMP", "PNG", "GIF"):
        mask = raw(1 - DISC, [(255, 255, 255), (0, 0, 0)], form)
        found = decide([content_of(mask)], TONGUE)[0]
        assert isinstance(found, ValueMap) and np.array_equal(convert(mask, found), DISC), form


def test_palettes() -> None:
    black, red, green, void = (0, 0, 0), (255, 0, 0), (0, 255, 0), (224, 224, 192)
    assert kind([0, 1, 2], RED_GREEN, [black, red, green]) == "ids"
    assert kind([0, 1, 2], RED_GREEN, [(9, 9, 9), (8, 8, 7), (1, 2, 3)]) == "ids", "colours of no class leave the indices"
    assert kind([0, 1], RED_GREEN, [black, black, black]) == "ids", "a palette that is black all over says nothing"
    swapped = raw([0, 1, 2, 3], [black, green, red, void])
    found = decide([content_of(swapped)], RED_GREEN)[0]
    assert isinstance(found, ValueMap) and found.kind == "palette_colours" and convert(swapped, found).tolist() == [[0, 2, 1, 255]]
    assert "not its indices" in found.said
    one = content_of(raw([0, 1], [black, (9, 200, 3)]))
    other = content_of(raw([0, 1, 2], [black, (200, 9, 3), (9, 200, 3)]))
    refused = decide([one, other], AB)
    assert all(isinstance(result, Refusal) and "the palettes of the set disagree: the colour #09C803" in result.rule for result in refused)


def test_colours() -> None:
    image = np.zeros((80, 100, 3), np.uint8)
    image[DISC], image[BAR], image[:2] = (255, 0, 0), (0, 255, 0), (224, 224, 192)
    assert kind(image, RED_GREEN) == "colours"
    found = decide([content_of(raw(image))], RED_GREEN)[0]
    assert isinstance(found, ValueMap)
    expected = DISC.astype(int)
    expected[BAR], expected[:2] = 2, 255
    assert np.array_equal(convert(raw(image), found), expected)
    image[70:, 90:] = (0, 0, 9)
    assert kind(image, RED_GREEN) == "outside"
    grey = np.repeat(DISC[..., None].astype(np.uint8) * 255, 3, axis=2)
    assert kind(grey, TONGUE) == "two_valued" and content_of(raw(grey)).kind_of_file == "grey" and not reads_as_stored(raw(grey))


def test_a_class_in_grey() -> None:
    """VOC's car is (128, 128, 128): an RGB mask that shows no other class is grey."""
    labels = LabelSet.of("bus", "car", colours={"bus": [128, 128, 0], "car": [128, 128, 128]})
    image = np.repeat(128 * DISC[..., None].astype(np.uint8), 3, axis=2)
    found = decide([content_of(raw(image))], labels)[0]
    assert isinstance(found, ValueMap) and found.kind == "colours" and np.array_equal(convert(raw(image), found), 2 * DISC)


WHITE = 255 * DISC.astype(np.uint8)


@pytest.mark.parametrize(
    "edited", [resized(WHITE, 201, 163), resized(WHITE, 47, 33), resized(WHITE, 200, 160), jpeg(WHITE, 95), jpeg(WHITE, 50)]
)
@pytest.mark.parametrize("labels", [TONGUE, AB])
def test_blurred_black_and_white_is_interpolated(edited: np.ndarray, labels: LabelSet) -> None:
    assert kind(edited, labels) == "interpolated"


def test_blurred_steps_and_colours_are_interpolated() -> None:
    steps = np.choose(DISC + 2 * BAR, [0, 85, 170, 255]).astype(np.uint8)
    assert kind(resized(steps, 171, 133), ABC) == "interpolated" and kind(jpeg(steps, 90), ABC) == "interpolated"
    ids = DISC.astype(np.uint8)
    ids[BAR] = 255
    assert kind(resized(ids, 171, 133), TONGUE) == "interpolated"
    image = np.zeros((80, 100, 3), np.uint8)
    image[DISC], image[BAR] = (255, 0, 0), (0, 255, 0)
    assert kind(resized(image, 171, 133), RED_GREEN) == "interpolated" and kind(jpeg(image, 90), RED_GREEN) == "interpolated"
    one = np.zeros((80, 100, 3), np.uint8)
    one[DISC] = (200, 30, 30)
    assert kind(jpeg(one, 90), TONGUE) == "interpolated"


def test_classes_that_no_one_named_are_outside_not_interpolated() -> None:
    for extra in ([128], [64, 128, 191], [60, 100, 140, 180, 220]):
        mask = WHITE.copy()
        for place, value in enumerate(extra):
            mask[5 * place : 5 * place + 4, 10:90] = value
        assert kind(mask, TONGUE) == "outside", extra
    thin = WHITE.copy()
    thin[10], thin[20], thin[:, 10] = 128, 128, 128  # a trimap's border: one value, however thin
    assert kind(thin, TONGUE) == "outside"
    assert kind(np.random.default_rng(0).integers(0, 256, (80, 100)).astype(np.uint8), TONGUE) == "outside"


def test_an_interpolated_file_does_not_spoil_its_set() -> None:
    sound, bad = content_of(raw(WHITE)), content_of(raw(resized(WHITE, 201, 163)))
    found = decide([sound, bad, sound], TONGUE)
    assert [result.kind for result in found] == ["two_valued", "interpolated", "two_valued"]
    assert [isinstance(result, ValueMap) for result in found] == [True, False, True]


def test_snap_brings_back_what_was_drawn() -> None:
    big = np.asarray(Image.fromarray(WHITE).resize((400, 320), Image.Resampling.NEAREST))
    assert np.array_equal(snap(raw(jpeg(big, 60)), TONGUE), big > 0)
    back = resized(resized(WHITE, 400, 320), 100, 80)
    assert (snap(raw(back), TONGUE) != DISC).mean() < 0.002
    image = np.zeros((160, 200, 3), np.uint8)
    image[np.kron(DISC, np.ones((2, 2), bool))] = (255, 0, 0)
    assert (snap(raw(jpeg(image, 90)), RED_GREEN) != np.kron(DISC, np.ones((2, 2)))).mean() < 0.01
    ids = DISC.astype(np.uint8)
    ids[BAR] = 255
    assert set(np.unique(snap(raw(resized(ids, 171, 133)), TONGUE))) == {0, 1, 255}
    with pytest.raises(LabelError, match="its stray values do not lie between those of the classes"):
        snap(raw([[0, 1, 7]]), AB)


def test_convert_refuses_what_the_map_does_not_know() -> None:
    with pytest.raises(LabelError, match=r"the value 3 has no class \(1 pixels\)"):
        convert(raw(np.array([[0, 3]], np.uint8)), ValueMap("ids", {0: 0}, ""))
    with pytest.raises(LabelError, match=r"the value 70000 has no class \(1 pixels\)"):
        convert(raw(np.array([[0, 70000]], np.int32)), ValueMap("ids", {0: 0}, ""))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.uint8, np.uint16, np.int32]), st.integers(1, 40), st.integers(1, 40))
def test_contents_equal_numpys(seed: int, dtype: type, height: int, width: int) -> None:
    """Values, pixels and solid pixels against a slow count."""
    rng = np.random.default_rng(seed)
    values = rng.choice(rng.integers(0, 250, 4), (height, width)).astype(dtype)
    content = content_of(raw(values))
    distinct, counts = np.unique(values, return_counts=True)
    assert (content.values, content.counts) == (tuple(distinct), tuple(counts))
    if len(distinct) > 2:
        padded = np.pad(values, 1, mode="edge")
        inner = [
            all(padded[y + 1 + dy, x + 1 + dx] == values[y, x] for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)))
            for y, x in np.ndindex(values.shape)
        ]
        assert content.solid == tuple(sum(i for i, v in zip(inner, values.ravel(), strict=True) if v == value) for value in distinct)


def test_a_noisy_file_is_kept_small() -> None:
    content = content_of(raw(np.random.default_rng(0).integers(0, 1 << 30, (300, 300)).astype(np.int32)))
    assert len(content.values) == 4096 and classify(content, AB) == "outside"
