"""The torch twin of a graph: it computes the same, shows its tensors, lets them be replaced, and can be trained."""

from __future__ import annotations

import inspect
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from edgeopt.errors import PassError
from edgeopt.network import call_factory
from edgeopt.onnx_graph import load_graph, make_session, max_difference, run_session
from edgeopt.quantization.fold import fold
from edgeopt.quantization.twin import Twin

Make = Callable[..., Any]

ROOT = Path(__file__).parents[2]
NETWORKS = ROOT / "tests/networks"
ARCHITECTURES = re.findall(r"^def (make_\w+)", (NETWORKS / "architectures.py").read_text(encoding="utf8"), re.MULTILINE)

#: exporters refuse one of its normalizations, and write attention with operators that no CNN has
ARCHITECTURES = [name for name in ARCHITECTURES if name not in ("make_slopes", "make_attentive")]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def check_export(network: torch.nn.Module, shape: tuple[int, ...], folder: Path, *, dynamo: bool) -> None:
    """Export a network for any number of images, and compare twin and runtime on 3 of them."""
    names = list(inspect.signature(network.forward).parameters)
    path, images = folder / "network.onnx", tuple(torch.randn(3, *shape[1:]) for _ in names)
    axes: dict[str, Any] = (
        {"dynamic_shapes": tuple({0: torch.export.Dim("batch")} for _ in names), "external_data": False}
        if dynamo
        else {"dynamic_axes": {name: {0: "batch"} for name in names}}
    )
    torch.onnx.export(network.eval(), images, str(path), input_names=names, dynamo=dynamo, verbose=False, **axes)
    graph, inputs = load_graph(path), {name: image.numpy() for name, image in zip(names, images, strict=True)}
    wanted = run_session(make_session(graph), inputs)
    with torch.no_grad():
        found = Twin(fold(graph))({name: torch.from_numpy(array) for name, array in inputs.items()})
    assert list(found) == list(wanted)
    assert max_difference(wanted, {name: value.numpy() for name, value in found.items()}) < 1e-4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", ARCHITECTURES)
def test_whole_networks_agree_with_onnx_runtime(function: str, tmp_path: Path) -> None:
    network = call_factory(NETWORKS, f"architectures.py:{function}", {})
    check_export(network, (3, 3, 16, 16), tmp_path, dynamo=False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [False, True])
def test_the_digits_network_agrees_whichever_exporter_wrote_it(dynamo: bool, tmp_path: Path) -> None:
    network = call_factory(ROOT / "recipes/digits", "network.py:DigitsNet", {"width": 16})
    check_export(network, (2, 1, 32, 32), tmp_path, dynamo=dynamo)


ORDERED = "c = Conv (x, w, b) r = Relu (c) h = Neg (r) y = Add (r, h)"


@pytest.fixture
def graph(make_graph: Make, weights: Make) -> onnx.ModelProto:
    made: onnx.ModelProto = make_graph(ORDERED, **{"w": weights(4, 3, 3, 3), "b": weights(4)})
    return made


@pytest.fixture
def images(weights: Make) -> dict[str, Tensor]:
    return {"x": torch.from_numpy(weights(2, 3, 8, 8, seed=5))}


def test_initializers_are_found_by_name_and_weights_are_trained(make_graph: Make, weights: Make) -> None:
    body = "c = Conv (x, conv.w, b) d = Mul (c, f) y = Clip (d, low)"
    arrays = {"conv.w": weights(4, 3, 3, 3), "b": weights(4), "f": weights(4, 1, 1), "low": np.float32(0)}
    twin = Twin(fold(make_graph(body.replace("conv.w", "w"), **{"w": arrays.pop("conv.w")}, **arrays)))
    assert sorted(twin.tensors()) == ["b", "f", "low", "w"]
    trained = {name for name, tensor in twin.tensors().items() if isinstance(tensor, torch.nn.Parameter)}
    assert trained == {"w", "b"}
    assert len(list(twin.parameters())) == 2


