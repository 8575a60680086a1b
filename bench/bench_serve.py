"""`medseg serve`: what HTTP adds to one photograph, and a load of which one in ten requests is hostile.

python bench/bench_serve.py [--export DIR] [--photographs DIR] [--requests 10000] [--at-once 32] [--results json mask ...]
                            [--only latency|load] [--record]

Without --export (a folder that `medseg export` wrote) a network is trained for 8 epochs on drawn tongues first. Photographs are drawn,
too, or those of a folder, scaled to the sizes wanted; outlines of a network that knows neither take most of the time, as they do of noise.
Latency: one JPEG of 400 x 400 pixels by the running server (all of the JSON answer) and in this process (decoding, `Model.segment`), in
turn. Load: photographs of several sizes; truncated files, bombs, other files, 100 MB (with and without a length, by clients that read early
and by those that send all first), and paths in the name, which must be answered as any good photograph is. Of the good answers json, mask
and labelme (painted back) are compared with the mask that this process finds; overlay and confidence by their size. Memory (VmRSS of the
server) after the first 1,000 and at the end. Exits 1 where HTTP adds more than 50 ms, or a crash, a good request without its own answer, a
hostile one without a 4xx and its reason, or 5 % of growth was met.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from http_load import Line, Reply, Request, send_all
from PIL import Image
from record import command_line, tell

from medseg.deploy.model import Model, open_export
from medseg.images import IMAGE_SUFFIXES, read_image_bytes
from medseg.outlines import Outline, painted
from medseg.phantom.write import write_phantoms
from medseg.types import Size

SIZES = (Size(400, 400), Size(300, 500), Size(640, 480), Size(1000, 750))  # of photographs; the first for latency
DRAWN, TURNS, WARM_TURNS = 5, 60, 10  # DRAWN of each size
QUEUE = 24  # fewer than come at once, so that some are sent away and come again
HUGE, AGREE, PAINTED_AGREE, GROWTH, WARM = 100_000_000, 0.999, 0.99, 0.05, 1000
ADDED_MS = 50  # at most by HTTP, median
RESULTS = ("json", "mask", "overlay", "confidence", "labelme")
HOSTILE = ("truncated", "bomb", "wrong type", "100 MB", "path in the name")
EXPERIMENT = """
data: {{manifest: {folder}/v1, split: main, size_px: [256, 256], cache: {folder}/cache}}
train: {{epochs: 8, batch_size: 8}}
tracking: {{enabled: false}}
"""


def medseg(*arguments: object) -> list[str]:
    """As a command."""
    return [sys.executable, "-m", "medseg", *map(str, arguments)]


def export(folder: Path) -> Path:
    """A network of a few epochs, whose masks are no noise; its export."""
    write_phantoms(folder / "train", 60, 1, Size(256, 256), jobs=1)
    experiment = folder / "serve.yaml"
    experiment.write_text(EXPERIMENT.format(folder=folder))
    for command in (
        medseg("manifest", "import", "labelme", folder / "train", "--out", folder / "v1"),
        medseg("manifest", "split", folder / "v1", "--name", "main"),
        medseg("train", experiment, "--data-root", folder / "train", "--runs", folder / "runs"),
    ):
        subprocess.run(command, check=True, stdout=sys.stderr)
    [run] = [path for path in (folder / "runs").iterdir() if path.is_dir()]
    subprocess.run(medseg("export", run, "--out", folder / "export"), check=True, stdout=sys.stderr)
    return folder / "export"


@contextmanager
def serving(where: Path, log: Path, *options: object) -> Iterator[tuple[int, int]]:
    """(port, process id) of a server that is ready; it must end by SIGTERM as it should."""
    with log.open("w") as errors, subprocess.Popen(
        medseg("serve", where, "--port", 0, *options), stdout=subprocess.PIPE, stderr=errors, text=True
    ) as process:  # fmt: skip
        assert process.stdout is not None
        url = process.stdout.readline().split("/ is")[0]
        while not is_ready(url):
            time.sleep(0.1)
        yield int(url.rpartition(":")[2]), process.pid
        process.terminate()
        if code := process.wait(60):
            sys.exit(f"medseg serve ended with {code}")


def is_ready(url: str) -> bool:
    """Whether the network is warm."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5):
            return True
    except OSError:
        return False


