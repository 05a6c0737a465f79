"""What is trained is what ships: the simulated network and the graph with pairs compute the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from edgeopt.context import Context
from edgeopt.model import Model, QuantizationProfile
from edgeopt.onnx_graph import load_graph, run_session
from edgeopt.passes.export_onnx import ExportOnnx
from edgeopt.quantization.calibration import collect_minmax
from edgeopt.quantization.fold import fold
from edgeopt.quantization.insert import insert_pairs
from edgeopt.quantization.placement import make_placement
from edgeopt.quantization.profiles import LITERT, TENSORRT
from edgeopt.training.fake_quantization import FakeQuantized, FloatNetwork, make_fake_quantized
from edgeopt.training.scales import Ranges

ROOT = Path(__file__).parents[2]

CPU = QuantizationProfile(
    name="cpu",
    activation_dtype="uint8",
    weight_dtype="int8",
    weight_bits=7,
    weight_axes={"Conv": 0, "Gemm": 1, "MatMul": 1},
    quantized_ops=("Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid"),
    passthrough_ops=("MaxPool", "Reshape", "Flatten", "Transpose", "Slice", "Pad", "Resize"),
    integer_moves=("Pad",),
    fused_activations=("Relu", "Clip"),
    float_output_ops=("Gemm", "MatMul"),
)
#: unsigned weights with one scale each, 4 bits wide
COARSE = CPU.model_copy(update={"name": "coarse", "weight_dtype": "uint8", "weight_bits": 4})
PROFILES = {profile.name: profile for profile in (CPU, COARSE, TENSORRT, LITERT)}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def run_simulated(graph: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """The graph in ONNX Runtime as it is written: without its optimizer, integers are stored and nothing is fused."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    content, providers = graph.SerializeToString(), ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(content, options, providers=providers)
    (output,) = run_session(session, {"image": images}).values()
    return np.asarray(output)


def make_network(
    graph: onnx.ModelProto, profile: QuantizationProfile, kind: Ranges, images: np.ndarray, *, per_channel: bool = True
) -> FakeQuantized:
    placement = make_placement(graph, profile, per_channel=per_channel)
    observed = collect_minmax(graph, [pair.tensor for pair in placement.pairs], [{"image": images}])
    return make_fake_quantized(graph, placement, observed, profile, kind, ["image"])


