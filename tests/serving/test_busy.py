"""Many at once: batches, a full queue, a stop, and who waits for whom."""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.deploy.model import Model
from medseg.deploy.networks import Network
from medseg.errors import ConfigError
from medseg.serving.app import Served, make_app
from medseg.serving.limits import Counted, Limits, Shared
from medseg.serving.refusals import RequestError
from medseg.serving.run import bound
from tests.serving.exports import photograph
from tests.serving.server import FORM_TYPE, Answered, Running, encoded, form, running, wait
from tests.serving.test_answers import pixels


def send_all(server: Running, count: int) -> list[Answered]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda place: server.send(encoded(photograph(place)), "?result=mask"), range(count)))


def test_concurrent_requests_share_the_network_and_each_gets_its_own_answer(model: Model) -> None:
    with running(model) as server:
        server.network.open.clear()
        threading.Timer(0.5, server.network.open.set).start()  # by then all of them wait
        answers = send_all(server, 24)
        sizes = server.network.sizes
    assert sum(sizes) == 24 and len(sizes) <= 6 and set(sizes) <= {1, 2, 4, 8}
    for place, answer in enumerate(answers):
        assert answer.status == 200
        np.testing.assert_array_equal(pixels(answer.body), model.segment(photograph(place)).mask_HW)
    assert len({answer.body for answer in answers}) == 24


def test_a_full_queue_is_429_and_nobody_who_comes_again_is_lost(model: Model) -> None:
    with running(model, Limits(queue=3)) as server:
        server.network.open.clear()
        with ThreadPoolExecutor(3) as pool:
            taken = [pool.submit(server.send, encoded(photograph(place)), "?result=mask") for place in range(3)]
            wait(lambda: server.served.desk.places.taken == 3)
            full = server.send(encoded(photograph()))
            server.network.open.set()
            assert [each.result().status for each in taken] == [200] * 3
        assert (full.status, full.code, full.headers["retry-after"]) == (429, "busy", "1")
        assert server.send(encoded(photograph())).status == 200


