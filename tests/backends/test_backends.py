"""What the interface itself does for every backend: fitting inputs, and errors that say who failed."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.backends import Session, backend_errors, build_artifact, check_inputs, null, run_each, zeros
from edgeopt.context import Context
from edgeopt.errors import BackendError, DiskError, MissingError, UsageError
from edgeopt.model import Model, TensorSpec

IMAGE = TensorSpec(name="image", shape=("batch", 3, "side", "side"))
SCALE = TensorSpec(name="scale", shape=("batch",))


@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4))
def test_one_symbol_means_one_size(batch: int, height: int, width: int) -> None:
    inputs = {"image": np.zeros((batch, 3, height, width), np.float32), "scale": np.zeros(batch, np.float32)}
    if height == width:
        assert check_inputs((IMAGE, SCALE), inputs) == {"batch": batch, "side": height}
    else:
        with pytest.raises(BackendError, match=r"expected `image` as float32 \[batch, 3, side, side\]"):
            check_inputs((IMAGE, SCALE), inputs)


def test_a_symbol_holds_across_inputs() -> None:
    inputs = {"image": np.zeros((2, 3, 4, 4), np.float32), "scale": np.zeros(3, np.float32)}
    with pytest.raises(BackendError, match=r"expected `scale` as float32 \[batch\], got float32 \[3\]"):
        check_inputs((IMAGE, SCALE), inputs)


def test_an_unknown_backend_comes_with_the_closest_one(onnx_model: Model, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        build_artifact("onnxruntime_gpu", onnx_model, Context(folder=tmp_path))
    assert "onnxruntime_cpu" in caught.value.hint


def test_whatever_a_backend_raises_becomes_its_error(
    onnx_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_arguments: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(null.Null, "build", explode)
    with pytest.raises(BackendError, match="`null` could not build: ZeroDivisionError: of all things"):
        build_artifact("null", onnx_model, Context(folder=tmp_path))


def test_whatever_a_session_raises_becomes_its_backends_error(
    onnx_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_arguments: object) -> None:
        raise ZeroDivisionError("of all things")

    artifact = build_artifact("null", onnx_model, Context(folder=tmp_path))
    for place, method, doing in ((null.Null, "open", "open its artifact"), (Session, "close", "close its session")):
        with monkeypatch.context() as patch:
            patch.setattr(place, method, explode)
            with pytest.raises(BackendError, match=f"`null` could not {doing}: ZeroDivisionError: of all things"):
                run_each(artifact, [zeros(artifact, 1)], 1)
    monkeypatch.setattr(null.NullSession, "run", explode)
    with pytest.raises(BackendError, match="`null` could not run: ZeroDivisionError: of all things"):
        run_each(artifact, [zeros(artifact, 1)], 1)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ModuleNotFoundError("No module named 'openvino'", name="openvino"), MissingError),
        (OSError(errno.ENOSPC, "No space left on device"), DiskError),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "kernel.bin"), BackendError),
        (DiskError("no space left on the disk for `x`"), DiskError),
        (MemoryError(), MemoryError),
    ],
)
def test_what_is_not_a_backends_fault_is_not_named_as_one(error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught, backend_errors("null", "run"):
        raise error
    assert type(caught.value) is kind
