"""A multipart form -> the bytes of its one photograph, in memory. The name that the file had is used for nothing."""

from __future__ import annotations

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from medseg.serving.limits import Limits, too_many_bytes
from medseg.serving.refusals import RequestError

FIELD = "image"
USAGE = "send one file as the field image: curl -F image=@photo.jpg"


class _InMemory(MultiPartParser):
    """Starlette's own moves what is over 1 MB to a file on disk."""

    def __init__(self, request: Request, most_bytes: int) -> None:
        super().__init__(request.headers, request.stream(), max_files=1, max_fields=4, max_part_size=1024)
        self.spool_max_size = most_bytes + 1


async def read_photograph(request: Request, limits: Limits) -> bytes:
    """RequestError for another kind of body, a form that is broken, and one without just one file named image."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise RequestError(415, "no_form", "the body must be multipart/form-data", USAGE)
    try:
        form = await _InMemory(request, limits.body_bytes).parse()
    except MultiPartException as cause:
        code = "two_images" if cause.message.startswith("Too many files") else "bad_form"
        raise RequestError(400, code, f"the form cannot be read ({cause.message.rstrip('.')})", USAGE) from None
    except UnicodeError:  # of a charset such as `undefined`, which Python knows and cannot decode by
        raise RequestError(400, "bad_form", "the form cannot be read (its charset decodes nothing)", USAGE) from None
    try:
        return await _only_file(form, limits)
    finally:
        await form.close()


async def _only_file(form: FormData, limits: Limits) -> bytes:
    found = form.get(FIELD)
    if not isinstance(found, UploadFile):
        raise RequestError(400, "missing_image", f"the form has no file named {FIELD}", USAGE)
    content = await found.read()
    if not content:
        raise RequestError(415, "no_image", "the file is empty", USAGE)
    if len(content) > limits.bytes:
        raise too_many_bytes(limits)
    return content
