"""A page in a headless browser."""

from __future__ import annotations

from pathlib import Path


def opened(browser, path: Path, **options):
    """(page, what its console says)."""
    said: list[str] = []
    page = browser.new_context(**options).new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else said.append(request.url))
    page.goto(path.as_uri())
    return page, said
