from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeopt.data.preprocess import Preprocess
from edgeopt.errors import DataError
from edgeopt.validation.preprocess_edits import COMMON, SCALE, Edit, Rearranged, make_edits

IMAGENET = Preprocess(scale=SCALE, mean=COMMON[0][0], std=COMMON[0][1])
GIVEN = [
    Preprocess(),
    IMAGENET,
    Preprocess(channels="bgr", mean=(103.939, 116.779, 123.68)),
    Preprocess(resize=256, crop=224, scale=1 / 127.5, mean=(1.0,)),
    Preprocess(resize=(32, 48), scale=SCALE, mean=(127.5,), std=(63.75,)),
]


def repairs(given: Preprocess) -> list[str]:
    return [edit.repair for edit in make_edits(given)]


def changed(given: Preprocess, edit: Edit) -> int:
    return sum(getattr(given, field) != getattr(edit.preprocess, field) for field in Preprocess.model_fields)


@pytest.mark.parametrize("given", GIVEN)
def test_edits_are_sound_distinct_and_the_simplest_come_first(given: Preprocess) -> None:
    edits = [edit for edit in make_edits(given) if not isinstance(edit.preprocess, Rearranged)]
    for edit in edits:
        assert Preprocess.model_validate_json(edit.preprocess.model_dump_json()) == edit.preprocess
        assert edit.preprocess != given
    assert len({edit.preprocess for edit in edits}) == len(edits)
    counts = [changed(given, edit) for edit in edits]
    assert counts == sorted(counts)


@pytest.mark.parametrize("given", GIVEN)
def test_what_an_edit_says_is_what_it_does(given: Preprocess) -> None:
    for edit in make_edits(given):
        if isinstance(edit.preprocess, Rearranged):
            continue
        for field in Preprocess.model_fields:
            was, now = getattr(given, field), getattr(edit.preprocess, field)
            assert (f"`{field}" in edit.repair) == (was != now)
            assert (f"`{field}`" in edit.repair) == (was != now and now is None)


def test_an_edit_is_told_as_lines_of_the_recipe() -> None:
    assert "with `scale: 0.00392157`, `mean: [0.5]` and `std: [0.5]`" in repairs(Preprocess())
    assert "without `mean` and `std`" in repairs(IMAGENET)
    assert "with `resize: [224, 224]` and without `crop`" in repairs(Preprocess(resize=256, crop=224))
    assert "with `resize: 256` and `crop: 224`" in repairs(Preprocess(resize=224))


def test_mean_and_std_of_0_to_255_after_a_scale_are_brought_into_its_unit() -> None:
    given = Preprocess(scale=SCALE, mean=(123.675, 116.28, 103.53), std=(0.229, 0.224, 0.225))
    found = next(edit for edit in make_edits(given) if "`scale` comes before" in edit.advice)
    assert found.preprocess.mean == pytest.approx(COMMON[0][0], rel=1e-5)
    assert found.preprocess.std == COMMON[0][1]


@pytest.mark.parametrize(("given", "white"), [(IMAGENET, 255), (Preprocess(), 255), (Preprocess(), 1)])
def test_an_inversion_is_what_the_inverted_image_gives(given: Preprocess, white: float) -> None:
    image = np.random.default_rng(0).random((3, 4, 4), np.float32) * np.float32(white)
    wanted = given.apply({"image": white - image}, "an image")["image"]
    inverted = [edit.preprocess for edit in make_edits(given) if edit.name == "inverted"]
    assert any(np.allclose(one.apply({"image": image}, "an image")["image"], wanted, atol=1e-3) for one in inverted)


def rearranged(stored: Any, image: np.ndarray) -> np.ndarray:
    return Rearranged(stored=stored).apply({"image": image}, "an image")["image"]


def test_axes_that_were_mixed_up_are_brought_back() -> None:
    image = np.arange(3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5)
    assert (rearranged("transposed", image.transpose(0, 2, 1)) == image).all()
    assert (rearranged("reshaped to", image.transpose(1, 2, 0).reshape(3, 4, 5)) == image).all()
    assert (rearranged("reshaped from", image.reshape(4, 5, 3).transpose(2, 0, 1)) == image).all()


@pytest.mark.parametrize("shape", [(1, 4, 4), (4, 4), (7,)])
def test_what_has_no_channels_to_mix_up_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="cannot be mixed up"):
        rearranged("reshaped to", np.zeros(shape, np.float32))