def photographs(folder: Path, given: Path | None) -> list[bytes]:
    """JPEGs of each of SIZES: drawn, or of the photographs in a folder."""
    if given:
        paths = sorted(path for path in given.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)[: DRAWN * len(SIZES)]
        return [jpeg(path, SIZES[place % len(SIZES)]) for place, path in enumerate(paths)]
    for number, size in enumerate(SIZES):
        write_phantoms(folder / f"drawn_{number}", DRAWN, 7, size, jobs=1)
    return [path.read_bytes() for path in sorted(folder.glob("drawn_*/*.jpg"))]


def jpeg(path: Path, size: Size) -> bytes:
    """A photograph, scaled."""
    written = io.BytesIO()
    Image.open(path).convert("RGB").resize((size.width_px, size.height_px)).save(written, "JPEG", quality=92)
    return written.getvalue()


# --- latency


async def latency(port: int, model: Model, content: bytes) -> dict[str, float]:
    """Medians in ms, over HTTP and in this process in turn."""
    line, took = Line(port), dict[str, list[float]](http=[], http_mask=[], in_process=[])
    for _ in range(TURNS + WARM_TURNS):
        for name, query in (("http", ""), ("http_mask", "?result=mask")):
            started = time.perf_counter()
            status, _, _ = await line.ask(Request(name, content, query))
            took[name].append(time.perf_counter() - started)
            assert status == 200, status
        started = time.perf_counter()
        model.segment(read_image_bytes(content, "photograph"))
        took["in_process"].append(time.perf_counter() - started)
    await line.close()
    found = {name: 1000 * statistics.median(times[WARM_TURNS:]) for name, times in took.items()}
    return {f"{name}_ms": round(value, 1) for name, value in found.items()} | {"added_ms": round(found["http"] - found["in_process"], 1)}


# --- load


