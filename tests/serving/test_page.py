"""The one page of `medseg serve`, in a real browser against a real server."""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medseg.deploy.model import Model
from medseg.labels import LabelSet
from medseg.outlines import Outline, painted
from medseg.serving.limits import Limits
from tests.serving.exports import CLASSES, photograph
from tests.serving.page_server import PHONE, File, Shown, chromium, photo, sampled
from tests.serving.server import Running, encoded, running

PAGE = Path(__file__).parents[2] / "medseg" / "serving" / "page"
EVIL = '<img src=x onerror="document.title=1">.png'
TOKEN = "open-sesame-open-sesame"
COLOURS = {1: (255, 0, 0), 2: (0, 128, 0)}  # of the export
BROKEN = File("broken.jpg", "image/jpeg", b"no picture at all")

Opened = Callable[..., Shown]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def opened(browser: Any, server: Running) -> Iterator[Opened]:
    """(another server or None, options of the browser) -> a fresh visitor's page."""
    found: list[Shown] = []

    def new(of: Running | None = None, **options: Any) -> Shown:
        found.append(Shown(browser, of or server, **options))
        return found[-1]

    yield new
    for shown in found:
        shown.context.close()


# --- the files


def text_of(*patterns: str) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for pattern in patterns for path in sorted(PAGE.glob(pattern))}


def test_every_word_is_there_in_both_languages():
    words = text_of("words.js")["words.js"]
    table = re.findall(r'^ {2}(\w+): \["((?:[^"\\]|\\.)+)",\s+"((?:[^"\\]|\\.)+)"\],$', words, re.MULTILINE)
    known = {key: (english, chinese) for key, english, chinese in table}
    assert len(known) == len(table) == words.split("\n};\n")[0].count('["'), "each key once, with two texts"
    used = set(re.findall(r'data-(?:word|label)="(\w+)"', text_of("index.html")["index.html"]))
    for name, code in text_of("*.js").items():
        used |= {key for key in re.findall(r'"([a-z_]+)"', code) if key in known} if name != "words.js" else set()
        assert set(re.findall(r'\b(?:say|tell)\("(\w+)"', code)) <= set(known), name
    assert used <= set(known) and {key for key in known if not key.startswith("why_")} - used <= {"title"}
    for english, chinese in known.values():
        assert sorted(re.findall(r"\{(\w+)\}", english.replace("megapixels", "wan"))) == sorted(re.findall(r"\{(\w+)\}", chinese)), english


def test_nothing_is_inline_and_nothing_untrusted_becomes_markup():
    html = text_of("index.html")["index.html"]
    assert not re.findall(r"\sstyle=|\son\w+=|<style|<script(?! type=\"module\" src=\"page/page.js\"></script>)", html)
    for name, code in text_of("*.js", "*.css", "index.html").items():
        assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", code), name
        assert set(re.findall(r"https?://[\w.]+", code)) <= {"http://www.w3.org"}, name


# --- a picture in, an outline and numbers out


@pytest.mark.browser
def test_a_picture_is_outlined_and_measured(opened, model: Model):
    """Class by class what the model finds, pixel by pixel on the canvas."""
    shown = opened()
    shown.give(photo(9))
    mask_HW = model.segment(photograph(9)).mask_HW
    fill = shown.canvas("fill")
    ids = sampled(mask_HW, *fill.shape[:2])
    for class_id, colour in COLOURS.items():
        assert (ids == class_id).any() and (fill[ids == class_id] == (*colour, 255)).all()
    assert not fill[ids == 0].any() and fill.shape[:2] == (160, 240), "four times as large as it is, and no more"
    pixels = [int((mask_HW == class_id).sum()) for class_id in (1, 2)]
    table = shown.table()
    assert [table[name][0] for name in CLASSES] == [str(count) for count in pixels]
    assert table["both (classes together)"][:2] == [str(sum(pixels)), f"{100 * sum(pixels) / mask_HW.size:.3g} %"]
    assert "Run tiny-run, network convolution, onnxruntime" in shown.page.inner_text("#answered")
    assert shown.page.get_attribute("#stage", "aria-label") == "case_9.png, with what was found drawn over it: disc, square."
    assert shown.page.inner_text("#status") == "case_9.png: done." and shown.said == []


