"""Small convolutional networks, quantized in the ways that a runtime likes and in those that it does not."""

from __future__ import annotations

import gc
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeopt import files
from edgeopt.backends import Arrays
from edgeopt.backends.onnxruntime_cpu import OnnxruntimeCpu
from edgeopt.explain import profile
from edgeopt.explain.machine import X86, Machine
from edgeopt.model import Artifact, list_files
from edgeopt.onnx_graph import input_specs, output_specs
from edgeopt.quantization.calibration import collect_minmax
from edgeopt.quantization.fold import fold
from edgeopt.quantization.insert import insert_pairs
from edgeopt.quantization.placement import make_placement
from edgeopt.quantization.scheme import make_scheme

#: as ONNX Runtime's kernels for it are, what is found is found on x86 alone
on_x86 = pytest.mark.skipif(platform.machine().lower() not in X86, reason="it is about x86")

VNNI = Machine("x86_64", ("avx2", "avx_vnni"), cores=2)
AVX2 = Machine("x86_64", ("avx2",), cores=2)


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times for as long as it takes to tell causes apart; and a subject that is timed turns the collector off."""
    monkeypatch.setattr(profile, "TURN_SECONDS", 0.02)
    yield
    gc.enable()


@pytest.fixture
def one_core() -> Iterator[None]:
    """This process, and what it starts, may use one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)


def make_network(
    widths: Sequence[int] = (32, 32, 32, 32), size: int = 32, *, between: str = "", residual: bool = False
) -> onnx.ModelProto:
    """Convolutions of those widths, each with a Relu, then a linear layer; `between` is an operator after the second.

    Names are `conv0`, `relu0`, … and `head`; where `residual`, sums `add1`, … of a Relu's input and output follow.
    """
    random, nodes, constants, last, channels = np.random.default_rng(0), list[onnx.NodeProto](), [], "image", 3
    for index, width in enumerate(widths):
        weight = random.normal(0, (2 / (9 * channels)) ** 0.5, (width, channels, 3, 3)).astype(np.float32)
        constants += [numpy_helper.from_array(weight, f"w{index}")]
        constants += [numpy_helper.from_array(random.normal(0, 0.1, width).astype(np.float32), f"b{index}")]
        read = [last, f"w{index}", f"b{index}"]
        nodes.append(helper.make_node("Conv", read, [f"c{index}"], f"conv{index}", kernel_shape=[3, 3], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"], f"relu{index}"))
        before, last = last, f"r{index}"
        if residual and index and channels == width:
            nodes.append(helper.make_node("Add", [before, last], [f"a{index}"], f"add{index}"))
            last = f"a{index}"
        if between and index == 1:
            options = {"kernel_shape": [3, 3], "pads": [1] * 4} if between == "MaxPool" else {}
            nodes.append(helper.make_node(between, [last], ["between"], "between", **options))
            last = "between"
        channels = width
    constants.append(numpy_helper.from_array(random.normal(0, 0.3, (4, channels)).astype(np.float32), "w"))
    constants.append(numpy_helper.from_array(np.zeros(4, np.float32), "b"))
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "w", "b"], ["scores"], "head", transB=1),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, size, size])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 4])
    graph = helper.make_graph(nodes, "network", [image], [scores], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def make_images(network: onnx.ModelProto, count: int = 4, seed: int = 0) -> list[Arrays]:
    """Batches of one random image."""
    (spec,) = input_specs(network)
    random = np.random.default_rng(seed)
    return [{spec.name: random.standard_normal(spec.with_batch(1)).astype(np.float32)} for _ in range(count)]


def quantize(network: onnx.ModelProto, keep_float: Sequence[str] = (), **changes: object) -> onnx.ModelProto:
    """The network as `quantize_int8` leaves it for the backend, or for one whose profile has these `changes`."""
    wanted = OnnxruntimeCpu().profile().model_copy(update=changes)
    folded = fold(network)
    placement = make_placement(folded, wanted, keep_float)
    ranges = collect_minmax(folded, [pair.tensor for pair in placement.pairs], make_images(network, seed=1))
    return insert_pairs(folded, make_scheme(folded, placement, ranges, wanted))


def spoil(quantized: onnx.ModelProto, layer: str, factor: int = 8) -> onnx.ModelProto:
    """The graph with the weight of one layer in steps that are `factor` times too coarse."""
    spoilt = onnx.ModelProto()
    spoilt.CopyFrom(quantized)
    for tensor in spoilt.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if tensor.name in (f"{layer}_weight_scale", f"{layer}_bias_scale"):
            tensor.CopyFrom(numpy_helper.from_array(array * np.float32(factor), tensor.name))
        if tensor.name in (f"{layer}_weight_quantized", f"{layer}_bias_quantized"):
            tensor.CopyFrom(numpy_helper.from_array(np.rint(array / factor).astype(array.dtype), tensor.name))
    return spoilt


def write_artifact(graph: onnx.ModelProto, folder: Path, threads: int = 1) -> Artifact:
    files.write_bytes(folder / "model.onnx", graph.SerializeToString())
    return Artifact(
        target="here", backend="onnxruntime_cpu", files=list_files(folder, ["model.onnx"]), folder=folder,
        inputs=input_specs(graph), outputs=output_specs(graph), settings={"threads": threads, "batch": 1},
    )  # fmt: skip
