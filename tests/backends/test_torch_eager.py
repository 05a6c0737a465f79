"""What only torch promises: an artifact that holds its own code, and evaluation without gradients."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeopt.backends import build_artifact, opened, zeros
from edgeopt.backends.torch_eager import TorchEager
from edgeopt.context import Context
from edgeopt.errors import BackendError, MissingError
from edgeopt.model import Artifact, Model, TensorSpec, TorchValue
from edgeopt.network import call_factory, write_network

NETWORK = """
import torch
from torch import nn
from layers.scaling import Scaling

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scaling = Scaling()
        self.runs = torch.nn.Buffer(torch.zeros(1))

    def forward(self, x):
        return {"same": x, "kept": self.runs, "scaled": self.scaling(x)[:, :2] @ torch.eye(2)}

def make_net(**options):
    return Net(**options)
"""
SCALING = """
from torch import nn

class Scaling(nn.Module):
    def forward(self, x):
        assert not self.training
        return 2 * x
"""


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """A network whose code lies in two files of a folder beside the recipe."""
    sources = tmp_path / "recipes"
    (sources / "mine" / "layers").mkdir(parents=True)
    (sources / "mine" / "network.py").write_text(NETWORK)
    (sources / "mine" / "layers" / "scaling.py").write_text(SCALING)
    (sources / "mine" / "unrelated.py").write_text("secret = 1")
    outputs = [("same", ("batch", 3)), ("kept", (1,)), ("scaled", ("batch", 2))]
    described = Model(
        value=TorchValue(factory="mine/network.py:make_net"),
        inputs=(TensorSpec(name="x", shape=("batch", 3)),),
        outputs=tuple(TensorSpec(name=name, shape=shape) for name, shape in outputs),
        sources=sources,
    )
    return write_network(call_factory(sources, "mine/network.py:make_net", {}), described, tmp_path / "given")


def build(model: Model, folder: Path, threads: int = 1) -> Artifact:
    return TorchEager().build(model, Context(folder=folder, target="here", threads=threads), folder)


def test_an_artifact_holds_the_code_that_it_needs_and_no_other(model: Model, tmp_path: Path) -> None:
    artifact = build(model, tmp_path / "built")
    names = [file.path for file in artifact.files]
    assert names == ["code/layers/scaling.py", "code/network.py", "model.json", "weights.safetensors"]


def test_an_artifact_opens_where_the_sources_are_gone(model: Model, tmp_path: Path) -> None:
    artifact = build(model, tmp_path / "built")
    shutil.rmtree(model.sources)
    shutil.rmtree(model.folder)
    with TorchEager().open(artifact) as session:
        found = session.run({"x": np.float32([[1, 2, 3]])})
    np.testing.assert_array_equal(found["scaled"], [[2, 4]])


def test_what_a_network_passes_through_or_keeps_is_copied(model: Model, tmp_path: Path) -> None:
    given = {"x": np.float32([[1, 2, 3]])}
    with TorchEager().open(build(model, tmp_path / "built")) as session:
        found = session.run(given)
        found["same"] += 1
        found["kept"] += 1
        np.testing.assert_array_equal(given["x"], [[1, 2, 3]])
        np.testing.assert_array_equal(session.run(given)["kept"], [0])


def test_a_network_that_fails_is_a_backend_error(model: Model, tmp_path: Path) -> None:
    narrow = model.model_copy(update={"inputs": (TensorSpec(name="x", shape=("batch", 1)),)})
    artifact = build(narrow, tmp_path / "built")
    with TorchEager().open(artifact) as session, pytest.raises(BackendError, match=r"the network failed: .* shapes"):
        session.run(zeros(artifact, 1))


def test_it_runs_with_as_many_threads_as_it_was_built_for(torch_model: Model, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        with TorchEager().open(build(torch_model, tmp_path, threads=2)):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_closed_session_says_so(model: Model, tmp_path: Path) -> None:
    artifact = build(model, tmp_path / "built")
    session = TorchEager().open(artifact)
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.run(zeros(artifact, 1))


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingError) as caught:
        TorchEager().available()
    assert "edgeopt[compile]" in caught.value.hint


@pytest.mark.gpu
def test_on_a_gpu_it_gives_what_it_gives_on_the_cpu(torch_model: Model, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch is built without CUDA here, or there is no GPU")
    images = {"image": np.random.default_rng(0).standard_normal((2, 1, 16, 16)).astype(np.float32)}
    found = []
    for device in ("cpu", "cuda"):
        context = Context(folder=tmp_path / device, target="here", batch=2)
        with opened(build_artifact("torch_eager", torch_model, context, {"device": device})) as session:
            found.append(session.run(images)["output"])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-2, atol=1e-3)


def test_without_cuda_the_build_of_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(MissingError, match=r"torch .* (is built without CUDA|finds no NVIDIA GPU)"):
        TorchEager(device="cuda").available()
