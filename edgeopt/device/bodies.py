"""What comes in over HTTP, made into a sample: an image file, or one array as numpy writes it.

Nothing of it is believed: a length must be told and kept, an array must be of the kind that the network takes and
exactly as long as its head says, and no object is ever made of it.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.device.opened import Raw
from edgeopt.errors import DataError, UsageError

NPY = "application/x-npy"
#: of bytes of an image, beside all of `image/`: what kind of image it is, is looked up in the bytes
IMAGES = ("", "application/octet-stream")

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class RequestError(UsageError):
    """A request that is answered with an error: `status` of HTTP, and headers that belong to it."""

    def __init__(self, status: int, message: str, hint: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message, hint)
        self.status = status
        self.headers = headers or {}


def read_body(environ: dict[str, Any], most_bytes: int) -> bytes:
    """The body of a request.

    Raises:
        RequestError: its length is not told (411), is too much (413), or is not kept (400).
    """
    told = environ.get("CONTENT_LENGTH") or ""
    if not told:
        raise RequestError(411, "the length of the body is not told", "send a `Content-Length`")
    if not (told.isascii() and told.isdigit()):
        raise RequestError(400, "the `Content-Length` is no number")
    if len(told) > 18 or int(told) > most_bytes:
        raise RequestError(413, f"the body has {told} bytes, at most {most_bytes} are allowed", "send a smaller image")
    body: bytes = environ["wsgi.input"].read(int(told))
    if len(body) != int(told):
        raise RequestError(400, f"the body ends after {len(body)} of {told} bytes")
    return body


def read_sample(body: bytes, content_type: str, raw: Raw) -> bytes | NDArray[Any]:
    """The sample in a body: the bytes of an image as they are, or an array.

    Raises:
        RequestError: it is of another kind (415).
        DataError: it is no array, or none of the dtype that the network takes.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind in IMAGES or kind.startswith("image/"):
        return body
    if kind == NPY:
        return read_npy(body, raw.dtype)
    raise RequestError(415, f"the body is `{kind[:100]}`", f"send `image/…`, `application/octet-stream` or `{NPY}`")


def read_npy(body: bytes, dtype: np.dtype[Any] | None) -> NDArray[Any]:
    """The array in a `.npy` file, which shares the memory of `body`.

    Args:
        dtype: what it must be; None: any number.

    Raises:
        DataError: it is none.
    """
    stream = io.BytesIO(body)
    try:
        shape, by_column, found = HEADERS[np.lib.format.read_magic(stream)](stream)
    except Exception as error:  # what the parser raises on damaged heads has no common base
        raise DataError("the body is no `.npy` file of version 1 or 2", "write it with `numpy.save`") from error
    if found.kind not in "buif" or (dtype is not None and found != dtype):
        raise DataError(f"the array has dtype `{found}`", f"the network takes `{dtype or 'numbers'}`")
    if min(shape, default=0) < 0 or math.prod(shape) * found.itemsize != len(body) - stream.tell():
        raise DataError("the array is not as long as its head says", "write it with `numpy.save`")
    flat = np.frombuffer(body, found, offset=stream.tell())
    return flat.reshape(shape, order="F" if by_column else "C")