def bomb() -> bytes:
    """A PNG of a few kB that promises gigapixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1_000_000))) + chunk(b"IEND", b"")


def requests(good: list[bytes], results: list[str], first: int, last: int) -> Iterator[Request]:
    """Those from `first` up to `last`; every tenth hostile, its kinds in turn."""
    exploding = bomb()
    for place in range(first, last):
        content, query = good[place % len(good)], f"?result={results[place // len(good) % len(results)]}"
        hostile, turn = HOSTILE[place // 10 % len(HOSTILE)], place // 50 % 4
        if place % 10:
            yield Request(f"good {place % len(good)}", content, query)
        elif hostile == "truncated":
            yield Request(hostile, content[: len(content) // 2])
        elif hostile == "bomb":
            yield Request(hostile, exploding)
        elif hostile == "wrong type":
            yield Request(hostile, (b"%PDF-1.7\n", b"#!/bin/sh\n", b"<svg/>", b"\0" * 5000)[turn])
        elif hostile == "100 MB":
            yield Request(hostile, content, padding=HUGE, chunked=turn % 2 == 1, reads_early=turn < 2)
        else:
            yield Request(f"path {place % len(good)}", content, query, name="../../../../etc/cron.d/medseg.jpg")


class Judge:
    """Counts what came back, and keeps what should not have."""

    def __init__(self, model: Model, good: list[bytes]) -> None:
        self.labels = model.labels
        self.expected = [model.segment(read_image_bytes(content, "photograph")).mask_HW for content in good]
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.known: dict[tuple[str, str], bytes] = {}

    def __call__(self, reply: Reply) -> None:
        kind = reply.request.kind
        good = kind.startswith(("good", "path"))
        self.counts[f"{kind.split()[0] if good else kind}: {reply.status}"] += 1
        self.counts["retries"] += reply.retries
        if not (self.is_answered(reply) if good else is_refused(reply)):
            self.wrong.append(f"{reply.request.kind}{reply.request.query}: {reply.status} {reply.body[:200]!r}")

    def is_answered(self, reply: Reply) -> bool:
        """With the answer to its own photograph; an answer that is known byte by byte is not looked at again."""
        if reply.status != 200:
            return False
        place, query = int(reply.request.kind.split()[1]), reply.request.query
        if query.endswith(("overlay", "confidence")):
            height, width = self.expected[place].shape
            return Image.open(io.BytesIO(reply.body)).size == (width, height)
        content = base64.b64decode(json.loads(reply.body)["mask_png"]) if query.endswith("json") else reply.body
        if self.known.get((query, str(place))) == content:
            return True
        found_HW = self.painted_back(content) if query.endswith("labelme") else np.asarray(Image.open(io.BytesIO(content)))
        agree = PAINTED_AGREE if query.endswith("labelme") else AGREE
        if found_HW.shape != self.expected[place].shape or (found_HW == self.expected[place]).mean() <= agree:
            return False
        self.known[query, str(place)] = content
        return True

    def painted_back(self, content: bytes) -> np.ndarray:
        """The mask that an import makes of a labelme file: uint8 (H, W)."""
        found = json.loads(content)
        outlines = [Outline(each["label"], tuple(map(tuple, each["points"])), 0) for each in found["shapes"]]
        return painted(outlines, self.labels, (found["imageHeight"], found["imageWidth"]))


def is_refused(reply: Reply) -> bool:
    """With a 4xx that says why."""
    return 400 <= reply.status < 500 and bool(json.loads(reply.body)["error"]["rule"])


def rss_mib(pid: int) -> float:
    """Of a process that has come to rest."""
    time.sleep(1)
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def load(port: int, pid: int, judge: Judge, good: list[bytes], options: argparse.Namespace) -> dict[str, object]:
    """The first thousand, or half, then the rest."""
    count, at_once, started = options.requests, options.at_once, time.perf_counter()
    warm = min(WARM, count // 2)
    asyncio.run(send_all(port, requests(good, options.results, 0, warm), at_once, judge))
    before = rss_mib(pid)
    asyncio.run(send_all(port, requests(good, options.results, warm, count), at_once, judge))
    took = time.perf_counter() - started
    after = rss_mib(pid)
    return {
        "requests": count, "at_once": at_once, "outcomes": dict(sorted(judge.counts.items())), "wrong": len(judge.wrong),
        "seconds": round(took, 1), "rss_warm_mib": round(before, 1), "rss_end_mib": round(after, 1), "growth": round(after / before - 1, 4),
    }  # fmt: skip


def measure(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """What was asked for."""
    where = options.export or export(folder)
    good, model, figures = photographs(folder, options.photographs), open_export(where, "openvino"), dict[str, object]()
    with serving(where, folder / "log", "--queue", QUEUE) as (port, pid):
        if options.only != "load":
            figures |= asyncio.run(latency(port, model, good[0]))
        if options.only != "latency":
            judge = Judge(model, good)
            figures |= load(port, pid, judge, good, options)
            print("\n".join(judge.wrong[:20]), file=sys.stderr)
    return figures


def failed(figures: dict[str, Any]) -> bool:
    """Whether any number is over its bound."""
    return bool(figures.get("wrong") or figures.get("growth", 0) >= GROWTH or figures.get("added_ms", 0) > ADDED_MS)


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--export", type=Path)
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--results", nargs="+", default=list(RESULTS), choices=RESULTS)
    parser.add_argument("--only", choices=("latency", "load"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(Path(temporary), options)
    given = {"--export": options.export, "--photographs": options.photographs}
    command = " ".join(["python bench/bench_serve.py", *(f"{name} DIR" for name, value in given.items() if value)])
    tell("A server under a hostile load", command, figures, options.record)
    if failed(figures):
        sys.exit(f"requests went wrong, memory grew, or HTTP added more than {ADDED_MS} ms")
