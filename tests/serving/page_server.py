"""The page of a running server in a headless browser, and what stands on it."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from tests.serving.exports import photograph
from tests.serving.server import Running, encoded

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT_MS = 10_000
PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
DESK = {"viewport": {"width": 1280, "height": 860}}


class File(NamedTuple):
    """As a browser is given it."""

    name: str
    kind: str
    content: bytes

    @property
    def given(self) -> dict[str, Any]:
        return {"name": self.name, "mimeType": self.kind, "buffer": self.content}


def photo(place: int = 0, name: str | None = None, size: tuple[int, int] = (40, 60)) -> File:
    return File(name or f"case_{place}.png", "image/png", encoded(photograph(place, size)))


@contextmanager
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Shown:
    """One visitor's page. said: what its console says, errors, and every address that is not the server's own."""

    def __init__(self, browser: Any, server: Running, **options: Any) -> None:
        self.context = browser.new_context(**{**DESK, **options})
        self.context.set_default_timeout(WAIT_MS)
        self.page, self.said = self.context.new_page(), []
        own = f"http://127.0.0.1:{server.port}/"
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda each: None if each.url.startswith((own, "blob:", "data:")) else self.said.append(each.url))
        self.page.goto(own)
        self.page.locator("#choose:not(:empty)").wait_for()

    def give(self, *files: File, done: int | None = None) -> None:
        """Choose files, and wait until so many pictures are done, or all that were given."""
        before = self.page.locator(".thumb[data-state=done]").count()
        self.page.set_input_files("#files", [file.given for file in files])
        self.wait("done", before + len(files) if done is None else done)

    def wait(self, state: str, count: int = 1) -> None:
        if count:
            self.page.locator(f".thumb[data-state={state}]").nth(count - 1).wait_for()
        self.settle()

    def settle(self) -> None:
        """Until the chosen picture stands on the stage, or is known not to."""
        self.page.locator("#picture[aria-busy=false]").wait_for(state="attached")

    def canvas(self, name: str) -> np.ndarray:
        """uint8 (H, W, 4) of a layer: its own pixels, not the screen's."""
        uri = self.page.evaluate("(name) => document.getElementById(name).toDataURL()", name)
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA"))

    def table(self) -> dict[str, list[str]]:
        """Name -> the cells of its row."""
        rows = self.page.locator("#classes tr").all()
        return {row.locator("th").inner_text().strip(): row.locator("td").all_inner_texts() for row in rows}

    def saved(self, button: str, folder: Path) -> Path:
        with self.page.expect_download() as waiting:
            self.page.click(button)
        path = folder / waiting.value.suggested_filename
        waiting.value.save_as(path)
        return path

    def axe(self) -> None:
        found = pytest.importorskip("axe_playwright_python.sync_playwright").Axe().run(self.page)
        assert found.violations_count == 0, found.generate_report()


def sampled(values_HW: np.ndarray, height: int, width: int) -> np.ndarray:
    """The nearest pixel of each place, by pixel centres."""
    rows = ((np.arange(height) + 0.5) * values_HW.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * values_HW.shape[1] / width).astype(int)
    return values_HW[rows][:, columns]
