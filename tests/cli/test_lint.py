"""`lint`: what a target dislikes in a quantized graph, and an exit code that tells the illegal from the slow."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeopt.quantization.profiles import TENSORRT
from tests.cli.test_cli import Run, refused, run
from tests.quantization.conftest import make_graph, weights
from tests.quantization.linted import Make, network, put, quantize

__all__ = ["make_graph", "network", "run", "weights"]

SUM = "a = Conv (x, w) r = Relu (a) c = Conv (r, v) s = Add (c, r) y = Conv (s, v)"


@pytest.fixture
def model(network: Make, tmp_path: Path) -> Callable[..., str]:
    """Writes a graph for TensorRT, with what is wrong with it, and gives its path."""

    def write(slow: bool = False, illegal: bool = False) -> str:
        graph = quantize(network(SUM), TENSORRT)
        if slow:
            for node in graph.graph.node:
                node.input[:] = ["c", "r"] if node.name == "s" else node.input
        if illegal:
            put(graph, r_zero_point=np.int8(3))
        onnx.save(graph, tmp_path / "model.onnx")
        return str(tmp_path / "model.onnx")

    return write


def test_a_graph_that_suits_its_target_is_told_in_one_line(run: Run, model: Callable[..., str]) -> None:
    path = model()
    ran = run("lint", path, "--profile", "tensorrt")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{path}: 0 illegal, 0 slow for tensorrt\n"
    assert run("lint", path, "--profile", "tensorrt", "--json").out == "[]\n"


def test_what_is_slow_is_told_and_exits_with_0(run: Run, model: Callable[..., str]) -> None:
    path = model(slow=True)
    ran = run("lint", path, "--profile", "tensorrt")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        "slow     sum_skip                s: no branch is quantized; beside `c`, the other one has to be",
        f"{path}: 0 illegal, 1 slow for tensorrt",
    ]


def test_what_is_illegal_exits_with_2_and_stands_in_the_error(run: Run, model: Callable[..., str]) -> None:
    path = model(slow=True, illegal=True)
    ran = run("lint", path, "--profile", "tensorrt")
    assert ran.code == 2
    sentence = "its zero point for `r` is 3; it has to be 0"
    assert ran.out.splitlines()[0] == f"illegal  activation_symmetric    r_QuantizeLinear: {sentence}"
    assert ran.out.splitlines()[-1] == f"{path}: 1 illegal, 1 slow for tensorrt"
    assert ran.err.splitlines()[0] == f"error: activation_symmetric: `r_QuantizeLinear`: {sentence}"
    assert "hint: quantize the float network for tensorrt" in ran.err
    told = run("lint", path, "--profile", "tensorrt", "--json")
    assert told.code == 2
    assert [(each["severity"], each["rule"]) for each in json.loads(told.out)] == [
        ("illegal", "activation_symmetric"), ("slow", "sum_skip"),
    ]  # fmt: skip


def test_a_backend_lends_its_profile(run: Run, model: Callable[..., str]) -> None:
    assert " slow for onnxruntime_cpu/" in run("lint", model(), "--profile", "onnxruntime_cpu").out


def test_a_profile_that_is_none_is_refused(run: Run, model: Callable[..., str]) -> None:
    path = model()
    ran = run("lint", path, "--profile", "tensorr")
    refused(ran, 2, "unknown profile `tensorr`", "did you mean `tensorrt`?")
    ran = run("lint", path, "--profile", "torch_eager")
    refused(ran, 2, "the backend `torch_eager` runs no integers", "known: litert, tensorrt")


def test_a_file_that_is_no_graph_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    assert run("lint", str(path), "--profile", "tensorrt").code == 2
    path.write_text("no graph", encoding="utf8")
    ran = run("lint", str(path), "--profile", "tensorrt")
    assert (ran.code, ran.out) == (2, "")
    assert "does not parse as ONNX" in ran.err
