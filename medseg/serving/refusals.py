"""Why a request is not answered as its sender wished: one shape of JSON for every error."""

from __future__ import annotations

import json

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from medseg.errors import ImageError, ImageTooLargeError, NoImageError

RETRY_S = 1
PARAMETERS = ("result", "spacing_mm")  # of a request; test_trust.py compares them with what is documented
IMAGE_ERRORS: dict[type[ImageError], tuple[int, str]] = {ImageTooLargeError: (413, "too_many_pixels"), NoImageError: (415, "no_image")}
CODES = {404: "not_found", 405: "method"}


class RequestError(Exception):
    """An answer of 4xx or 5xx. code: a short word for programs.  rule, fix: as of `medseg.errors`; nothing of the image or its name."""

    def __init__(self, status: int, code: str, rule: str, fix: str) -> None:
        super().__init__(rule)
        self.status, self.code, self.rule, self.fix = status, code, rule, fix

    def response(self) -> Response:
        """As it goes over the wire."""
        content = json.dumps({"error": {"rule": self.rule, "fix": self.fix, "code": self.code}}, ensure_ascii=False)
        headers = {429: {"Retry-After": str(RETRY_S)}, 401: {"WWW-Authenticate": "Bearer"}}.get(self.status)
        return Response(content, self.status, headers, "application/json")


def of_image(error: ImageError) -> RequestError:
    """A photograph that cannot be read."""
    status, code = IMAGE_ERRORS.get(type(error), (400, "broken_image"))
    return RequestError(status, code, error.rule, error.fix)


async def on_refused(request: Request, error: Exception) -> Response:
    """For FastAPI."""
    assert isinstance(error, RequestError)
    return error.response()


async def on_bad_query(request: Request, error: Exception) -> Response:
    """The first parameter that is not as the documentation has it; its value, which may be anything, is not told back."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = str(first["loc"][-1])
    rule = f"{name}: {first['msg']}" if name in PARAMETERS else f"a parameter is none of {', '.join(PARAMETERS)}"
    return RequestError(400, "bad_parameter", rule, "see /docs").response()


async def on_http(request: Request, error: Exception) -> Response:
    """No such path, or another method."""
    assert isinstance(error, HTTPException)
    return RequestError(error.status_code, CODES.get(error.status_code, "http"), str(error.detail), "see /docs").response()


async def on_fault(request: Request, error: Exception) -> Response:
    """A fault of our own, whose trace goes to the server's log and not to a stranger."""
    return RequestError(500, "fault", "the server has made a mistake", "tell whoever runs it; its log has the trace").response()
