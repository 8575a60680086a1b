"""report.html: whole in itself, safe against names, and as a browser shows it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from medseg.publishing.html.cases import mean_by_case, worth_a_picture
from medseg.publishing.html.overlays import draw_album
from medseg.publishing.html.page import write_html
from medseg.publishing.html.summary import cautions, findings
from medseg.publishing.published import Published, publish
from medseg.runfolder import RunFolder
from tests.publishing.stored import STORED
from tests.publishing.web import opened

EVIL = '</script><img src=x onerror="document.title=1">'


def data_of(page: str) -> dict:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found)


@pytest.fixture(scope="module")
def compared(trained) -> Published:
    """Two seeds of one network against another."""
    return publish([str(run.path) for run in trained[1]])


@pytest.fixture(scope="module")
def page(compared, trained, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert write_html(path, compared, trained[0]) == ""
    return path


def test_a_page_is_whole_in_itself_and_the_same_again(page, compared, trained, tmp_path):
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:|\#)""", text) and "@import" not in text and "url(" not in text.split("<body>")[0]
    assert text.count('class="cell') == sum(table.cell(label, name, metric) is not None for table in compared.tables.values()
                                            for label in table.labels for name in table.names for metric in table.metrics)  # fmt: skip
    write_html(tmp_path / "again.html", compared, trained[0])
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == text


def test_every_case_has_its_picture_and_its_scores(page, compared):
    data = data_of(page.read_text(encoding="utf-8"))
    samples = {row[data["cases"]["columns"].index("sample_id")] for row in data["cases"]["rows"]}
    assert samples == set(data["pictures"]) == set(compared.sources[0].cases["sample_id"])
    assert len(data["cases"]["rows"]) == sum((source.cases["name"] != "background").sum() for source in compared.sources)
    picture = next(iter(data["pictures"].values()))
    assert list(picture["layers"]) == [source.label for source in compared.sources] and picture["reference"].startswith("data:image/png")
    assert picture["photograph"].startswith("data:image/jpeg;base64,")


@pytest.mark.slow
def test_a_page_of_a_score_that_is_seldom_shown(scored, tmp_path):
    write_html(tmp_path / "report.html", publish([str(scored / "baseline")], metrics=["nsd_2px"]))
    assert "NSD at 2 px" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_names_are_text_and_nothing_else(scored, tmp_path):
    published = publish([str(scored / "baseline"), str(scored / "larger")])
    sources = [replace(source, label=f"{source.label}{EVIL}", cases=source.cases.replace({"sample_id": {"patient03_0": EVIL}}))
               for source in published.sources]  # fmt: skip
    write_html(tmp_path / "report.html", replace(published, sources=sources))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert EVIL not in text and "<img src=x" not in text
    assert EVIL in {row[2] for row in data_of(text)["cases"]["rows"]}


def test_masks_from_elsewhere_are_shown_without_photographs(scored):
    sources = publish([str(scored / "baseline"), str(scored / "larger")]).sources
    album = draw_album(sources, ["patient00_0", "nobody"], STORED)
    assert album.missing == "Not shown: nobody: is not among the masks that were scored; score them again."
    picture = album.pictures["patient00_0"]
    assert picture.photograph == "" and list(picture.layers) == ["baseline", "larger"]
    assert (picture.width_px, picture.height_px) == (40, 32)
    outside = draw_album(sources, ["patient00_0"], STORED / "larger")
    assert not outside.pictures and "is no file below the data root" in outside.missing and "give --data-root" in outside.missing
    assert draw_album(sources, ["patient00_0"], None).missing.startswith("No pictures: data root: no data root is given")


def test_what_is_missing_is_told(trained, tmp_path, monkeypatch):
    data_root, (run, *_) = trained
    sources = publish([str(run.path)]).sources
    assert draw_album(sources, ["case_00"], None).missing.startswith("No pictures: data root: no data root is given")
    changed = [replace(sources[0], facts={**sources[0].facts, "manifest_sha256": "0" * 64})]
    assert "the manifest has changed since the runs were scored" in draw_album(changed, ["case_00"], data_root).missing
    monkeypatch.setattr("medseg.publishing.html.overlays.BUDGET_BYTES", 8_000)
    samples = worth_a_picture(sources, [])
    album = draw_album(sources, samples, data_root)
    assert 0 < len(album.pictures) < len(samples) and "further cases: more pictures would make a page" in album.missing
    assert list(album.pictures) == samples[: len(album.pictures)] and samples[0] == mean_by_case(sources[0]).index[0]