def test_uploads_together_are_bounded(model: Model) -> None:
    with running(model) as server:
        server.served.desk.bytes.most = 2000
        assert server.send(encoded(photograph())).status == 200
        noise = encoded(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
        assert server.send(noise).status == 429
        wait(lambda: server.served.desk.bytes.taken == 0)


def test_a_fault_of_the_network_is_told_to_all_it_met_and_to_no_other(model: Model) -> None:
    with running(model) as server:
        within, server.network.within = server.network.within, None  # type: ignore[assignment]
        found = server.send(encoded(photograph()))
        assert (found.status, found.code) == (500, "fault") and "NoneType" not in found.body.decode()
        server.network.within = within
        assert server.send(encoded(photograph())).status == 200


class Short(Network):
    """Answers with a row less than it was given."""

    backend = "short"

    def __init__(self, within: Network) -> None:
        self.within = within

    def probs(self, image_BCHW: np.ndarray) -> np.ndarray:
        return self.within.probs(image_BCHW)[1:]


def test_a_network_that_answers_with_fewer_rows_keeps_nobody_waiting(model: Model) -> None:
    with running(model) as server:
        within = server.network.within
        server.network.within = Short(within)
        assert server.send(encoded(photograph())).code == "fault"
        server.network.within = within
        assert server.send(encoded(photograph())).status == 200


def test_a_limit_of_pixels_below_the_frames_own_does_not_stop_the_warm_up(model: Model) -> None:
    with running(model, Limits(pixels=30 * 40)) as server:
        assert server.get("/readyz").status == 200
        assert server.send(encoded(photograph(size=(30, 40)))).status == 200
        assert server.send(encoded(photograph())).code == "too_many_pixels"


def test_who_is_slow_to_fetch_an_answer_holds_no_pixels(model: Model) -> None:
    """Two photographs fill the allowance; a third is answered while nobody takes those two answers."""
    served = make_app(model, Limits(pixels=40 * 60))

    async def story() -> list[int]:
        begun, fetched = [asyncio.Event() for _ in range(3)], asyncio.Event()
        asked = [asyncio.create_task(ask(served, event, fetched)) for event in begun]
        async with asyncio.timeout(10):
            await asyncio.gather(*(event.wait() for event in begun))
        fetched.set()
        return await asyncio.gather(*asked)

    served.segmenter.start()
    try:
        assert asyncio.run(story()) == [200] * 3
    finally:
        served.segmenter.stop()


async def ask(served: Served, begun: asyncio.Event, fetched: asyncio.Event) -> int:
    """The status that the server begins to send, which is not taken before `fetched`."""
    body, found = form(encoded(photograph())), list[int]()
    headers = [(b"host", b"localhost"), (b"content-type", FORM_TYPE.encode()), (b"content-length", str(len(body)).encode())]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            found.append(message["status"])
            begun.set()
        await fetched.wait()

    scope = {"type": "http", "method": "POST", "path": "/v1/segment", "query_string": b"result=mask", "headers": headers}
    await served.app(scope, receive, send)
    return found[0]


def test_a_stop_finishes_what_was_taken_and_takes_no_more(model: Model) -> None:
    with running(model) as server:
        server.network.open.clear()
        with ThreadPoolExecutor(6) as pool:
            taken = [pool.submit(server.send, encoded(photograph(place)), "?result=mask") for place in range(6)]
            wait(lambda: server.served.desk.places.taken == 6)
            server.server.stop()
            assert (server.get("/readyz").status, server.get("/readyz").code) == (503, "stopping")
            assert server.send(encoded(photograph())).code == "stopping"
            assert server.get("/healthz").status == 200
            server.network.open.set()
            for place, each in enumerate(taken):
                assert each.result().status == 200
                np.testing.assert_array_equal(pixels(each.result().body), model.segment(photograph(place)).mask_HW)


def test_an_upload_that_has_begun_before_the_stop_is_answered(model: Model) -> None:
    with running(model) as server:
        body = form(encoded(photograph()))
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.putrequest("POST", "/v1/segment?result=mask")
        connection.putheader("Content-Type", FORM_TYPE)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:100])
        wait(lambda: server.served.desk.in_hand == 1)
        server.server.stop()
        connection.send(body[100:])
        assert connection.getresponse().status == 200
        connection.close()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_the_command_line_ends_by_a_signal(export_folder: Path, number: int, code: int) -> None:
    command = [sys.executable, "-m", "medseg", "serve", str(export_folder), "--port", "0", "--backend", "onnxruntime"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.match(r"http://127.0.0.1:(\d+)/ is the page", said)
        assert found, said
        wait(lambda: _ready(int(found[1])), 60)
        process.send_signal(number)
        assert process.wait(30) == code


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def test_a_port_that_is_taken_is_told() -> None:
    with bound("127.0.0.1", 0) as first, pytest.raises(ConfigError, match="cannot be had"):
        first.listen()
        with bound("127.0.0.1", first.getsockname()[1]):
            pass


def test_who_asks_for_more_than_is_left_is_sent_away() -> None:
    counted = Counted(3)
    counted.take(2)
    with pytest.raises(RequestError, match="as much in hand"):
        counted.take(2)
    counted.give(2)
    counted.take(3)


def test_pixels_are_shared_in_the_order_of_arrival() -> None:
    async def story() -> list[str]:
        shared, order = Shared(10), list[str]()

        async def one(name: str, amount: int) -> None:
            await shared.take(amount)
            order.append(name)

        await one("first", 6)
        large, small = asyncio.create_task(one("large", 8)), asyncio.create_task(one("small", 1))
        await asyncio.sleep(0)
        assert order == ["first"]  # the small one would fit, but the large one came before
        shared.give(6)
        await asyncio.gather(large, small)
        return order

    assert asyncio.run(story()) == ["first", "large", "small"]


def test_who_gives_up_waiting_holds_nothing() -> None:
    async def story() -> None:
        shared = Shared(10)
        await shared.take(10)
        waiting = asyncio.create_task(shared.take(5))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        shared.give(10)
        await asyncio.wait_for(shared.take(10), 1)

    asyncio.run(story())


def test_no_answer_waits_for_its_acknowledgement() -> None:
    """Nagle's algorithm, left on, held the second half of an answer back for 40 ms."""

    async def connected() -> int:
        seen = asyncio.get_running_loop().create_future()

        async def look(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with bound("127.0.0.1", 0) as listener:
            async with await asyncio.start_server(look, sock=listener):
                _, writer = await asyncio.open_connection(*listener.getsockname())
                writer.close()
                return int(await seen)

    assert asyncio.run(connected())
