"""The linter is silent over what edgeopt writes, for every profile; what it says of other graphs, it says once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeopt import backends, registry
from edgeopt.context import Context
from edgeopt.errors import PassError
from edgeopt.model import Model, QuantizationProfile
from edgeopt.onnx_graph import load_graph
from edgeopt.quantization.lint import lint, require_legal
from edgeopt.quantization.profiles import LITERT, PROFILES, TENSORRT
from tests.quantization.linted import BODIES, CPU, PLAIN, Graph, Make, network, put, quantize, said, tensor

__all__ = ["network"]

ARCHITECTURES = (
    "plain", "option_a", "mobile", "concatenated", "grouped", "upsampling", "group_normalized", "tied",
)  # fmt: skip


def every_profile() -> Iterator[QuantizationProfile]:
    """Those of all backends and of all targets; each as it is, with 7-bit weights, and with int8 around any zero."""
    declared = [backends.get(name).profile() for name in registry.names("backends")]
    for one in [*filter(None, declared), *PROFILES.values()]:
        yield one
        yield one.model_copy(update={"name": f"{one.name}, 7 bits", "weight_bits": 7})
        signed = {"activation_dtype": "int8", "activation_symmetric": False}
        yield one.model_copy(update={"name": f"{one.name}, int8", **signed})


EVERY_PROFILE = tuple(every_profile())


@pytest.mark.parametrize("profile", EVERY_PROFILE, ids=lambda profile: profile.name)
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("per_channel", [True, False])
def test_what_edgeopt_writes_breaks_no_rule(
    network: Make, profile: QuantizationProfile, body: str, per_channel: bool
) -> None:
    quantized = quantize(network(body), profile, per_channel=per_channel)
    assert said(lint(quantized, profile)) == ""
    require_legal(quantized, profile)


@pytest.fixture(scope="module")
def exported(architecture: Callable[[str], Model], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Graph]:
    """Makes the ONNX graph of a network of `tests/networks/architectures.py`, once."""
    from edgeopt.passes.export_onnx import ExportOnnx

    @functools.cache
    def make(name: str) -> Graph:
        folder: Path = tmp_path_factory.mktemp(name)
        return load_graph(ExportOnnx()(architecture(f"make_{name}"), Context(folder=folder)).model.path)

    return make


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_edgeopt_writes_of_an_exported_network_breaks_no_rule(exported: Make, name: str) -> None:
    found = {profile.name: said(lint(quantize(exported(name), profile), profile)) for profile in EVERY_PROFILE}
    assert found == dict.fromkeys(found, "")


def test_a_transposed_convolution_in_groups_has_a_bias_of_integers(exported: Make) -> None:
    assert said(lint(quantize(exported("upsampling"), LITERT), LITERT)) == ""


def test_a_sum_of_a_tensor_with_itself_breaks_no_rule(network: Make) -> None:
    body = "a = Conv (x, w) c = Conv (a, v) y = Add (c, c)"
    assert said(lint(quantize(network(body), TENSORRT), TENSORRT)) == ""


@pytest.mark.parametrize(
    "body",
    [
        "a = Conv (x, w) s = Sigmoid (a) t = Transpose <perm = [0, 2, 3, 1]> (s) y = MatMul (t, m)",
        "a = Conv (x, w) s = Sigmoid (a) t = Concat <axis = 1> (s, a) y = Conv (t, wide)",
        "a = Conv (x, w) s = Sigmoid (a) h = Tanh (a) t = Concat <axis = 1> (h, s) y = Conv (t, wide)",
    ],
)
def test_a_fixed_range_stays_behind_what_moves_its_values(network: Make, body: str) -> None:
    assert said(lint(quantize(network(body), LITERT), LITERT)) == ""


def test_a_float_graph_is_told_once(network: Make) -> None:
    found = lint(network("residual"), CPU)
    assert [(each.rule, each.node, each.severity) for each in found] == [("not_quantized", "g", "slow")]


def test_a_sentence_tells_what_was_found_and_what_is_allowed(network: Make) -> None:
    graph = quantize(network(PLAIN), CPU)
    weight = tensor(graph, "y_weight_quantized")
    weight[3, 2] = -65
    put(graph, y_weight_quantized=weight)
    (found,) = lint(graph, CPU)
    assert (
        found.sentence
        == "1 of 256 weights lie up to 65 steps from zero; with 7 bits it is 64 at most, or sums saturate"
    )


def test_what_is_illegal_is_refused_with_a_line_for_each(network: Make) -> None:
    graph = quantize(network(PLAIN), CPU)
    bias = tensor(graph, "y_bias_quantized")
    bias[4] = 2**31 - 1
    put(graph, y_bias_quantized=bias)
    weight = tensor(graph, "y_weight_quantized")
    weight[3, 2] = -65
    put(graph, y_weight_quantized=weight)
    with pytest.raises(PassError) as caught:
        require_legal(graph, CPU)
    assert [line.split(":")[0] for line in caught.value.message.splitlines()] == [
        "`y` breaks weight_bits", "`y` breaks bias_overflow",
    ]  # fmt: skip


@pytest.mark.parametrize("body", BODIES)
def test_a_graph_for_one_target_can_be_linted_for_any_other(network: Make, body: str) -> None:
    for written in (CPU, *PROFILES.values()):
        graph = quantize(network(body), written)
        for profile in EVERY_PROFILE:
            nodes = {each.node for each in lint(graph, profile)}
            assert nodes <= {node.name for node in graph.graph.node}