@torch.no_grad()
def disturb(network: FakeQuantized, images: np.ndarray) -> None:
    """Move all that training moves, and more than it would."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in network.named_parameters():
        size = 1.0 if "logarithms" in name else float(parameter.abs().mean())
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1 * size)
    network.scales.epoch_steps = 3
    network.train()
    for _ in range(4):
        network(torch.from_numpy(1.3 * images))
    network.eval()


@torch.no_grad()
def check(network: FakeQuantized, images: np.ndarray, steps: float = 3.0) -> None:
    """Outputs of what is trained and of what ships: nearly all equal, none far apart, and the same classes."""
    scheme = network.trained_scheme()
    shipped = run_simulated(insert_pairs(network.trained_graph(), scheme), images)
    (trained,) = (value.numpy() for value in network(torch.from_numpy(images)).values())
    last = float(list(scheme.activations.values())[-1].scale)
    apart = np.abs(shipped - trained)
    assert apart.max() <= steps * last
    assert np.mean(apart > 0.01 * last) < 0.2
    margins = np.diff(np.sort(trained, axis=1)[:, -2:], axis=1)[:, 0]
    clear = margins > 2 * apart.max()  # where two classes are equal, either is right
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(shipped.argmax(1)[clear], trained.argmax(1)[clear])
    floats = run_simulated(network.trained_graph(), images)
    assert np.abs(floats - trained).max() > 10 * apart.mean(), "nothing was quantized"


NETWORKS = [
    "make_plain", "make_option_a", "make_mobile", "make_concatenated", "make_grouped", "make_group_normalized",
    "make_tied", "make_upsampling",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["learned", "averaged"])
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("function", NETWORKS)
def test_what_is_trained_and_what_ships_compute_the_same(
    graphs: Callable[[str], onnx.ModelProto], function: str, profile: str, kind: Ranges
) -> None:
    images = np.random.default_rng(0).standard_normal((16, 3, 16, 16)).astype(np.float32)
    network = make_network(graphs(function), PROFILES[profile], kind, images, per_channel=profile != "coarse")
    disturb(network, images)
    check(network, images)


@pytest.fixture(scope="module")
def graphs(
    architecture: Callable[[str], Model], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], onnx.ModelProto]:
    """The folded graph of a function in `tests/networks/architectures.py`, exported once."""
    made: dict[str, onnx.ModelProto] = {}

    def make(function: str) -> onnx.ModelProto:
        if function not in made:
            context = Context(folder=tmp_path_factory.mktemp(function))
            made[function] = fold(load_graph(ExportOnnx()(architecture(function), context).model.path))
        return made[function]

    return make


@pytest.mark.parametrize("kind", ["learned", "averaged"])
@pytest.mark.parametrize("integer_moves", [(), ("Pad",)])
def test_where_a_second_pair_requantizes_too(integer_moves: tuple[str, ...], kind: Ranges) -> None:
    text = """<ir_version: 9, opset_import: ["": 17]> g (float[N, 3, 16, 16] image) => (float[N, 8] y) {
        c = Conv (image, w) s = Sigmoid (c) m = Mul (c, s) p = Pad (s, pads) q = Pad (m, pads)
        t = Concat <axis = 1> (p, q) d = Conv (t, v) r = Relu (d) a = GlobalAveragePool (r) y = Flatten (a)
    }"""
    random, graph = np.random.default_rng(0), onnx.parser.parse_model(text)
    arrays = {"w": random.standard_normal((8, 3, 3, 3)), "v": random.standard_normal((8, 16, 1, 1))}
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    pads = numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "pads")
    graph.graph.initializer.extend([*tensors, pads])
    images = random.standard_normal((16, 3, 16, 16)).astype(np.float32)
    network = make_network(fold(graph), LITERT.model_copy(update={"integer_moves": integer_moves}), kind, images)
    disturb(network, images)
    assert network.trained_scheme().placement.requantized
    check(network, images)


def digits() -> np.ndarray:
    with np.load(ROOT / "calibration_data/digits/calibration.npz") as content:
        images: np.ndarray = content["image"][:64, :, ::2, ::2]
    return ((images / 255 - 0.5) / 0.25).astype(np.float32)


@pytest.mark.parametrize("kind", ["learned", "averaged"])
def test_on_real_images_too(onnx_model: Model, kind: Ranges) -> None:
    graph, images = fold(load_graph(onnx_model.path)), digits()
    network = make_network(graph, CPU, kind, images)
    disturb(network, images)
    check(network, images)


@pytest.mark.parametrize("kind", ["learned", "averaged"])
def test_before_training_it_is_the_calibrated_network(onnx_model: Model, kind: Ranges) -> None:
    graph, images = fold(load_graph(onnx_model.path)), digits()
    network = make_network(graph, CPU, kind, images).eval()
    scheme, start = network.trained_scheme(), network.scales.scheme
    for name, quantizer in [*start.activations.items(), *start.weights.items()]:
        found = (scheme.activations | scheme.weights)[name]
        np.testing.assert_allclose(found.scale, quantizer.scale, rtol=1e-6)
        np.testing.assert_array_equal(found.zero_point, quantizer.zero_point)
    assert network.trained_graph() == graph
    check(network, images)


@pytest.mark.parametrize("kind", ["learned", "averaged"])
def test_gradients_reach_weights_biases_and_learned_scales(onnx_model: Model, kind: Ranges) -> None:
    graph, images = fold(load_graph(onnx_model.path)), digits()[:4]
    network = make_network(graph, CPU, kind, images).train()
    (output,) = network(torch.from_numpy(images)).values()
    output.square().sum().backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not without
    assert all(bool(parameter.grad.abs().sum() > 0) for parameter in network.twin.parameters() if parameter.dim() > 1)


def test_a_prescribed_range_never_moves(graphs: Callable[[str], onnx.ModelProto]) -> None:
    graph, images = graphs("make_mobile"), np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)
    sigmoids = [node.output[0] for node in graph.graph.node if node.op_type == "Sigmoid"]
    for kind in ("learned", "averaged"):
        network = make_network(graph, LITERT, kind, images)  # type: ignore[arg-type]
        disturb(network, images)
        activations = network.trained_scheme().activations
        assert [float(activations[name].scale) for name in sigmoids] == [1 / 256] * len(sigmoids)
    assert sigmoids


def test_averages_settle_after_an_epoch_and_only_in_training(onnx_model: Model) -> None:
    graph, images = fold(load_graph(onnx_model.path)), digits()
    network, twice = make_network(graph, CPU, "averaged", images), torch.from_numpy(2 * images)
    network.scales.epoch_steps = 2

    def high() -> float:
        quantizer = network.trained_scheme().activations["image"]
        return float((255 - int(quantizer.zero_point)) * quantizer.scale)

    seen = [high()]
    with torch.no_grad():
        for mode in (False, True, True, True):
            network.train(mode)(twice)
            seen.append(high())
    assert seen[0] == seen[1] < seen[2] < seen[3] == seen[4] < 2 * seen[0]


def test_tensors_that_share_a_scale_hold_the_values_of_all(graphs: Callable[[str], onnx.ModelProto]) -> None:
    images = np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)
    network = make_network(graphs("make_concatenated"), LITERT, "averaged", images)
    disturb(network, images)
    scheme = network.trained_scheme()
    roots = {pair.tensor: pair.root for pair in scheme.placement.pairs}
    shared = [tensor for tensor, root in roots.items() if tensor != root]
    assert shared
    assert all(scheme.activations[tensor] == scheme.activations[roots[tensor]] for tensor in shared)


def test_a_weight_scale_leaves_room_for_a_large_bias(onnx_model: Model) -> None:
    graph, images = fold(load_graph(onnx_model.path)), digits()
    network = make_network(graph, CPU, "learned", images)
    weighted = network.scales.scheme.placement.weighted[0]
    bias = network.twin.tensor(str(weighted.bias))
    with torch.no_grad():
        bias[0] = 1e8
    scheme = network.trained_scheme()
    step = scheme.weights[weighted.node].scale[0] * scheme.activations[weighted.activation].scale
    assert 1e8 / step < 2**30
    graph_with_pairs: Any = insert_pairs(network.trained_graph(), scheme)
    assert np.isfinite(run_simulated(graph_with_pairs, images)).all()


def test_the_teacher_is_the_float_graph_and_takes_inputs_in_order(onnx_model: Model) -> None:
    graph, images = fold(load_graph(onnx_model.path)), digits()
    teacher = FloatNetwork(graph, ["image"])
    (found,) = teacher(torch.from_numpy(images)).values()
    np.testing.assert_allclose(found.numpy(), run_simulated(graph, images), atol=1e-4)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
