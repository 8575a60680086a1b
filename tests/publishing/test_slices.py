"""Volumes on a page: sheets of slices against the volume itself, and as a browser scrolls through them."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medseg import api
from medseg.grid import turn_of
from medseg.labels import LabelSet
from medseg.manifest.split import make_split
from medseg.publishing.html.layers import EDGE, FILL, shown_ids
from medseg.publishing.html.overlays import draw_album
from medseg.publishing.html.page import write_html
from medseg.publishing.html.slices import SHEET_PX, SIDE_PX, Layout, Plane, Volume
from medseg.publishing.published import publish
from medseg.report.planes import Seen, plane
from medseg.scoring import Asked, score_folders
from tests.data.volume.made import make_volumes
from tests.publishing.volumes import MANY, SHAPE, SPACING_MM, WORST, masks, write_masks
from tests.publishing.web import opened

LABELS = LabelSet.of("ball", "box")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """reference/, one/ and other/, and the scores of the two below scores/."""
    root = write_masks(tmp_path_factory.mktemp("masks"))
    for run in ("one", "other"):
        asked = Asked(classes=("ball", "box"), given=("255=ignore",), jobs=1, boundary=False)
        score_folders(root / "reference", root / run, root / "scores" / run, asked)
    return root


@pytest.fixture(scope="module")
def page(folders, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert write_html(path, publish([str(folders / "scores" / run) for run in ("one", "other")]), folders) == ""
    return path


def picture_of(uri: str) -> np.ndarray:
    """uint8 (H, W, 4), or (H, W) of a JPEG of grey."""
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    return np.asarray(image if image.mode == "L" else image.convert("RGBA"))


def slice_of(sheet: np.ndarray, shown: Plane, number: int) -> np.ndarray:
    """What the script draws of a sheet."""
    by = sheet.shape[1] // (shown.columns * shown.step[0])
    top, left = number // shown.columns * shown.step[1] * by, number % shown.columns * shown.step[0] * by
    return sheet[top : top + shown.tile[1] * by, left : left + shown.tile[0] * by]


def drawn(image_DHW: np.ndarray | None, mask_DHW: np.ndarray, predicted: dict[str, np.ndarray], spacing_mm=(1.0, 1.0, 1.0)) -> Volume:
    turn = turn_of(mask_DHW.shape[::-1], np.diag([*spacing_mm[::-1], 1.0]), "a")
    ids = {label: shown_ids(mask, LABELS) for label, mask in predicted.items()}
    return Volume(Seen(image_DHW, turn), shown_ids(mask_DHW, LABELS), LABELS.valid(mask_DHW), ids, LABELS)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_tile_is_its_slice(axis):
    """Of a volume whose every voxel is told apart by its grey, and whose labels change from slice to slice."""
    shape = (7, 9, 12)
    generator = np.random.default_rng(0)
    image, mask = generator.permutation(np.arange(np.prod(shape))).reshape(shape), generator.integers(0, 3, shape, np.uint8)
    shown = drawn(image, mask, {"run": mask}).plane(axis)
    assert shown.count == shape[axis] and (shown.w, shown.h) == tuple(side * shown.factor for side in shown.tile)
    layer, grey = picture_of(shown.layers["run"]), picture_of(shown.photograph)
    for number in range(shown.count):
        ids = plane(mask, axis, number).repeat(shown.factor, 0).repeat(shown.factor, 1)
        expected = np.where(ids[..., None] > 0, np.dstack([LABELS.palette[ids], np.full(ids.shape, FILL)]), 0)
        found = slice_of(layer, shown, number)
        assert np.array_equal(found[..., 3], expected[..., 3]) and np.array_equal(found[ids > 0], expected[ids > 0])
        slices = slice_of(grey, shown, number).astype(float), plane(image, axis, number)
        assert np.corrcoef(slices[0].ravel(), slices[1].ravel())[0, 1] > 0.8, "JPEG, but of this slice"


def test_the_reference_is_a_line_in_its_colour_with_another_around_it():
    mask = np.zeros((3, 40, 40), np.uint8)
    mask[1, 10:30, 10:30], mask[1, 20, 20] = 2, 255
    shown = drawn(None, mask, {}).plane(0)
    assert shown.photograph == "" and shown.start == 1
    line = slice_of(picture_of(shown.reference), shown, 1)
    first = 10 * shown.factor
    across = line[line.shape[0] // 3, first - 2 : first + 2]
    assert across.tolist() == [[0, 0, 0, 0], [255, 255, 255, EDGE], [*LABELS.palette[2], EDGE], [255, 255, 255, EDGE]]
    assert not slice_of(picture_of(shown.reference), shown, 0).any()


def test_what_differs_is_counted_by_slice_without_what_is_ignored():
    reference = np.zeros((4, 5, 6), np.uint8)
    reference[2, 1:3, 1:3], reference[3] = 1, 255
    one = np.where(reference == 1, 2, 0).astype(np.uint8)
    one[0, 0, :3], one[3] = 1, 1
    volume = drawn(None, reference, {"one": one, "right": reference})
    assert volume.plane(0).apart == {"one": [3, 0, 4, 0], "right": [0, 0, 0, 0]}
    assert sum(volume.plane(1).apart["one"]) == sum(volume.plane(2).apart["one"]) == 7 and volume.plane(2).apart["one"][:3] == [1, 3, 3]


@pytest.mark.parametrize(
    ("shape", "spacing_mm"),
    [((1, 1, 1), (1.0, 1.0, 1.0)), ((300, 512, 512), (1.0, 0.8, 0.8)), ((20, 640, 640), (5.0, 0.3, 0.3)),
     ((2000, 512, 512), (0.5, 1.0, 1.0)), ((5, 5, 3000), (1.0, 1.0, 1.0)), ((700, 700, 3), (1.0, 1.0, 200.0))],
)  # fmt: skip
def test_sheets_are_bounded_in_true_proportions(shape, spacing_mm):
    for axis in range(3):
        layout = Layout(shape, spacing_mm, axis)
        rows = -(-len(layout.places) // layout.columns)
        pixels = layout.columns * rows * np.prod(layout.step) * layout.factor**2
        assert pixels <= SHEET_PX[axis] + layout.columns * np.prod(layout.step) * layout.factor**2, "but for the last row's rest"
        assert max(layout.tile) <= SIDE_PX and max(layout.tile) * layout.factor <= SIDE_PX
        assert max(layout.columns * layout.step.width_px, rows * layout.step.height_px) * layout.factor <= 16_000, (
            "browsers draw no longer one"
        )
        assert 0 < len(layout.places) <= shape[axis] and layout.places[-1] < shape[axis]
        high, wide = (shape[other] * spacing_mm[other] for other in range(3) if other != axis)
        assert layout.tile.height_px == pytest.approx(layout.tile.width_px * high / wide, abs=1 + 0.5 * high / wide)


def test_what_is_left_out_is_told():
    large, small = Layout((300, 512, 512), (1.0, 0.8, 0.8), 0), Layout((30, 64, 50), (1.0, 1.0, 1.0), 0)
    assert large.note == "one slice of 4 is shown; slices are shown at 50% of their size" and small.note == ""
    places = list(large.places)
    assert set(np.diff(places)) == {4} and abs(places[0] - (299 - places[-1])) <= 1


def test_masks_alone_are_shown_with_the_patients_sides(folders):
    sources = publish([str(folders / "scores" / run) for run in ("one", "other")]).sources
    album = draw_album(sources, ["case_0", "case_1"], folders)
    assert album.missing == ""
    for place, picture in enumerate(album.pictures.values()):
        axial, coronal, sagittal = picture.planes
        assert (picture.photograph, axial.photograph, axial.marks, coronal.marks, sagittal.marks) == ("", "", "RLAP", "RLSI", "APSI")
        assert (axial.count, coronal.count, sagittal.count) == (SHAPE[2], SHAPE[1], SHAPE[0])
        for label, mask in masks(place).items():
            if label != "reference":
                assert int(np.argmax(axial.apart[label])) == WORST[label] and axial.apart[label][WORST[label]] == MANY[label]
                assert sum(axial.apart[label]) == MANY[label], "and nothing where the reference ignores"
                found = slice_of(picture_of(axial.layers[label]), axial, WORST[label])[..., 3] > 0
                expected = mask[::-1, ::-1, WORST[label]].T > 0  # from the right and from the front on
                assert np.array_equal(found[:: axial.factor, :: axial.factor], expected)
        assert axial.w / axial.h == pytest.approx(SHAPE[0] / SHAPE[1]) and coronal.h / coronal.w == pytest.approx(SHAPE[2] * 2 / SHAPE[0])


def test_sides_are_not_guessed_where_a_file_tells_none(folders, tmp_path):
    for folder in ("reference", "one"):
        (tmp_path / folder).mkdir()
        ids = np.asarray(nib.load(folders / folder / "case_0.nii.gz").dataobj)
        bare = nib.Nifti1Image(ids, np.diag([*SPACING_MM, 1.0]))
        bare.set_sform(None, 0)
        bare.set_qform(None, 0)
        bare.to_filename(tmp_path / folder / "case_0.nii.gz")
    score_folders(tmp_path / "reference", tmp_path / "one", tmp_path / "scores", Asked(classes=("ball", "box"), jobs=1, boundary=False))
    album = draw_album(publish([str(tmp_path / "scores")]).sources, ["case_0"], tmp_path)
    assert [shown.marks for shown in album.pictures["case_0"].planes] == ["", "", ""], album.missing


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, Path]:
    """(data root, a run of volumes, evaluated)."""
    root = tmp_path_factory.mktemp("run")
    manifest, data_root = make_volumes(root, 6)
    make_split(manifest, "main", (0.34, 0.33, 0.33), seed=0)
    (root / "tiny.yaml").write_text(f"""
