"""The runtime's profile: what is read from its trace, and what runs are timed beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeopt.errors import BackendError
from edgeopt.explain import profile
from edgeopt.explain.layers import Source
from edgeopt.explain.profile import Profile, parse_trace, take_profile
from tests.explain.conftest import make_network, quantize, write_artifact


def event(name: str, duration: int, operator: str = "Conv", dtypes: tuple[str, ...] = ("float",)) -> dict[str, Any]:
    shapes = [{dtype: [1]} for dtype in dtypes]
    return {"cat": "Node", "name": name, "dur": duration, "args": {"op_name": operator, "input_type_shape": shapes}}


def optimized() -> onnx.ModelProto:
    """Of one QLinearConv `c` with a weight of u8."""
    node = helper.make_node("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["y"], "c")
    weight = helper.make_tensor("w", TensorProto.UINT8, [1], [1])
    return helper.make_model(helper.make_graph([node], "g", [], [], [weight]))


def test_a_node_takes_the_median_of_its_runs_without_the_first() -> None:
    trace = [event("c_kernel_time", time, "QLinearConv", ("uint8", "float")) for time in (90, 80, 70, 60, 5, 7, 30)]
    trace += [{"cat": "Session", "name": "model_run", "dur": 1}, event("c_fence_before", 999)]
    (node,) = parse_trace(trace, optimized())
    assert (node.name, node.operator, node.time_us) == ("c", "QLinearConv", 7.0)
    assert (node.input_dtype, node.weight_dtype) == ("uint8", "uint8")


def test_a_node_without_inputs_or_that_ran_seldom_is_no_fault() -> None:
    (node,) = parse_trace([event("r_kernel_time", 3, "RandomNormal", ())], optimized())
    assert (node.time_us, node.input_dtype, node.weight_dtype) == (3.0, "", "")


def test_what_does_not_grow_with_the_batch_is_fixed() -> None:
    assert Profile((), 1, run_us=100.0, doubled_us=200.0).fixed_share == 0.0
    assert Profile((), 1, run_us=100.0, doubled_us=110.0).fixed_share == pytest.approx(0.9)
    assert Profile((), 1, run_us=100.0, doubled_us=230.0).fixed_share == 0.0, "twice the batch fits no cache"
    assert Profile((), 1, run_us=100.0).fixed_share == 0.0
    assert Profile((), 1, run_us=100.0).share([]) == 0.0


def test_a_real_profile_has_every_operator_and_its_dtypes(tmp_path: Path) -> None:
    source = Source(quantize(make_network((8, 8), size=8)))
    found = take_profile(write_artifact(source.graph, tmp_path), source.graph, cores=2)
    kinds = {(node.operator, node.input_dtype, node.weight_dtype) for node in found.nodes}
    assert ("QLinearConv", "uint8", "int8") in kinds
    assert found.doubled_us is not None
    assert found.fewer_us is None
    assert sum(found.share([node]) for node in found.nodes) == pytest.approx(1.0)


def test_a_graph_of_one_batch_is_not_run_with_two(tmp_path: Path) -> None:
    network = make_network((8,), size=8)
    network.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    source = Source(network)
    assert take_profile(write_artifact(network, tmp_path), source.graph, cores=2).doubled_us is None


def test_fewer_threads_are_tried_where_there_are_more_than_cores(tmp_path: Path) -> None:
    source = Source(make_network((8,), size=8))
    assert take_profile(write_artifact(source.graph, tmp_path, threads=2), source.graph, cores=1).fewer_us is not None


def test_a_graph_that_the_runtime_refuses_is_named(tmp_path: Path) -> None:
    source = Source(make_network((8,), size=8))
    artifact = write_artifact(source.graph, tmp_path)
    source.graph.graph.node[0].op_type = "Frobnicate"
    with pytest.raises(BackendError, match="Frobnicate"):
        take_profile(artifact, source.graph, cores=2)


def test_a_quick_run_is_repeated_more_often() -> None:
    counts = [profile._runs(run_us, 0.08) for run_us in (10.0, 8_000.0, 1e6)]
    assert counts == [profile.MOST_RUNS, 10, profile.LEAST_RUNS]
    assert list(np.diff(counts) < 0) == [True, True]
