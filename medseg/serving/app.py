"""The HTTP API: each route hands on to what does the work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from medseg.deploy.description import Frame, Origin
from medseg.deploy.model import Model
from medseg.serving import apidocs
from medseg.serving.answers import PROVENANCE, Answer, Asked, ClassNamed, classes_named
from medseg.serving.auth import HEALTH, Guard, names_of
from medseg.serving.headers import Headed
from medseg.serving.limits import Desk, Limits
from medseg.serving.refusals import RequestError, on_bad_query, on_fault, on_http, on_refused
from medseg.serving.segmenting import Segmenter
from medseg.serving.uploads import FIELD, read_photograph
from medseg.serving.visit import Visits, visit_of

PAGE = Path(__file__).parent / "page"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".png": "image/png"}
# on by default (FastAPI 0.165), with paths, queries and errors, as soon as a provider is set up in the process
NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}
FORM = {"type": "object", "required": [FIELD], "properties": {FIELD: {"type": "string", "format": "binary"}}}
WHY: dict[int | str, str] = {
    400: "a broken image, form or parameter",
    401: "the token is missing or wrong",
    403: "another site's page has sent this",
    405: "another method than POST",
    408: "the upload was too slow",
    413: "too many bytes or pixels",
    415: "no image",
    421: "the server was called by a name that is not its own",
    422: "the mask has too many pieces to be outlined (result=labelme)",
    429: "the queue is full; come again after Retry-After",
    500: "a mistake of the server's",
    503: "the server is stopping",
    "default": "any other error",
}
ABOUT = """A photograph in, the outlines of its classes out. Nothing of an image is kept, written to disk or logged."""


class Said(BaseModel):
    """rule: what was expected and found.  fix: the way out.  code: one word for programs."""

    rule: str
    fix: str
    code: str


class ErrorAnswer(BaseModel):
    """Every answer of 4xx and 5xx."""

    error: Said


class LimitsTold(BaseModel):
    """Of one photograph; seconds: in which it must have come."""

    bytes: int
    pixels: int
    seconds: float


class ModelAnswer(BaseModel):
    """What is served. card: the model card in Markdown, where there is one."""

    model_config = ConfigDict(frozen=True)

    classes: list[ClassNamed]
    regions: list[ClassNamed]
    frame: Frame
    origin: Origin
    backend: str
    protocol: str
    limits: LimitsTold
    card: str | None


@dataclass(frozen=True, slots=True)
class Served:
    """app: what uvicorn runs.  api: the routes within, for their documentation.  segmenter: with its threads.  desk: what is in hand."""

    app: ASGIApp
    api: FastAPI
    segmenter: Segmenter
    desk: Desk


def make_app(model: Model, limits: Limits, host: str = "127.0.0.1", token: str | None = None) -> Served:
    """A model as an ASGI application, with all that guards it."""
    desk, segmenter = Desk(limits), Segmenter(model, limits)
    api = FastAPI(
        title="medseg serve", version=metadata.version("medseg"), description=ABOUT, lifespan=_lifespan(segmenter),
        docs_url=None, redoc_url=None, redirect_slashes=False, telemetry=NO_TELEMETRY,
    )  # fmt: skip
    _add_errors(api)
    _add_health(api, segmenter, desk)
    _add_model(api, segmenter)
    _add_segment(api, segmenter)
    open_paths = {HEALTH, "/readyz", "/openapi.json", *_add_pages(api)}
    guarded = Visits(Guard(api, desk, names_of(host), token, open_paths), desk)
    return Served(Headed(guarded, {*open_paths, "/v1/segment", "/v1/model"}), api, segmenter, desk)


def _lifespan(segmenter: Segmenter) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def running(api: FastAPI) -> AsyncIterator[None]:
        segmenter.start()
        yield
        segmenter.stop()

    return running


def _add_errors(api: FastAPI) -> None:
    api.add_exception_handler(RequestError, on_refused)
    api.add_exception_handler(RequestValidationError, on_bad_query)
    api.add_exception_handler(HTTPException, on_http)
    api.add_exception_handler(ClientDisconnect, lambda request, error: Response(status_code=400))  # nobody reads it
    api.add_exception_handler(Exception, on_fault)


def _add_health(api: FastAPI, segmenter: Segmenter, desk: Desk) -> None:
    @api.get(HEALTH, tags=["health"])
    async def alive() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    @api.get("/readyz", tags=["health"], responses={503: {"model": ErrorAnswer}})
    async def ready() -> dict[str, str]:
        """The network has been warmed up and the server is not stopping."""
        if not segmenter.batcher.ready or desk.stopping:
            raise RequestError(503, "not_ready", "the network is not ready yet", "come again in some seconds")
        return {"status": "ready"}


def _add_model(api: FastAPI, segmenter: Segmenter) -> None:
    description, limits = segmenter.model.description, segmenter.limits
    classes, regions = classes_named(description)
    told = ModelAnswer(
        classes=classes, regions=regions, frame=description.frame, origin=description.origin, backend=segmenter.model.network.backend,
        protocol=description.protocol, card=segmenter.model.card,
        limits=LimitsTold(bytes=limits.bytes, pixels=limits.pixels, seconds=limits.seconds),
    )  # fmt: skip

    @api.get("/v1/model", tags=["v1"], responses=_errors(401, 403, 421, 500, 503))
    async def model() -> ModelAnswer:
        """What is served: classes, frame, where the network comes from, by which rules it was scored, limits, model card."""
        return told


def _add_segment(api: FastAPI, segmenter: Segmenter) -> None:
    @api.post("/v1/segment", tags=["v1"], response_class=Response, responses=_answers(), openapi_extra=_body())
    async def segment(request: Request, asked: Annotated[Asked, Query()]) -> Response:
        """Segment one photograph, the file field `image` of a form. EXIF orientation is applied, and all is told on upright pixels."""
        visit = visit_of(request)
        visit.desk.places.check()  # before the body, which may be long, is sent for nothing
        content = await read_photograph(request, segmenter.limits)
        visit.desk.places.take()
        visit.kept.callback(visit.desk.places.give)
        return await segmenter.answer(content, asked, visit)


def _answers() -> dict[int | str, dict[str, Any]]:
    kinds: dict[str, Any] = {"image/png": {}, "image/jpeg": {}}
    headers = {PROVENANCE: {"description": "run, backend and weights_sha256, percent-encoded", "schema": {"type": "string"}}}
    return {200: {"model": Answer, "content": kinds, "headers": headers}, **_errors(*WHY)}


def _errors(*statuses: int | str) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorAnswer, "description": WHY[status]} for status in statuses}


def _body() -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": FORM}}}}


def _add_pages(api: FastAPI) -> set[str]:
    """The page, its files and the documentation; the paths. Names are looked up, never joined to a path."""
    files = {f"/page/{path.name}": path for path in sorted(PAGE.glob("*.*")) if path.suffix in KINDS and path.suffix != ".html"}
    files |= {"/": PAGE / "index.html", apidocs.STYLE_PATH: apidocs.STYLE}
    for path, file in files.items():
        api.add_api_route(path, _sender(file), include_in_schema=False)
    api.add_api_route("/docs", _documentation(api), include_in_schema=False)
    return {*files, "/docs"}


def _documentation(api: FastAPI) -> Callable[[Request], Response]:
    def send(request: Request) -> Response:
        return Response(apidocs.page(api.openapi(), str(request.base_url).rstrip("/")), media_type="text/html")

    return send


def _sender(file: Path) -> Callable[[], Response]:
    def send() -> Response:
        return Response(file.read_bytes(), media_type=KINDS[file.suffix])

    return send
