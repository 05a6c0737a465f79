"""What every pass and backend is given in a contract test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeopt import registry
from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.model import Form, Model


@pytest.fixture(scope="session")
def models(torch_model: Model, onnx_model: Model) -> dict[Form, Model]:
    """The same network in every form."""
    return {"torch": torch_model, "onnx": onnx_model}


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """128 labelled images that suit the network, read from a file like anybody's."""
    generator = np.random.default_rng(0)
    labels = np.arange(128) % 4
    images = generator.normal(labels[:, None, None, None] / 4, 1, (128, 1, 16, 16)).astype(np.float32)
    path: Path = tmp_path_factory.mktemp("samples") / "samples.npz"
    np.savez(path, image=images, labels=labels)
    return Samples("npz", path, ("image",), Preprocess(), ("a", "b", "c", "d"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`pass_name` and `backend_name` stand for every name that the registry finds."""
    for argument, kind in (("pass_name", "passes"), ("backend_name", "backends")):
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, registry.names(kind), scope="module")
