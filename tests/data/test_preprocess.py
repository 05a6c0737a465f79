"""Preprocessing: each step against numpy or Pillow written out, and faults that name the sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from edgeopt.data.preprocess import Preprocess
from edgeopt.errors import DataError


def apply(array: NDArray[Any], **fields: Any) -> NDArray[Any]:
    return Preprocess(**fields).apply({"image": array}, "sample 7")["image"]


def image(channels: int = 3, height: int = 5, width: int = 8) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (channels, height, width), np.uint8)


def test_nothing_set_gives_the_same_numbers_as_float32_of_its_own_memory() -> None:
    raw = image()
    result = apply(raw)
    assert result.dtype == np.float32
    assert np.array_equal(result, raw)
    assert not np.shares_memory(result, raw)


def test_arithmetic_is_scale_then_mean_then_std_per_channel() -> None:
    raw = image()
    result = apply(raw, scale=0.5, mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 8.0))
    for channel in range(3):
        expected = (raw[channel].astype(np.float32) * np.float32(0.5) - (channel + 1)) / 2 ** (channel + 1)
        assert np.array_equal(result[channel], expected)


def test_one_mean_and_std_serve_all_channels_and_any_shape() -> None:
    assert np.array_equal(apply(image(), mean=(1.0,), std=(2.0,)), (image().astype(np.float32) - 1) / 2)
    assert np.array_equal(apply(np.arange(4.0), mean=(1.0,)), [-1, 0, 1, 2])


def test_layout_hwc_puts_the_channels_last_after_the_arithmetic() -> None:
    raw = image()
    result = apply(raw, mean=(1.0, 2.0, 3.0), layout="hwc")
    assert result.shape == (5, 8, 3)
    assert result.flags.c_contiguous
    assert np.array_equal(result[..., 2], raw[2].astype(np.float32) - 3)


@pytest.mark.parametrize(("resize", "size"), [(10, (10, 16)), ((7, 3), (7, 3)), (5, (5, 8))])
def test_resize_is_that_of_pillow_on_the_shorter_side_or_exactly(resize: Any, size: tuple[int, int]) -> None:
    raw = image()
    pillow = Image.fromarray(raw.transpose(1, 2, 0)).resize(size[::-1], Image.Resampling.BILINEAR)
    assert np.array_equal(apply(raw, resize=resize), np.asarray(pillow).transpose(2, 0, 1))


def test_resize_keeps_the_aspect_of_an_upright_image() -> None:
    assert apply(image(1, 9, 4), resize=8).shape == (1, 18, 8)


def test_crop_takes_the_centre_after_resizing() -> None:
    assert np.array_equal(apply(image(), crop=(3, 4)), image()[:, 1:4, 2:6])
    assert np.array_equal(apply(image(), resize=10, crop=6), apply(image(), resize=10)[:, 2:8, 5:11])


def test_an_odd_rest_is_rounded_half_to_even_as_in_torchvision() -> None:
    assert np.array_equal(apply(image(), crop=(2, 5)), image()[:, 2:4, 2:7])
    assert np.array_equal(apply(image(), crop=(4, 7)), image()[:, 0:4, 0:7])


def test_crop_works_on_float_images_too() -> None:
    raw = image().astype(np.float64) / 255
    assert np.array_equal(apply(raw, crop=3), raw[:, 1:4, 2:5].astype(np.float32))


def test_channels_are_reversed_repeated_or_weighed() -> None:
    raw = image()
    assert np.array_equal(apply(raw, channels="bgr"), raw[::-1])
    assert np.array_equal(apply(raw, channels="rgb"), raw)
    assert np.array_equal(apply(raw[:1], channels="rgb"), np.repeat(raw[:1], 3, axis=0))
    assert np.array_equal(apply(raw[:1], channels="gray"), raw[:1])
    luma = raw[0] * 0.299 + raw[1] * 0.587 + raw[2] * 0.114
    assert np.abs(apply(raw, channels="gray")[0] - luma).max() <= 0.51


def test_a_gray_image_read_as_rgb_is_the_same_gray_again() -> None:
    raw = np.repeat(np.arange(256, dtype=np.uint8).reshape(1, 16, 16), 3, axis=0)
    assert np.array_equal(apply(raw, channels="gray"), raw[:1])


@settings(max_examples=50)
@given(
    raw=hnp.arrays(np.uint8, st.tuples(st.sampled_from([1, 3]), st.integers(1, 12), st.integers(1, 12))),
    side=st.integers(1, 12),
    layout=st.sampled_from(["chw", "hwc"]),
)
def test_any_image_comes_out_contiguous_in_the_size_asked_for(raw: NDArray[np.uint8], side: int, layout: str) -> None:
    result = apply(raw, resize=(side, side + 1), scale=1 / 255, layout=layout)
    channels = raw.shape[0]
    assert result.shape == ((channels, side, side + 1) if layout == "chw" else (side, side + 1, channels))
    assert result.flags.c_contiguous
    assert result.dtype == np.float32
    assert 0 <= result.min() <= result.max() <= 1


@pytest.mark.parametrize(
    ("array", "fields", "says"),
    [
        (image(), {"mean": (1.0, 2.0)}, "`mean` has 2 channels"),
        (image(), {"std": (1.0, 2.0, 3.0, 4.0)}, "`std` has 4 channels"),
        (image(), {"crop": 6}, "5x8 pixels, smaller than the crop of 6x6"),
        (image().astype(np.float32), {"resize": 4}, "`resize` takes uint8"),
        (image().astype(np.float32), {"channels": "gray"}, "`channels: gray` takes uint8"),
        (image().transpose(1, 2, 0), {"resize": 4}, "not 1 or 3 channels"),
        (np.zeros(4), {"layout": "hwc"}, "not 1 or 3 channels"),
        (np.array(["a"]), {}, "dtype `<U1`"),
        (np.array([1.0, np.nan]), {}, "NaN or infinity"),
        (np.array([1e300]), {}, "NaN or infinity"),
        (np.array([1.0]), {"scale": 1e300}, "NaN or infinity"),
    ],
)
def test_a_sample_that_does_not_fit_is_named(array: NDArray[Any], fields: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError) as caught:
        apply(array, **fields)
    assert caught.value.message.startswith("sample 7 ")
    assert says in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "fields",
    [
        {"resize": 0},
        {"resize": True},
        {"resize": (4, -1)},
        {"crop": 1 << 20},
        {"scale": 0.0},
        {"std": (1.0, 0.0)},
        {"mean": ()},
        {"mean": (float("nan"),)},
        {"channels": "rbg"},
        {"sacle": 1.0},
    ],
)
def test_fields_that_cannot_be_meant_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Preprocess(**fields)


def test_it_survives_json_as_it_is_written_into_a_bundle() -> None:
    preprocess = Preprocess(resize=(4, 5), crop=3, channels="bgr", scale=1 / 255, mean=(0.5,), std=(0.25,))
    assert Preprocess.model_validate_json(preprocess.model_dump_json(), strict=True) == preprocess
