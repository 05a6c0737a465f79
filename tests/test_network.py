"""Networks from their factories and tensors: strict loading, named outputs, counted work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgeopt.checkpoint import read_tensors
from edgeopt.errors import SourceError
from edgeopt.model import Model, TensorSpec, TorchValue, load_model
from edgeopt.network import call_factory, count_macs, load_network, load_tensors, name_outputs, write_network

CIFAR10 = Path(os.environ.get("EDGEOPT_CIFAR10", Path(__file__).parents[2] / "shared" / "data" / "cifar10"))

FACTORY = """
from torch import nn
class Tied(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.second.weight = self.first.weight
    def forward(self, x):
        return self.second(self.first(x))
def number():
    return 3
"""


def make_small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())


def fault(tensors: dict[str, torch.Tensor]) -> SourceError:
    with pytest.raises(SourceError) as caught:
        load_tensors(make_small(), tensors, "weights.pth")
    return caught.value


def test_tensors_that_fit_are_loaded() -> None:
    source, network = make_small(), make_small()
    load_tensors(network, source.state_dict(), "weights.pth")
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in source.state_dict().items())


def test_half_precision_is_widened() -> None:
    network = make_small()
    load_tensors(network, make_small().half().state_dict(), "weights.pth")
    assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}


def test_only_the_batch_count_may_be_missing() -> None:
    tensors = make_small().state_dict()
    del tensors["1.num_batches_tracked"]
    load_tensors(make_small(), tensors, "weights.pth")
    del tensors["1.running_mean"]
    assert "missing: `1.running_mean`" in fault(tensors).message


def test_all_kinds_of_misfits_are_named_together() -> None:
    tensors = make_small().state_dict()
    tensors["0.weight"] = torch.ones(8, 3, 1, 1)
    tensors["0.bias"] = torch.ones(8, dtype=torch.int8)
    tensors["2.weight"] = tensors.pop("1.weight")
    assert fault(tensors).message == (
        "the tensors of `weights.pth` do not fit the network: missing: `1.weight`; left over: `2.weight`; misshapen: "
        "`0.weight` is float32 (8, 3, 1, 1), not float32 (8, 3, 3, 3), `0.bias` is int8 (8,), not float32 (8,)"
    )


def test_many_misfits_are_counted() -> None:
    tensors = {f"n{number}": torch.ones(1) for number in range(20)}
    assert "left over: `n0`, `n1`, `n2`, `n3`, `n4` and 15 more" in fault(tensors).message


def test_a_prefix_that_would_help_is_suggested() -> None:
    tensors = {f"net.module.{name}": tensor for name, tensor in make_small().state_dict().items()}
    del tensors["net.module.1.num_batches_tracked"]
    assert fault(tensors).hint == "try `strip_prefix: net.module.`"
    assert "strip_prefix" not in fault({"net.0.weight": torch.ones(1)}).hint


def test_lazy_layers_take_the_shape_of_what_is_loaded() -> None:
    network = nn.Sequential(nn.LazyLinear(2))
    load_tensors(network, nn.Sequential(nn.Linear(5, 2)).state_dict(), "weights.pth")
    assert network(torch.ones(1, 5)).shape == (1, 2)


def test_outputs_are_named_by_what_the_network_returns() -> None:
    one, two = torch.ones(1), torch.ones(2)
    assert list(name_outputs(one)) == ["output"]
    assert list(name_outputs((one, two))) == ["output_0", "output_1"]
    assert name_outputs({"boxes": one, "scores": two}) == {"boxes": one, "scores": two}


@pytest.mark.parametrize("result", [None, 3, [], {}, (torch.ones(1), 3), {3: torch.ones(1)}, [[torch.ones(1)]]])
def test_other_results_are_refused(result: Any) -> None:
    with pytest.raises(SourceError, match="the network returned") as caught:
        name_outputs(result)
    assert "return a tensor" in caught.value.hint


def test_work_is_counted_in_multiply_accumulates() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=2),  # 4*4*8 outputs of 3*9
        nn.Conv2d(8, 8, 3, padding=1, groups=8),  # 4*4*8 outputs of 9
        nn.ConvTranspose2d(8, 4, 2, stride=2),  # 4*4*8 inputs to 4*4
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    assert count_macs(network, [torch.zeros(1, 3, 8, 8)]) == 128 * 27 + 128 * 9 + 128 * 16 + 2560
    assert count_macs(network, [torch.zeros(5, 3, 8, 8)]) == 5 * count_macs(network, [torch.zeros(1, 3, 8, 8)])
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_factory_that_returns_no_module_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(FACTORY)
    with pytest.raises(SourceError, match=r"`own\.py:number` returned int"):
        call_factory(tmp_path, "own.py:number", {})


def test_a_network_with_tied_weights_is_written_and_loaded_again(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(FACTORY)
    spec = TensorSpec(name="x", shape=("batch", 6))
    value = TorchValue(factory="own.py:Tied", options={"width": 6})
    model = Model(value=value, inputs=(spec,), outputs=(spec,), sources=tmp_path)
    network = call_factory(tmp_path, "own.py:Tied", {"width": 6}).eval()
    written = write_network(network, model, tmp_path / "out")
    assert load_model(tmp_path / "out", tmp_path) == written
    again = load_network(tmp_path / "out", tmp_path)
    assert not again.training
    assert again.get_parameter("second.weight") is again.get_parameter("first.weight")
    assert torch.equal(again(torch.ones(2, 6)), network(torch.ones(2, 6)))


@pytest.mark.skipif(not CIFAR10.is_dir(), reason="no CIFAR-10 data: set EDGEOPT_CIFAR10")
def test_a_checkpoint_from_the_world_is_read() -> None:
    tensors = read_tensors(CIFAR10 / "resnet20-12fca82f.th", "state_dict", "module.")
    assert tensors["linear.weight"].shape == (10, 64)
    assert sum(tensor.numel() for name, tensor in tensors.items() if name.endswith(("weight", "bias"))) == 269_722
    network = nn.Sequential()
    with pytest.raises(SourceError, match=r"left over: `conv1\.weight`"):
        load_tensors(network, tensors, "resnet20")