name: tiny
data: {{manifest: {root / "manifest"}, split: main, cache: {root / "cache"}, volume: {{spacing_mm: [2, 1, 1]}}}}
model: {{channels: [4, 8], strides: [2], num_res_units: 0}}
sampling: {{name: uniform, patch_px: [8, 16, 16], draws_per_epoch: 4}}
train: {{epochs: 1, batch_size: 4, preview_every: 9, precision: float32, compile: never}}
tracking: {{enabled: false}}
""")
    trained = api.train(root / "tiny.yaml", [], data_root, root / "runs")
    api.evaluate(trained.path, "test", data_root)
    return data_root, trained.path


@pytest.mark.slow
def test_a_run_of_volumes_is_shown_on_its_images(run):
    data_root, path = run
    (source,) = publish([str(path)]).sources
    samples = source.cases["sample_id"].unique().tolist()
    album = draw_album([source], samples, data_root)
    assert album.missing == "" and list(album.pictures) == samples
    for picture in album.pictures.values():
        axial = picture.planes[0]
        bright = slice_of(picture_of(axial.photograph), axial, axial.start)
        line = slice_of(picture_of(axial.reference), axial, axial.start)[:: axial.factor, :: axial.factor]
        ball = (line[..., :3] == LABELS.palette[1]).all(axis=2) & (line[..., 3] > 0)
        assert bright.shape == ball.shape and ball.any() and bright[ball].mean() > 1.5 * bright.mean()
        assert list(axial.layers) == [source.label] and picture.photograph.startswith("data:image/jpeg")


@pytest.mark.slow
def test_one_that_is_missing_does_not_hide_the_others(run):
    data_root, path = run
    (source,) = publish([str(path)]).sources
    sample = source.cases["sample_id"].iloc[0]
    other = replace(source, label="gone", folders={(0, -1): data_root})
    assert list(draw_album([source, other], [sample], data_root).pictures[sample].layers) == [source.label]
    assert "nobody: is not in the manifest" in draw_album([source], ["nobody"], data_root).missing


# --- in a browser


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize(("width", "height", "scheme"), [(390, 844, "light"), pytest.param(1280, 844, "dark", marks=pytest.mark.slow)])
def test_a_browser_scrolls_through_a_volume(browser, page, width, height, scheme):
    shown, said = opened(browser, page, viewport={"width": width, "height": height}, color_scheme=scheme)
    shown.locator(".thumb").first.click()
    assert shown.is_visible("#slices") and shown.evaluate("document.activeElement.id") == "slice"
    drawn_at = shown.evaluate(DRAWN)
    before = int(shown.input_value("#slice"))
    shown.keyboard.press("ArrowRight")
    assert int(shown.input_value("#slice")) == before + 1
    shown.locator("#stage").hover()
    shown.mouse.wheel(0, 120)
    shown.mouse.wheel(0, 120)
    shown.wait_for_function(f"document.getElementById('slice').value == {before - 1}")
    shown.click("#most-apart")
    assert shown.inner_text("#slice-name") == f"axial slice {WORST['one'] + 1} of {SHAPE[2]}, {MANY['one']} voxels differ."
    assert shown.evaluate(DRAWN) != drawn_at and shown.locator("#apart i.here").count() == 1
    shown.locator("#layers input").nth(0).uncheck()
    shown.locator("#layers input").nth(1).check()
    shown.click("#most-apart")
    assert f"slice {WORST['other'] + 1} of {SHAPE[2]}, {MANY['other']} voxels" in shown.inner_text("#slice-name"), "of the runs shown"
    for place, count in (("coronal", SHAPE[1]), ("sagittal", SHAPE[0])):
        shown.select_option("#plane", place)
        assert shown.inner_text("#slice-name").startswith(place) and f"of {count}," in shown.inner_text("#slice-name")
    assert shown.text_content("#marks") == "APSI"
    name = shown.inner_text("#viewer-name")
    shown.keyboard.press("n")
    assert shown.inner_text("#viewer-name") != name and shown.input_value("#plane") == "sagittal"
    assert shown.evaluate("document.getElementById('viewer').scrollWidth") <= width and said == []
    assert shown.evaluate("document.getElementById('stage').clientHeight") > 0.25 * height, "there is room for the volume itself"


@pytest.mark.slow
@pytest.mark.browser
def test_the_canvas_shows_the_tile_of_its_slice(browser, page, folders):
    """Pixel for pixel what the sheet holds."""
    sources = publish([str(folders / "scores" / run) for run in ("one", "other")]).sources
    shown, said = opened(browser, page, viewport={"width": 1280, "height": 844})
    thumb = shown.locator(".thumb").first
    axial = draw_album(sources, [thumb.get_attribute("data-sample")], folders).pictures[thumb.get_attribute("data-sample")].planes[0]
    thumb.click()
    shown.click("#most-apart")
    shown.wait_for_function("document.querySelector('#canvas canvas.layer').width > 20")
    found = shown.evaluate(DRAWN)
    expected = slice_of(picture_of(axial.layers["one"]), axial, WORST["one"])[..., 3]
    assert found == (expected > 0).astype(int).ravel().tolist() and sum(found) >= MANY["one"] and said == []


@pytest.mark.slow
@pytest.mark.browser
def test_nothing_of_the_scroller_a_screen_reader_would_miss(browser, page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    shown, _ = opened(browser, page, viewport={"width": 1280, "height": 844})
    shown.locator(".thumb").first.click()
    found = axe.run(shown)
    assert found.violations_count == 0, found.generate_report()


DRAWN = """() => {
  const layer = document.querySelector('#canvas canvas.layer');
  const copy = Object.assign(document.createElement('canvas'), { width: layer.width, height: layer.height });
  const pen = copy.getContext('2d', { willReadFrequently: true });
  pen.drawImage(layer, 0, 0);
  const { data } = pen.getImageData(0, 0, layer.width, layer.height);
  return Array.from({ length: data.length / 4 }, (_, place) => Number(data[4 * place + 3] > 0));
}"""
