"""Images from files and from the network, decoded as they were when the network was compiled, and within limits."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeopt.data.image_folder import decode_image
from edgeopt.errors import fault_of_file

#: 150 MB once it is decoded: more than any camera of a device gives
MOST_PIXELS = 50_000_000


def read_image(
    source: bytes | str | Path, *, gray: bool = False, most_pixels: int = MOST_PIXELS, name: str = ""
) -> NDArray[np.uint8]:
    """An image, from its bytes or from a file, as (3, H, W) uint8 in RGB, or (1, H, W) in gray.

    Args:
        most_pixels: an image with more is refused before it is decoded.
        name: what to call it in a message; empty: by its path.

    Raises:
        DataError: it is damaged or cut short, no image of a known kind, too large, or has more than 8 bits per channel.
        UsageError: there is no such file.
    """
    if isinstance(source, bytes):
        return decode_image(io.BytesIO(source), name or "the image", gray=gray, most_pixels=most_pixels)
    try:
        with Path(source).open("rb") as stream:
            return decode_image(stream, name or f"`{source}`", gray=gray, most_pixels=most_pixels)
    except OSError as error:
        raise fault_of_file(error) or error from error
