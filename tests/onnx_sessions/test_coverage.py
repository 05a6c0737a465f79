"""What ran where, from real profiles: shares, copies, the cut, and the node that was not allowed there."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest

from edgeopt.errors import BackendError
from edgeopt.model import Model
from edgeopt.onnx_graph import random_inputs
from edgeopt.onnx_sessions import Opening, coverage, open_session
from edgeopt.onnx_sessions.coverage import parse_coverage, take_coverage

Trace = list[dict[str, Any]]


@pytest.fixture
def trace(onnx_model: Model, tmp_path: Path) -> Trace:
    """The profile of three runs on the CPU of a session that was told to run on CUDA."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "trace")
    asked = [name for name in ("CUDAExecutionProvider",) if name not in onnxruntime.get_available_providers()]
    with pytest.warns(UserWarning, match="CUDAExecutionProvider") if asked else pytest.MonkeyPatch.context():
        session = onnxruntime.InferenceSession(
            str(onnx_model.path), options, providers=[*asked, "CPUExecutionProvider"]
        )
    for _ in range(3):
        session.run(None, random_inputs(onnx_model.inputs, 2, seed=0))
    found: Trace = json.loads(Path(session.end_profiling()).read_bytes())
    return found


def kernels(trace: Trace) -> Trace:
    return [event for event in trace if event["cat"] == "Node" and event["name"].endswith("_kernel_time")]


def test_every_node_of_the_graph_as_it_runs_is_found(onnx_model: Model, tmp_path: Path) -> None:
    inputs = random_inputs(onnx_model.inputs, 2, seed=0)
    found = take_coverage(str(onnx_model.path), Opening(), inputs)
    saved = tmp_path / "optimized.onnx"
    open_session(str(onnx_model.path), Opening(attributes={"optimized_model_filepath": str(saved)}))
    expected = Counter(node.op_type for node in onnx.load(saved).graph.node)
    assert Counter(one.operator for one in found.ran) == expected
    assert all(one.time_us >= 0 for one in found.ran)
    facts = {"coverage": "CPU 100 % of nodes, 100 % of time", "copies": 0, "parts": f"1: CPU {expected.total()}"}
    assert found.facts() == facts
    found.require(["cpu"])


def test_a_session_that_ran_on_the_cpu_in_silence_is_caught_and_its_operators_are_named(trace: Trace) -> None:
    found = parse_coverage(trace)
    with pytest.raises(BackendError, match=r"not on CUDA, but on CPU ran .*Conv ×\d+.*Gemm") as caught:
        found.require(["cuda"])
    assert "allow" in caught.value.hint
    found.require(["cuda", "cpu"])


def test_the_time_of_a_node_is_the_median_of_its_later_runs(trace: Trace) -> None:
    first = kernels(trace)[0]["name"]
    times = iter((900, 800, 7))
    for event in kernels(trace):
        if event["name"] == first:
            event["dur"] = next(times)
    assert parse_coverage(trace).ran[0].time_us == 7


def test_shares_copies_and_cuts_of_two_providers(trace: Trace) -> None:
    """The first node and the last ones on a GPU, with copies between, as ONNX Runtime inserts and names them."""
    run = [event for event in trace if event["cat"] != "Node"]
    nodes = list({event["name"]: event for event in kernels(trace)}.values())[:4]
    for event, provider in zip(nodes, ("CUDA", "CPU", "CUDA", "CUDA"), strict=True):
        event["args"]["provider"], event["dur"] = f"{provider}ExecutionProvider", 10
    copies = [
        {**nodes[0], "name": f"Memcpy_{way}_kernel_time", "dur": 30, "args": {**nodes[0]["args"], "op_name": way}}
        for way in ("MemcpyToHost", "MemcpyFromHost")
    ]
    found = parse_coverage([*run, nodes[0], copies[0], nodes[1], copies[1], *nodes[2:]])
    assert found.parts() == [("cuda", 1), ("cpu", 1), ("cuda", 2)]
    shares = "CUDA 75 % of nodes, 30 % of time; CPU 25 % of nodes, 10 % of time"
    assert found.facts() == {"coverage": shares, "copies": 2, "parts": "3: CUDA 1, CPU 1, CUDA 2"}
    with pytest.raises(BackendError, match="not on CUDA, but on CPU ran"):
        found.require(["cuda"])


def test_a_part_that_a_provider_compiles_counts_the_nodes_that_it_holds(trace: Trace) -> None:
    compiled, other = kernels(trace)[:2]
    compiled["args"]["provider"] = "OpenVINOExecutionProvider"
    found = parse_coverage([compiled, other], [("openvino", 54), ("cpu", 1), ("cpu", 1)])
    assert found.parts() == [("openvino", 54), ("cpu", 1)]
    assert str(found.facts()["coverage"]).startswith("OpenVINO 98 % of nodes")


def test_a_cut_in_many_parts_is_told_in_short(trace: Trace) -> None:
    names = list({event["name"]: event for event in kernels(trace)}.values())
    assert len(names) > 8
    for index, event in enumerate(names):
        event["args"]["provider"] = f"{'CUDA' if index % 2 else 'CPU'}ExecutionProvider"
    told = str(parse_coverage(names).facts()["parts"])
    assert told.startswith(f"{len(names)}: CPU 1, CUDA 1, ")
    assert told.endswith(f", {len(names) - coverage.LISTED} more")


def test_onnx_runtime_tells_what_a_provider_took_as_one(onnx_model: Model) -> None:
    session = open_session(str(onnx_model.path), Opening(entries={"session.record_ep_graph_assignment_info": "1"}))
    assigned = coverage.assigned_nodes(session)
    assert {name for name, _ in assigned} == {"cpu"}
    assert {nodes for _, nodes in assigned} == {1}
    assert len(assigned) >= len(onnx.load(onnx_model.path).graph.node)