@pytest.mark.slow
@pytest.mark.browser
def test_the_outline_runs_along_each_class(opened, model: Model):
    shown = opened()
    shown.give(photo(9))
    lines = shown.canvas("lines")
    ids = sampled(model.segment(photograph(9)).mask_HW, *lines.shape[:2])
    inside = {class_id: eroded(ids == class_id, 2) for class_id in COLOURS}  # the line is two pixels wide
    for class_id, colour in COLOURS.items():
        assert (lines[(ids == class_id) & ~inside[class_id]] == (*colour, 255)).all() and not lines[inside[class_id]].any()
    halo = lines[(ids == 0) & (lines[..., 3] > 0)]
    assert len(halo) and (halo == (0, 0, 0, 160)).all()
    shown.page.uncheck("#outlines")
    assert shown.page.is_hidden("#lines") and shown.page.is_visible("#fill")


def eroded(inside_HW: np.ndarray, by: int) -> np.ndarray:
    """By steps to the four sides; beyond the image is more of the same."""
    found = inside_HW.copy()
    for axis in (0, 1):
        for step in range(1, by + 1):
            for sign in (-1, 1):
                moved = np.roll(inside_HW, sign * step, axis)
                edge = [slice(None)] * 2
                edge[axis] = slice(0, step) if sign > 0 else slice(-step, None)
                moved[tuple(edge)] = True
                found &= moved
    return found


@pytest.mark.slow
@pytest.mark.browser
def test_the_confidence_map_has_the_colours_of_its_scale(opened, model: Model):
    image = photo(99, size=(210, 333))  # which the stage shows neither at its own size nor at a whole multiple of it
    shown = opened()
    shown.give(image)
    found = model.segment(photograph(99, (210, 333)))
    fill = shown.canvas("fill")
    assert fill.shape[1] % 333 and np.array_equal(fill[..., 3] > 0, sampled(found.mask_HW, *fill.shape[:2]) > 0)
    assert shown.page.is_hidden("#scale") and shown.page.input_value("#opacity") == "40"
    shown.page.check("#map")
    scale, shown_map = shown.canvas("scale")[0], shown.canvas("confidence")
    grey_HW = np.rint(255 * found.confidence_HW).astype(int)
    assert len(scale) == 256 and (shown_map == scale[sampled(grey_HW, *fill.shape[:2])]).all() and len(np.unique(grey_HW)) > 2
    assert (np.diff(scale[:, :3].astype(int) @ [299, 587, 114]) > -600).all(), "lighter from end to end"
    assert shown.page.is_hidden("#fill") and shown.page.locator(".ends span").all_inner_texts() == ["0 %", "50 %", "100 %"]
    shown.page.locator("#opacity").fill("30")
    shown.page.uncheck("#map")
    assert shown.page.input_value("#opacity") == "40", "each keeps its own"
    shown.page.locator("#opacity").fill("0")
    assert shown.page.evaluate("getComputedStyle(document.getElementById('fill')).opacity") == "0"


@pytest.mark.slow
@pytest.mark.browser
def test_a_turned_photograph_lies_below_its_outline(opened):
    """The camera's turn is applied by the browser as by the server."""
    upright = photograph(9, (60, 90))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = encoded(np.rot90(upright), "JPEG", exif=exif, quality=98)
    shown = opened()
    shown.give(File("turned.jpg", "image/jpeg", stored))
    photo_, fill = shown.canvas("photo"), shown.canvas("fill")
    assert photo_.shape == fill.shape and shown.page.inner_text("#note") == ""
    expected = sampled(upright, *fill.shape[:2]).astype(int)
    assert np.abs(photo_[..., :3] - expected).mean() < 5 < np.abs(photo_[::-1, ::-1, :3] - expected).mean()
    red, green = (expected[..., channel] > 200 for channel in (0, 1))
    assert (fill[red][:, 0] == 255).mean() > 0.6 and (fill[green][:, 1] == 128).mean() > 0.6
    assert shown.page.inner_text("#size") == "90 × 60 pixels, 5,400 in all"


@pytest.mark.slow
@pytest.mark.browser
def test_what_a_browser_cannot_show_is_outlined_alone(opened):
    shown = opened()
    shown.give(File("scan.tif", "image/tiff", encoded(photograph(9), "TIFF")))
    assert shown.page.is_hidden("#photo") and shown.page.is_visible("#fill") and "cannot show this kind" in shown.page.inner_text("#note")
    shown.give(photo(1))
    assert shown.page.is_visible("#photo") and shown.page.inner_text("#note") == ""