def test_gradients_flow_to_weights_and_inputs(graph: onnx.ModelProto, images: dict[str, Tensor]) -> None:
    twin = Twin(graph)
    twin({"x": images["x"].requires_grad_()}, on_activation=lambda name, value: value * 2)[
        "y"
    ].square().sum().backward()
    twin({"x": images["x"]}, on_activation=lambda name, value: value * 2 if name == "r" else value)
    assert images["x"].grad is not None
    gradient = twin.tensor("w").grad
    assert gradient is not None
    assert gradient.shape == (4, 3, 3, 3)


def test_each_tensor_is_shown_once_when_it_gets_a_value(graph: onnx.ModelProto, images: dict[str, Tensor]) -> None:
    shown: list[str] = []

    def look(name: str, value: Tensor) -> Tensor:
        shown.append(name)
        return value

    Twin(graph)(images, on_activation=look)
    assert shown == ["x", "c", "r", "h", "y"]


def test_what_is_put_in_place_of_a_tensor_is_what_readers_see(
    graph: onnx.ModelProto, images: dict[str, Tensor]
) -> None:
    zero = Twin(graph)(images, on_activation=lambda name, value: value * 0 if name == "h" else value)["y"]
    exact = dict(Twin(graph)(images, on_activation=lambda name, value: value))
    relu = run_session(make_session(with_output(graph, "r")), {"x": images["x"].numpy()})["r"]
    np.testing.assert_allclose(zero.detach().numpy(), relu, atol=1e-5)
    assert not exact["y"].any()


def test_only_readers_that_may_see_it_do(graph: onnx.ModelProto, images: dict[str, Tensor]) -> None:
    def run(sees: Callable[[str, str], bool]) -> Tensor:
        twice: Callable[[str, Tensor], Tensor] = lambda name, value: value * 2 if name in "ry" else value  # noqa: E731
        result: Tensor = Twin(graph)(images, on_activation=twice, sees=sees)["y"]
        return result

    relu = torch.relu(Twin(graph).apply_node(graph.graph.node[0], images)["c"])
    torch.testing.assert_close(run(lambda tensor, node: (tensor, node) == ("r", "y")), relu)
    torch.testing.assert_close(run(lambda tensor, node: (tensor, node) in (("r", "y"), ("y", ""))), relu * 2)


def test_a_weight_can_be_replaced_and_a_node_applied_alone(graph: onnx.ModelProto, images: dict[str, Tensor]) -> None:
    twin, names = Twin(graph), []

    def half(name: str, weight: Tensor) -> Tensor:
        names.append(name)
        return weight / 2

    whole = {node.name: values for node, values in twin.run(images, on_weight=half)}
    alone = twin.apply_node(graph.graph.node[0], {**images, "w": twin.tensor("w") / 2})["c"]
    assert names == ["c"]
    torch.testing.assert_close(whole["r"]["c"], alone)


def test_what_nobody_reads_any_more_is_freed(make_graph: Make) -> None:
    chain = " ".join(f"t{index} = Neg (t{index - 1})" for index in range(1, 20))
    graph = make_graph(f"t0 = Neg (x) {chain} y = Neg (t19)")
    alive: list[int] = []

    class Counted:
        count = 0

    def look(name: str, value: Tensor) -> Tensor:
        Counted.count += 1
        weakref.finalize(value, lambda: setattr(Counted, "count", Counted.count - 1))
        alive.append(Counted.count)
        return value

    with torch.no_grad():
        Twin(graph)({"x": torch.zeros(1, 3, 8, 8)}, on_activation=look)
    assert max(alive) <= 4


def test_a_run_that_is_left_early_computes_no_more(graph: onnx.ModelProto, images: dict[str, Tensor]) -> None:
    shown: list[str] = []
    for node, values in Twin(graph).run(images, on_activation=lambda name, value: shown.append(name) or value):
        if node.name == "r":
            assert list(values) == ["c"]
            break
    assert shown == ["x", "c"]


def test_a_shape_that_does_not_fit_is_told_with_the_node(graph: onnx.ModelProto) -> None:
    with pytest.raises(PassError, match="Conv `c` does not run in torch"):
        Twin(graph)({"x": torch.zeros(1, 7, 8, 8)})


def with_output(graph: onnx.ModelProto, name: str) -> onnx.ModelProto:
    shown = onnx.ModelProto()
    shown.CopyFrom(graph)
    shown.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return shown
