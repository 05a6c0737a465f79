"""Golden samples survive the trip, and nothing pickled does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeopt.bundle.golden import Golden, load_golden, pack_golden
from edgeopt.errors import TrustError


def samples() -> tuple[Golden, ...]:
    """Raw images of different sizes, twelve of them so that sample 10 sorts before sample 2 as text."""
    numbers = np.random.default_rng(0)
    return tuple(
        Golden(
            {"image": numbers.integers(0, 255, (8 + number, 9, 3), dtype=np.uint8)},
            {"logits": numbers.normal(size=10).astype(np.float32)},
        )
        for number in range(12)
    )


def test_samples_come_back_in_order_and_exactly(tmp_path: Path) -> None:
    (tmp_path / "golden.npz").write_bytes(pack_golden(samples()))
    loaded = load_golden(tmp_path / "golden.npz")
    assert len(loaded) == 12
    for before, after in zip(samples(), loaded, strict=True):
        assert before.inputs["image"].dtype == after.inputs["image"].dtype
        np.testing.assert_array_equal(before.inputs["image"], after.inputs["image"])
        np.testing.assert_array_equal(before.outputs["logits"], after.outputs["logits"])


def test_the_same_samples_give_the_same_bytes() -> None:
    assert pack_golden(samples()) == pack_golden(samples())


def test_a_file_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "golden.npz", **{"0/input/image": np.array([{"code": 1}], dtype=object)})
    with pytest.raises(TrustError, match="holds no golden samples"):
        load_golden(tmp_path / "golden.npz")


@pytest.mark.parametrize("name", ["image", "0/inputs/image", "zero/input/image"])
def test_a_file_with_other_arrays_is_refused(name: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "golden.npz", **{name: np.zeros(3)})
    with pytest.raises(TrustError, match="holds no golden samples"):
        load_golden(tmp_path / "golden.npz")
