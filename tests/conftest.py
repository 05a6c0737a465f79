"""What all tests share: golden files, and how Hypothesis searches."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from edgeopt.context import Context
from edgeopt.model import Model, TensorSpec, TorchValue

GOLDENS = Path(__file__).parent / "goldens"
NETWORKS = Path(__file__).parent / "networks"

# A shell starts what runs in its background with Ctrl-C ignored, and so would be every program that a test sends it to.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The machines that run this are shared: time per example says nothing of the code.
settings.register_profile("edgeopt", deadline=None, print_blob=True)
settings.load_profile("edgeopt")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-goldens", action="store_true", help="rewrite the files in tests/goldens")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with `tests/goldens/<name>`, or rewrites that file under `--update-goldens`."""

    def compare(name: str, text: str) -> None:
        path = GOLDENS / name
        if request.config.getoption("--update-goldens"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf8")
        assert path.is_file(), f"no golden `{name}` yet: run pytest with --update-goldens and look at it"
        assert text == path.read_text(encoding="utf8"), f"`{name}` differs: look, then run with --update-goldens"

    return compare


@pytest.fixture(scope="session")
def torch_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """`tests/networks/residual.py` as a source leaves it: images (batch, 1, 16, 16) to logits (batch, 4)."""
    pytest.importorskip("torch").set_num_threads(1)
    from edgeopt.network import call_factory, write_network

    value = TorchValue(factory="residual.py:make_residual", options={"width": 16})
    image = TensorSpec(name="image", shape=("batch", 1, 16, 16))
    logits = TensorSpec(name="output", shape=("batch", 4))
    described = Model(value=value, inputs=(image,), outputs=(logits,), sources=NETWORKS)
    network = call_factory(NETWORKS, value.factory, value.options)
    return write_network(network, described, tmp_path_factory.mktemp("torch_model"))


@pytest.fixture(scope="session")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """Makes the model of a function in `tests/networks/architectures.py`: images (batch, 3, 16, 16), five classes.

    `families.py:make_vgg` names one of another file there.
    """
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    from edgeopt.network import call_factory, write_network

    def make(function: str) -> Model:
        file, _, function = function.rpartition(":")
        value = TorchValue(factory=f"{file or 'architectures.py'}:{function}")
        names = ("left", "right") if function == "make_two_inputs" else ("image",)
        inputs = tuple(TensorSpec(name=name, shape=("batch", 3, 16, 16)) for name in names)
        shape = (5, 16, 16) if function == "make_unet" else (5,)
        outputs = (TensorSpec(name="output", shape=("batch", *shape)),)
        described = Model(value=value, inputs=inputs, outputs=outputs, sources=NETWORKS)
        torch.manual_seed(0)  # what is pruned hangs on the weights
        network = call_factory(NETWORKS, value.factory, value.options)
        return write_network(network, described, tmp_path_factory.mktemp(function))

    return make


@pytest.fixture(scope="session")
def onnx_model(torch_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The same network as an ONNX graph."""
    from edgeopt.passes.export_onnx import ExportOnnx

    return ExportOnnx()(torch_model, Context(folder=tmp_path_factory.mktemp("onnx_model"))).model