def test_the_summary_says_what_the_table_says(compared, scored):
    of_runs = findings(publish([str(scored / "baseline"), str(scored / "larger")]))
    headline = r"baseline: IoU averaged over classes 0\.\d+ \[0\.\d+, 0\.\d+\], mean over images, n = .*\. Weakest: IoU of lesion"
    assert re.match(headline, of_runs[0])
    assert re.search(r"missed: lesion in \d+ of \d+ groups", " ".join(of_runs)) and "larger differs from baseline in" in of_runs[-1]
    careful = " ".join(cautions(compared))
    assert "4 group(s): too few for any interval" in careful and "The test rows have been scored 3 times by now" in careful
    assert "Not trained alike" not in careful


def test_runs_that_were_not_trained_alike_are_a_caution(compared, tmp_path):
    for place, epochs in enumerate((1, 70)):
        run = RunFolder(tmp_path / str(place))
        run.path.mkdir()
        run.config_yaml.write_text(f"name: a\ndata: {{manifest: m, split: s}}\ntrain: {{epochs: {epochs}}}\n")
        run.metrics_jsonl.write_text(json.dumps({"epoch": epochs, "step": 2 * epochs, "metrics": {}}) + "\n")
    sources = [replace(source, runs={(0, -1): tmp_path / str(place)}) for place, source in enumerate(compared.sources)]
    first, second = (source.label for source in sources)
    told = f"Not trained alike, so a difference is not the network's alone: optimiser steps: {first} 2; {second} 140."
    assert told in cautions(replace(compared, sources=sources))


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_at_any_width_in_light_and_dark(browser, page, width, scheme):
    shown, said = opened(browser, page, viewport={"width": width, "height": 844}, color_scheme=scheme)
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    ink, ground = (shown.evaluate(f"getComputedStyle(document.body).{of}").strip("rgb()").split(",") for of in ("color", "backgroundColor"))
    assert (sum(map(int, ink)) > sum(map(int, ground))) == (scheme == "dark")
    assert shown.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert float(shown.evaluate("getComputedStyle(document.querySelector('p, li')).fontSize").strip("px")) >= 14
    assert said == []


@pytest.mark.slow
@pytest.mark.browser
def test_a_number_leads_to_its_cases_and_a_case_to_its_picture(browser, page, compared):
    """The browser's own mean of the listed cases is the number that was pressed, for each class, run and score."""
    shown, said = opened(browser, page, viewport={"width": 1280, "height": 844})
    for cell in shown.query_selector_all("button.cell")[::5]:
        cell.click()
        average, metric, text = cell.get_attribute("data-average"), cell.get_attribute("data-metric"), cell.query_selector("b").inner_text()
        made_of = shown.inner_text("#made-of")
        (value,) = re.findall(rf"{'mean over images' if average == 'per_image' else 'pooled'} ([\d.–]+)", made_of.replace("defined", ""))
        if "–" in text:
            assert value == "–", (metric, made_of)
        else:
            assert float(value.strip(".")) == pytest.approx(float(text), abs=0.6 * 10 ** -len(text.partition(".")[2])), (metric, made_of)
    shown.locator("#case-table button.open").first.click()
    assert shown.is_visible("#viewer") and shown.locator("#canvas img").count() == 2 + len(compared.sources)
    before = shown.evaluate("document.getElementById('canvas').style.transform")
    shown.keyboard.press("+")
    assert shown.evaluate("document.getElementById('canvas').style.transform") != before
    shown.mouse.wheel(0, -200)
    name = shown.inner_text("#viewer-name")
    shown.keyboard.press("n")
    assert shown.inner_text("#viewer-name") != name
    shown.locator("#layers input").last.uncheck()
    assert shown.locator("#canvas img").last.is_hidden()
    shown.keyboard.press("Escape")
    assert not shown.is_visible("#viewer") and said == []


@pytest.mark.slow
@pytest.mark.browser
def test_nothing_a_screen_reader_would_miss(browser, page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    shown, _ = opened(browser, page, viewport={"width": 1280, "height": 844})
    found = axe.run(shown)
    assert found.violations_count == 0, found.generate_report()
