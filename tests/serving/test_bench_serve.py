"""The judge of bench/bench_serve.py: what it lets pass, and what it does not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bench_serve import Judge, failed
from http_load import Reply, Request

from medseg.deploy.model import Model
from tests.serving.exports import photograph
from tests.serving.server import Running, encoded

PHOTOGRAPHS = [encoded(photograph(3)), encoded(photograph(9)), encoded(photograph(3, (60, 80)))]


@pytest.mark.parametrize("result", ["json", "mask", "overlay", "confidence", "labelme"])
def test_an_answer_to_the_same_photograph_passes_and_to_another_does_not(server: Running, model: Model, result: str) -> None:
    judge, query = Judge(model, PHOTOGRAPHS), f"?result={result}"
    for place, content in enumerate(PHOTOGRAPHS):
        judge(Reply(Request(f"good {place}", content, query), 200, server.send(content, query).body))
    assert not judge.wrong
    other = 1 if result in ("json", "mask", "labelme") else 2  # the others are told apart by their size alone
    reply = Reply(Request("good 0", PHOTOGRAPHS[0], query), 200, server.send(PHOTOGRAPHS[other], query).body)
    judge(reply)
    judge(reply)  # a wrong answer that comes again is not a known one
    assert len(judge.wrong) == 2


def test_outlines_that_do_not_paint_the_mask_are_wrong(server: Running, model: Model) -> None:
    judge, request = Judge(model, PHOTOGRAPHS), Request("good 1", PHOTOGRAPHS[1], "?result=labelme")
    content = server.send(PHOTOGRAPHS[1], "?result=labelme").json
    content["shapes"] = [shape | {"points": (np.array(shape["points"]) + 5).tolist()} for shape in content["shapes"]]
    judge(Reply(request, 200, json.dumps(content).encode()))
    assert len(judge.wrong) == 1


@pytest.mark.parametrize(("figures", "expected"), [({"added_ms": 50.0}, False), ({"added_ms": 50.1}, True), ({}, False)])
def test_more_than_50_ms_by_http_is_a_failure(figures: dict[str, float], expected: bool) -> None:
    assert failed(figures) is expected
    assert failed({"wrong": 1}) and failed({"growth": 0.05}) and not failed({"wrong": 0, "growth": 0.049})
