"""Preprocessing: the same few lines of numpy and Pillow when a model is compiled and when it runs on a device.

A raw image has its channels first, (C, H, W), whatever its format: image files are decoded so, `npz` and `python`
splits hold it so. The steps, in this order, each left out where its field is not set:

    channels → resize → crop → float32 → times scale → minus mean → divided by std → layout

Each comes as the training pipelines of torchvision have it: bilinear resizing on uint8 with anti-aliasing, the centre
crop rounded half to even. The arithmetic is float32 and elementwise, so that every machine computes the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from edgeopt.errors import DataError
from edgeopt.model import Value

CHANNELS_FIRST = "raw images are stored channels first, (C, H, W)"


def _not_zero(value: float) -> float:
    if value == 0:
        raise ValueError("should not be 0")
    return value


Pixels = Annotated[int, Field(ge=1, le=1 << 16, strict=True)]
Factor = Annotated[float, AfterValidator(_not_zero)]


class Preprocess(Value):
    """How a raw sample becomes an input of the network; the same for all inputs."""

    resize: Pixels | tuple[Pixels, Pixels] | None = Field(
        default=None, description="shorter side, or [height, width], in pixels"
    )
    crop: Pixels | tuple[Pixels, Pixels] | None = Field(default=None, description="centre crop to this size, in pixels")
    channels: Literal["rgb", "bgr", "gray"] | None = Field(
        default=None, description="channel order of the network; raw images are RGB or gray"
    )
    layout: Literal["chw", "hwc"] = Field(default="chw", description="layout that the network expects")
    scale: Factor | None = Field(default=None, description="factor on the raw values, 0.00392157 for 0…255 → 0…1")
    mean: Annotated[tuple[float, ...], Field(min_length=1)] | None = Field(
        default=None, description="subtracted per channel, or one for all, after `scale`"
    )
    std: Annotated[tuple[Factor, ...], Field(min_length=1)] | None = Field(
        default=None, description="divided by per channel, or one for all, after `mean`"
    )

    def apply(self, raw: dict[str, NDArray[Any]], name: str) -> dict[str, NDArray[Any]]:
        """Prepare one sample.

        Args:
            raw: input name → raw array without the batch axis. Images are (C, H, W); other arrays may have any shape
                as long as no step for images is set.
            name: what to call the sample in a message.

        Returns:
            Input name → C-contiguous float32 array of its own memory; (C, H, W), or (H, W, C) for layout `hwc`.

        Raises:
            DataError: the sample does not fit the steps, or holds something else than finite numbers.
        """
        return {key: self._apply(array, name) for key, array in raw.items()}

    def _apply(self, array: NDArray[Any], name: str) -> NDArray[np.float32]:
        if array.dtype.kind not in "buif":
            raise DataError(f"{name} has dtype `{array.dtype}`, not numbers", "store uint8 or float32")
        if self.channels or self.resize or self.crop or self.layout == "hwc":
            array = self._arrange(_check_image(array, name), name)
        with np.errstate(all="ignore"):  # what overflows is infinite, and named below
            result = self._normalize(np.array(array, np.float32, order="C"), name)
        if not np.isfinite(result).all():
            raise DataError(f"{name} holds NaN or infinity once it is prepared", "mend the sample, or take it out")
        return np.ascontiguousarray(result.transpose(1, 2, 0)) if self.layout == "hwc" else result

    def _arrange(self, image: NDArray[Any], name: str) -> NDArray[Any]:
        if self.channels is not None:
            image = _convert(image, self.channels, name)
        if self.resize is not None:
            image = _resize(image, _target_size(image.shape[1:], self.resize), name)
        return image if self.crop is None else _crop(image, _pair(self.crop), name)

    def _normalize(self, array: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        """(array * scale - mean) / std, in place."""
        if self.scale is not None:
            array *= np.float32(self.scale)
        if self.mean is not None:
            array -= _per_channel(self.mean, array, "mean", name)
        if self.std is not None:
            array /= _per_channel(self.std, array, "std", name)
        return array


def _check_image(array: NDArray[Any], name: str) -> NDArray[Any]:
    if array.ndim != 3 or array.shape[0] not in (1, 3):
        raise DataError(f"{name} has shape {array.shape}, not 1 or 3 channels of an image", CHANNELS_FIRST)
    return array


def _convert(image: NDArray[Any], channels: str, name: str) -> NDArray[Any]:
    if image.shape[0] == 1:
        return image if channels == "gray" else np.repeat(image, 3, axis=0)
    if channels == "gray":
        return _channels_first(np.asarray(_to_pillow(image, "channels: gray", name).convert("L")))
    return image[::-1] if channels == "bgr" else image


def _target_size(size: Sequence[int], wanted: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) with the shorter side as wanted and the aspect kept, or exactly as wanted."""
    if isinstance(wanted, tuple):
        return wanted
    height, width = size
    if height <= width:
        return wanted, int(wanted * width / height)
    return int(wanted * height / width), wanted


def _resize(image: NDArray[Any], size: tuple[int, int], name: str) -> NDArray[Any]:
    from PIL import Image

    if image.shape[1:] == size:
        return image
    height, width = size
    resized = _to_pillow(image, "resize", name).resize((width, height), Image.Resampling.BILINEAR)
    return _channels_first(np.asarray(resized))


def _crop(image: NDArray[Any], size: tuple[int, int], name: str) -> NDArray[Any]:
    (height, width), (crop_height, crop_width) = image.shape[1:], size
    if height < crop_height or width < crop_width:
        message = f"{name} is {height}x{width} pixels, smaller than the crop of {crop_height}x{crop_width}"
        raise DataError(message, "set `resize:` to at least the size of `crop:`")
    top, left = round((height - crop_height) / 2), round((width - crop_width) / 2)
    return image[:, top : top + crop_height, left : left + crop_width]


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


def _to_pillow(image: NDArray[Any], step: str, name: str) -> Any:
    from PIL import Image

    if image.dtype != np.uint8:
        raise DataError(f"{name} has dtype `{image.dtype}`: `{step}` takes uint8 images", f"leave `{step}` out")
    return Image.fromarray(np.ascontiguousarray(image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)))


def _channels_first(image: NDArray[Any]) -> NDArray[Any]:
    return image[None] if image.ndim == 2 else image.transpose(2, 0, 1)


def _per_channel(values: Sequence[float], array: NDArray[Any], field: str, name: str) -> NDArray[np.float32]:
    """`values` in a shape that spreads over `array`, whose channels come first."""
    if len(values) == 1:
        return np.full((), values[0], np.float32)
    if array.ndim == 0 or array.shape[0] != len(values):
        raise DataError(f"{name} has shape {array.shape}, `{field}` has {len(values)} channels", CHANNELS_FIRST)
    return np.asarray(values, np.float32).reshape(-1, *(1,) * (array.ndim - 1))
