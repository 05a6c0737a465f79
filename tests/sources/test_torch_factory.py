"""TorchFactory: a network of the user's, loaded whole or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from edgeopt.errors import EdgeoptError, SourceError, TrustError
from edgeopt.model import TensorSpec, load_model
from edgeopt.network import call_factory, make_network
from edgeopt.sources import SourceRequest, load_source
from edgeopt.sources.torch_factory import find_prefix

FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=4, returns="tensor"):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8 * 4 * 4, classes)
        self.returns = returns

    def forward(self, image):
        features = self.norm(self.conv(image))
        logits = self.linear(features.flatten(1))
        return {"tensor": logits, "tuple": (logits, features), "dict": {"logits": logits},
                "no batch": logits.sum(), "summed": logits.sum(0), "text": "logits"}[self.returns]

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
    def forward(self, left, right):
        return self.linear(left) + right.float().mean((1, 2, 3))[:, None]
"""

IMAGE = TensorSpec(name="image", shape=(1, 8, 8))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def make_request(folder: Path, attribute: str = "Net", **fields: Any) -> SourceRequest:
    (folder / "own.py").write_text(FACTORY)
    torch.manual_seed(0)
    options = fields.get("options", {})
    network = call_factory(folder, f"own.py:{attribute}", options)
    safetensors.torch.save_file(network.state_dict(), folder / "net.safetensors")
    known: dict[str, Any] = {
        "factory": f"own.py:{attribute}",
        "weights": folder / "net.safetensors",
        "inputs": (IMAGE,),
    }
    return SourceRequest(root=folder, **(known | fields))


def fault(request: SourceRequest, kind: type[EdgeoptError] = SourceError) -> EdgeoptError:
    with pytest.raises(kind) as caught:
        load_source("torch_factory", request, request.root / "out")
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert not (request.root / "out").exists()
    return caught.value


def test_a_network_is_loaded_with_its_specs_and_facts(tmp_path: Path) -> None:
    request = make_request(tmp_path, options={"classes": 3})
    model, facts = load_source("torch_factory", request, tmp_path / "out")
    assert [spec.shape for spec in model.inputs] == [("batch", 1, 8, 8)]
    assert model.outputs == (TensorSpec(name="output", shape=("batch", 3)),)
    assert facts == {
        "parameters": 80 + 16 + 387,
        "macs": 16 * 8 * 9 + 128 * 3,
        "summary": "0.0 MMACs, 0.00 M parameters",
    }
    assert load_model(tmp_path / "out", tmp_path) == model
    original = call_factory(tmp_path, "own.py:Net", {"classes": 3}).eval()
    original.load_state_dict(safetensors.torch.load_file(tmp_path / "net.safetensors"))
    again = make_network(model)
    assert torch.equal(again(torch.ones(2, 1, 8, 8)), original(torch.ones(2, 1, 8, 8)))


@pytest.mark.parametrize(
    ("returns", "names"), [("tensor", ["output"]), ("tuple", ["output_0", "output_1"]), ("dict", ["logits"])]
)
def test_outputs_are_named(tmp_path: Path, returns: str, names: list[str]) -> None:
    model, _ = load_source("torch_factory", make_request(tmp_path, options={"returns": returns}), tmp_path / "out")
    assert [spec.name for spec in model.outputs] == names
    assert all(spec.shape[0] == "batch" for spec in model.outputs)


def test_inputs_are_fed_in_the_order_of_the_recipe_with_their_dtypes(tmp_path: Path) -> None:
    inputs = (TensorSpec(name="a", shape=(3,)), TensorSpec(name="b", dtype="uint8", shape=(1, 8, 8)))
    model, _ = load_source("torch_factory", make_request(tmp_path, "Two", inputs=inputs), tmp_path / "out")
    assert [(spec.name, spec.dtype) for spec in model.inputs] == [("a", "float32"), ("b", "uint8")]


@pytest.mark.parametrize("returns", ["no batch", "summed", "text"])
def test_outputs_without_a_batch_or_that_are_no_tensors_are_refused(tmp_path: Path, returns: str) -> None:
    fault(make_request(tmp_path, options={"returns": returns}))


def test_inputs_of_a_wrong_shape_are_refused_with_the_users_line(tmp_path: Path) -> None:
    error = fault(make_request(tmp_path, inputs=(TensorSpec(name="image", shape=(1, 9, 9)),)))
    assert "image [1, 9, 9]" in error.message
    assert "(own.py, line 15)" in error.message


def test_what_is_missing_is_asked_for(tmp_path: Path) -> None:
    for fields in ({"inputs": ()}, {"weights": None}, {"factory": None}):
        assert "needs `factory:`, `weights:` and `inputs:`" in fault(make_request(tmp_path, **fields)).message


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    request = make_request(tmp_path).model_copy(update={"options": {"classes": 5}})
    assert "`linear.weight` is float32 (4, 128), not float32 (5, 128)" in fault(request).message


def test_a_wrong_option_is_told_as_the_factory_puts_it(tmp_path: Path) -> None:
    request = make_request(tmp_path).model_copy(update={"options": {"clases": 5}})
    assert "unexpected keyword argument 'clases'" in fault(request).message


def test_code_in_the_weights_is_refused_before_the_factory_runs(tmp_path: Path) -> None:
    request = make_request(tmp_path, weights=tmp_path / "whole.pth")
    (tmp_path / "own.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n")
    torch.save({"a": Path("x")}, tmp_path / "whole.pth")
    fault(request, TrustError)
    assert not (tmp_path / "ran").exists()


def test_loading_twice_gives_the_same_digest(tmp_path: Path) -> None:
    request = make_request(tmp_path)
    digests = {load_source("torch_factory", request, tmp_path / name)[0].digest() for name in ("one", "two")}
    assert len(digests) == 1


@pytest.mark.parametrize("prefix", ["", "module.", "net.module."])
def test_the_prefix_of_a_checkpoint_is_found_by_the_names_of_the_network(tmp_path: Path, prefix: str) -> None:
    request = make_request(tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "net.safetensors")
    torch.save({f"{prefix}{name}": tensor for name, tensor in tensors.items()}, tmp_path / "net.pt")
    assert find_prefix(request.model_copy(update={"weights": tmp_path / "net.pt"})) == prefix
