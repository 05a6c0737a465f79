"""How sessions open: nothing that was asked for is left out in silence."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from edgeopt import onnx_sessions
from edgeopt.backends.onnxruntime_cpu import OnnxruntimeCpu
from edgeopt.errors import BackendError, MissingError
from edgeopt.model import Artifact, Model, TensorSpec
from edgeopt.onnx_sessions import Opening, open_session


def needs_no_cuda() -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime was built with CUDA")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_the_wheel_lacks_is_named_and_not_replaced_by_the_cpu(onnx_model: Model) -> None:
    needs_no_cuda()
    path, asked = str(onnx_model.path), ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert onnxruntime.InferenceSession(path, providers=asked).get_providers() == ["CPUExecutionProvider"]
    with pytest.raises(MissingError, match="this ONNX Runtime has no provider `cuda`") as caught:
        open_session(path, Opening(providers={"cuda": {}, "cpu": {}}))
    assert "it has cpu" in caught.value.hint


def test_a_provider_that_was_left_out_when_the_session_opened_is_named(
    onnx_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where CUDA's libraries are missing: the wheel has the provider, and the session has not."""
    needs_no_cuda()
    monkeypatch.setattr(onnx_sessions, "known_providers", lambda: ["cuda", "cpu"])
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"), pytest.raises(BackendError, match="left out `cuda`"):
        open_session(str(onnx_model.path), Opening(providers={"cuda": {}, "cpu": {}}))


def test_without_the_cpu_among_the_providers_nothing_may_run_there(
    onnx_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_no_cuda()
    monkeypatch.setattr(onnx_sessions, "known_providers", lambda: ["cuda"])
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"), pytest.raises(BackendError, match="fallback to CPU"):
        open_session(str(onnx_model.path), Opening(providers={"cuda": {}}))


def test_the_providers_of_a_recipe_are_onnx_runtimes() -> None:
    known = set(onnxruntime.get_all_providers())
    # built by their makers only, so that a wheel of another kind does not list them
    assert set(onnx_sessions.PROVIDERS.values()) - known <= {"ACLExecutionProvider"}


def test_a_symbol_that_is_fixed_takes_one_size(onnx_model: Model) -> None:
    session = open_session(str(onnx_model.path), Opening(dimensions={"batch": 2}))
    assert session.run(None, {"image": np.zeros((2, 1, 16, 16), np.float32)})[0].shape == (2, 4)
    assert session.get_inputs()[0].shape == [2, 1, 16, 16]
    with pytest.raises(Exception, match="invalid dimensions"):
        session.run(None, {"image": np.zeros((3, 1, 16, 16), np.float32)})


def test_axes_are_fixed_where_their_size_is_known() -> None:
    specs = (TensorSpec(name="x", shape=("batch", 3)), TensorSpec(name="y", shape=("found", 4)))
    sizes = onnx_sessions.batch_symbols(specs[:1], 7)
    assert [spec.shape for spec in onnx_sessions.fix_axes(specs, sizes)] == [(7, 3), ("found", 4)]


def test_an_artifact_that_was_built_before_an_option_existed_opens_by_its_default() -> None:
    artifact = Artifact(target="", backend="onnxruntime_cpu", files=(), inputs=(), outputs=(), settings={"threads": 1})
    assert onnx_sessions.recorded(OnnxruntimeCpu, artifact) == OnnxruntimeCpu()
    changed = artifact.model_copy(update={"settings": {"threads": 1, "graph": "basic", "arena": False}})
    assert onnx_sessions.recorded(OnnxruntimeCpu, changed) == OnnxruntimeCpu(graph="basic", arena=False)