@pytest.mark.slow
@pytest.mark.browser
def test_a_class_is_switched_off_in_every_picture(opened):
    shown = opened()
    shown.give(photo(9), photo(12))
    shown.page.locator("#classes input").first.uncheck()
    assert not (shown.canvas("fill")[..., 0] == 255).any() and "drawn over it: square." in shown.page.get_attribute("#stage", "aria-label")
    shown.page.locator(".thumb").nth(1).click()
    shown.settle()
    assert not (shown.canvas("fill")[..., 0] == 255).any() and (shown.canvas("fill")[..., 3] > 0).any()


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize(("typed", "side_mm"), [("0,5", 0.5), ("0.25", 0.25), ("2", 2), (" .5 ", 0.5)])
def test_a_spacing_gives_areas(opened, typed, side_mm):
    shown = opened()
    shown.give(photo(9))
    assert len(shown.table()["disc"]) == 3 and shown.page.is_hidden("#area-head")
    shown.page.fill("#spacing", typed)
    pixels, _, area, _ = shown.table()["disc"]
    assert float(area.replace(",", "")) == pytest.approx(int(pixels) * side_mm**2, rel=1e-3) and shown.page.is_visible("#area-head")
    shown.page.reload()
    assert shown.page.input_value("#spacing") == typed, "for as long as the tab is open"


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("typed", ["0", "-1", "one", "1e3", "1.2.3", "∞"])
def test_a_spacing_that_is_none_is_told(opened, typed):
    shown = opened()
    shown.give(photo(9))
    shown.page.fill("#spacing", typed)
    assert shown.page.get_attribute("#spacing", "aria-invalid") == "true" and shown.page.is_visible("#spacing-wrong")
    assert len(shown.table()["disc"]) == 3
    shown.page.fill("#spacing", "")
    assert shown.page.get_attribute("#spacing", "aria-invalid") == "false" and shown.page.is_hidden("#spacing-wrong")


# --- files


@pytest.mark.slow
@pytest.mark.browser
def test_each_file_is_what_the_model_found(opened, model: Model, tmp_path):
    shown = opened()
    shown.give(photo(9, "Zunge 1.PNG"))
    mask_HW = model.segment(photograph(9)).mask_HW
    mask = Image.open(shown.saved("#save-mask", tmp_path))
    assert Path(mask.filename).name == "Zunge 1-mask.png" and mask.mode == "P" and np.array_equal(np.asarray(mask), mask_HW)
    labelme = json.loads(shown.saved("#save-labelme", tmp_path).read_text(encoding="utf-8"))
    assert (labelme["imagePath"], labelme["imageData"], labelme["imageHeight"], labelme["imageWidth"]) == ("Zunge 1.PNG", None, 40, 60)
    assert labelme["medseg"]["history"] == ["predicted:tiny-run"] and labelme["flags"] == {"checked": False}, (
        "an import knows it is not drawn"
    )
    outlines = [Outline(shape["label"], tuple(map(tuple, shape["points"])), 0) for shape in labelme["shapes"]]
    assert np.array_equal(painted(outlines, LabelSet.of(*CLASSES), mask_HW.shape), mask_HW)
    overlay = np.asarray(Image.open(shown.saved("#save-overlay", tmp_path)).convert("RGB"))
    assert overlay.shape[0] > 40 and overlay.shape[1] == 320, "at full size, with room for the legend"
    inside = eroded(mask_HW == 1, 1)
    expected = 0.6 * photograph(9)[inside] + 0.4 * np.array(COLOURS[1])
    assert inside.any() and np.abs(overlay[:40, :60][inside] - expected).max() <= 2
    assert (overlay[:40, :60][(mask_HW == 2) & ~eroded(mask_HW == 2, 1)] == COLOURS[2]).all(), "the line is whole"
    for colour in COLOURS.values():
        assert (overlay[40:] == colour).all(axis=2).sum() >= 100, "a swatch for each class"


@pytest.mark.slow
@pytest.mark.browser
def test_all_files_come_in_one(opened, tmp_path):
    shown = opened()
    shown.give(photo(9, "a.png"), BROKEN, photo(12, "a.png"), done=2)
    shown.wait("refused")
    with zipfile.ZipFile(shown.saved("#save-all", tmp_path)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names == ["a-mask.png", "a.json", "a-overlay.png", "a-mask-2.png", "a-2.json", "a-overlay-2.png"]
        masks = [np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names if "mask" in name]
    assert not np.array_equal(*masks) and shown.page.inner_text("#status") == "medseg.zip is saved."


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_png_is_read_as_it_is_stored(opened, bits):
    """Every depth of a palette, and every filter of a grey one, against Pillow."""
    generator = np.random.default_rng(0)
    ids = generator.integers(0, 2**bits, (7, 13), np.uint8)
    palette = Image.fromarray(ids)
    palette.putpalette(list(range(3 * 2**bits)) if bits < 8 else [each % 256 for each in range(768)])
    smooth = (np.add.outer(np.arange(40) * 3, np.arange(50) * 2) + generator.integers(0, 3, (40, 50))).astype(np.uint8)
    shown = opened()
    for image, values in ((palette, ids), (Image.fromarray(smooth), smooth)):
        stream = io.BytesIO()
        image.save(stream, "PNG", bits=bits) if image.mode == "P" else image.save(stream, "PNG")
        found = shown.page.evaluate(READ, base64.b64encode(stream.getvalue()).decode())
        assert np.array_equal(np.array(found["values"]).reshape(found["height"], found["width"]), values)


READ = """async (text) => {
  const { readPng } = await import("/page/png.js");
  const { width, height, values } = await readPng(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)));
  return { width, height, values: Array.from(values) };
}"""


# --- several, and what goes wrong


@pytest.mark.slow
@pytest.mark.browser
def test_two_at_a_time_go_to_the_server(opened, server: Running):
    shown = opened()
    server.network.open.clear()
    shown.page.set_input_files("#files", [photo(place).given for place in range(4)])
    shown.page.locator(".thumb[data-state=working]").nth(1).wait_for()
    assert [each.get_attribute("data-state") for each in shown.page.locator(".thumb").all()] == ["working"] * 2 + ["waiting"] * 2
    shown.settle()
    assert shown.page.is_visible("#photo") and shown.page.is_hidden("#found"), "the photograph is there at once"
    server.network.open.set()
    shown.wait("done", 4)
    assert shown.page.inner_text("#status") == "4 of 4 done." and shown.said == []


@pytest.mark.slow
@pytest.mark.browser
def test_a_busy_server_is_waited_for(opened, model: Model):
    with running(model, Limits(queue=1)) as busy:
        shown = opened(busy)
        busy.network.open.clear()
        shown.page.set_input_files("#files", [photo(place).given for place in range(2)])
        shown.page.get_by_text("The server is busy; trying again in").wait_for()
        assert shown.page.locator(".thumb[data-state=refused]").count() == 0
        busy.network.open.set()
        shown.wait("done", 2)
        shown.page.get_by_text("2 of 2 done.").wait_for()


@pytest.mark.slow
@pytest.mark.browser
def test_a_refusal_is_told_with_the_servers_reason(opened):
    shown = opened()
    shown.give(BROKEN, photo(9), done=1)
    shown.wait("refused")
    assert shown.page.inner_text("#status") == "1 of 2 done, 1 refused."
    assert shown.page.inner_text("#why") == "This is no picture that the server can read."
    assert len(shown.page.inner_text("#reason")) > 20 and shown.page.is_hidden("#found") and shown.page.is_hidden("#again")
    shown.axe()
    shown.page.click("#language")
    assert shown.page.inner_text("#why") == "服务器不支持这种图片格式。" and shown.page.get_attribute("#reason", "lang") == "en"


@pytest.mark.slow
@pytest.mark.browser
def test_what_is_too_large_is_not_even_sent(opened, model: Model):
    with running(model, Limits(bytes=3000)) as small:
        shown = opened(small)
        shown.page.get_by_text("Up to").wait_for()
        noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
        asked: list[str] = []
        shown.page.on("request", lambda request: asked.append(request.url))
        shown.page.set_input_files("#files", [File("large.png", "image/png", encoded(noise)).given])
        shown.wait("refused")
        assert shown.page.inner_text("#why") == "This picture is too large." and "at most 0.003 MB" in shown.page.inner_text("#reason")
        assert not [url for url in asked if "segment" in url] and shown.said == []


@pytest.mark.slow
@pytest.mark.browser
def test_a_lost_server_can_be_tried_again(opened):
    shown = opened()
    shown.context.set_offline(True)
    shown.page.set_input_files("#files", [photo(9).given])
    shown.wait("refused")
    assert shown.page.inner_text("#why") == "The server cannot be reached."
    shown.context.set_offline(False)
    shown.page.click("#again")
    shown.wait("done")
    assert shown.page.is_visible("#found") and shown.page.is_hidden("#refusal")


@pytest.mark.slow
@pytest.mark.browser
def test_a_name_is_text_and_nothing_else(opened):
    shown = opened()
    shown.give(photo(9, EVIL))
    assert shown.page.inner_text("#name") == EVIL and shown.page.title().startswith("medseg") and shown.said == []
    assert shown.page.locator("img:not(.thumb img)").count() == 0


@pytest.mark.slow
@pytest.mark.browser
def test_pictures_are_dropped_and_pasted(opened):
    shown = opened()
    for event, count in (("drop", 1), ("paste", 2)):
        shown.page.evaluate(HAND_OVER, [event, base64.b64encode(photo(count).content).decode()])
        shown.wait("done", count)
    assert shown.page.locator(".thumb[aria-selected=true]").get_attribute("aria-label") == "paste.png, 2 of 2, done"


HAND_OVER = """([kind, text]) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)), transfer = new DataTransfer();
  transfer.items.add(new File([bytes], `${kind}.png`, { type: "image/png" }));
  const options = { bubbles: true, cancelable: true };
  document.body.dispatchEvent(kind === "drop" ? new DragEvent("drop", { ...options, dataTransfer: transfer })
    : new ClipboardEvent("paste", { ...options, clipboardData: transfer }));
}"""


@pytest.mark.slow
@pytest.mark.browser
def test_a_token_is_asked_for_and_kept_for_the_tab(opened, model: Model):
    with running(model, token=TOKEN) as guarded:
        shown = opened(guarded)
        shown.page.locator("#token[open]").wait_for()
        shown.axe()
        for typed, wrong in (("no-such-token", True), (TOKEN, False)):
            shown.page.fill("#token-text", typed)
            shown.page.keyboard.press("Enter")
            if wrong:
                shown.page.locator("#token-wrong").wait_for()
        shown.page.get_by_text("Finds disc, square").wait_for()
        shown.give(photo(9))
        shown.page.reload()
        shown.page.get_by_text("Finds disc, square").wait_for()
        assert not shown.page.is_visible("#token") and shown.page.evaluate("localStorage.length") == 0


@pytest.mark.slow
@pytest.mark.browser
def test_without_a_token_nothing_is_answered_until_it_is_given(opened, model: Model):
    with running(model, token=TOKEN) as guarded:
        shown = opened(guarded)
        shown.page.locator("#token[open]").wait_for()
        shown.page.keyboard.press("Escape")
        shown.page.set_input_files("#files", [photo(9).given])
        shown.page.locator("#token[open]").wait_for()
        shown.page.click("#token-cancel")
        shown.wait("refused")
        assert shown.page.inner_text("#why") == "The server asks for an access token."
        shown.page.click("#again")
        shown.page.fill("#token-text", TOKEN)
        shown.page.keyboard.press("Enter")
        shown.wait("done")
        shown.page.get_by_text("Finds disc, square").wait_for()


# --- for everybody


@pytest.mark.slow
@pytest.mark.browser
def test_all_of_it_goes_by_keyboard(opened):
    shown = opened()
    shown.page.keyboard.press("Tab")
    assert shown.page.evaluate("document.activeElement.className") == "skip"
    shown.give(photo(1), photo(2), photo(3))
    shown.page.focus(".thumb[aria-selected=true]")
    for key, name in (("ArrowRight", "case_2.png"), ("End", "case_3.png"), ("ArrowRight", "case_3.png"), ("Home", "case_1.png")):
        shown.page.keyboard.press(key)
        assert shown.page.inner_text("#name") == name and "case" in shown.page.evaluate("document.activeElement.ariaLabel")
    outline = shown.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid" and shown.page.locator(".thumb[tabindex='0']").count() == 1
    shown.page.keyboard.press("Delete")
    assert shown.page.inner_text("#name") == "case_2.png" and "case_2.png" in shown.page.evaluate("document.activeElement.ariaLabel")
    shown.page.focus("#about")
    shown.page.keyboard.press("Enter")
    shown.page.locator("#card[open]").wait_for()
    assert shown.page.inner_text("#card-text") == "Tiny"
    shown.page.keyboard.press("Escape")
    assert not shown.page.is_visible("#card") and shown.page.evaluate("document.activeElement.id") == "about"
    shown.page.focus("#clear")
    shown.page.keyboard.press("Enter")
    assert shown.page.locator(".thumb").count() == 0 and shown.page.evaluate("document.activeElement.id") == "choose"
    assert shown.page.is_hidden("#work") and shown.said == []


LOOKS = [({}, "light", "en-GB"), ({}, "dark", "zh-CN"), (PHONE, "light", "zh-CN"), (PHONE, "dark", "en-GB")]


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize(("device", "scheme", "locale"), LOOKS)
def test_nothing_a_screen_reader_would_miss(opened, device, scheme, locale):
    shown = opened(**device, color_scheme=scheme, locale=locale)
    shown.axe()
    shown.give(photo(9), photo(12), BROKEN, File("scan.tif", "image/tiff", encoded(photograph(9), "TIFF")), done=3)
    shown.page.fill("#spacing", "0,5")
    shown.page.check("#map")
    shown.axe()
    shown.page.click("#about")
    shown.axe()
    assert shown.page.evaluate("document.documentElement.lang") == ("zh-Hans" if locale == "zh-CN" else "en")


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
def test_a_phone_needs_no_zoom(opened, locale):
    shown = opened(**PHONE, locale=locale)
    assert shown.page.is_visible("#photograph"), "where there is a camera at hand"
    shown.give(photo(9), photo(12, "a_very_long_name_" * 8 + ".png"))
    shown.page.fill("#spacing", "0.5")
    shown.page.check("#map")
    for number in (1, 0):
        shown.page.locator(".thumb").nth(number).click()
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= 360
    sizes = shown.page.evaluate(TARGETS)
    assert len(sizes) > 12 and not [each for each in sizes if min(each["width"], each["height"]) < 43.9], sizes
    fonts = shown.page.evaluate("[...document.querySelectorAll('input')].map((each) => parseFloat(getComputedStyle(each).fontSize))")
    assert min(fonts) >= 16, "or a phone zooms in when one types"
    assert shown.said == []


TARGETS = """() => [...document.querySelectorAll("button, a:not(.skip), label.switch, input[type=text], input[type=range], .thumb")]
  .filter((each) => each.offsetParent).map((each) => {
    const { width, height } = each.getBoundingClientRect();
    return { what: each.id || each.className, width, height };
  })"""


@pytest.mark.slow
@pytest.mark.browser
def test_a_switch_changes_every_word(opened):
    shown = opened(locale="fr-FR")
    shown.give(photo(9))
    before = shown.page.inner_text("body")
    shown.page.click("#language")
    after = shown.page.inner_text("body")
    kept = {line for line in before.splitlines() if re.search("[a-z]{4}", line)} & set(after.splitlines())
    assert kept <= {"medseg", "disc", "square", "case_9.png", "case_9", "labelme JSON"}, kept
    assert shown.page.title().startswith("medseg：") and shown.page.evaluate("document.documentElement.lang") == "zh-Hans"
    shown.page.reload()
    assert shown.page.inner_text("#choose") == "选择图片"
    shown.page.click("#language")
    assert shown.page.inner_text("#choose") == "Choose pictures"


@pytest.mark.slow
@pytest.mark.browser
def test_nothing_moves_for_whom_that_is_too_much(opened, server: Running):
    shown = opened(reduced_motion="reduce")
    server.network.open.clear()
    shown.page.set_input_files("#files", [photo(9).given])
    shown.page.locator(".thumb[data-state=working]").wait_for()
    moving = "getComputedStyle(document.querySelector('.thumb .state'), '::before').animationName"
    assert shown.page.evaluate(moving) == "none"
    server.network.open.set()
    shown.wait("done")
