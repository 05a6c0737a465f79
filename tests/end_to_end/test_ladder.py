"""The ladder in a whole run: what a layer in float costs is timed on the target, and the report shows the curve."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.end_to_end.conftest import Job, draw_images, scores_of, write_split


@pytest.fixture
def spoiled(job: Job) -> Job:
    """A job whose second convolution has one weight that a scale for all of them cannot hold beside the others."""
    graph = onnx.load(job.folder / "model.onnx")
    tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
    weight = numpy_helper.to_array(tensors["w2"]).copy()
    weight[0, 0, 1, 1] = 400.0
    tensors["w2"].CopyFrom(numpy_helper.from_array(weight, "w2"))
    (relu,) = (node for node in graph.graph.node if node.output[0] == "r2")
    relu.CopyFrom(helper.make_node("Clip", ["c2", "low", "high"], ["r2"]))
    for name, bound in (("low", 0.0), ("high", 6.0)):
        graph.graph.initializer.append(numpy_helper.from_array(np.asarray(bound, np.float32), name))
    _save_balanced(graph, job.folder / "model.onnx")
    write_split(job.folder, "validation", 600, 1)
    write_split(job.folder, "calibration", 600, 2)
    job.edit("{path: calibration.npz}", "{path: calibration.npz, samples: 100}")
    job.edit("max_drop_pp: 5.0", "max_drop_pp: 1.0")
    job.edit("quantize_int8: {}", "quantize_int8: {effort: auto, per_channel: false}")
    return job


def _save_balanced(graph: onnx.ModelProto, path: Path) -> None:
    """Save it with a last bias with which it sees all four classes."""
    onnx.save(graph, path)
    (bias,) = (tensor for tensor in graph.graph.initializer if tensor.name == "b3")
    shift = numpy_helper.to_array(bias) - np.median(scores_of(path, draw_images(256, 0)), axis=0)
    bias.CopyFrom(numpy_helper.from_array(shift.astype(np.float32), "b3"))
    onnx.save(graph, path)


def test_the_layer_to_blame_stays_in_float_and_the_report_shows_what_that_costs(spoiled: Job) -> None:
    ran = spoiled.compile()
    assert ran.code == 0, ran.out + ran.err
    steps = json.loads((spoiled.out / "report.json").read_text())["steps"]
    (facts,) = (step["facts"] for step in steps if step["name"] == "quantize_int8")
    assert facts["convolutions"] == "1 of 2"
    assert facts["left_in_float"].startswith("Conv `Conv_2`")
    curve = {name: text for name, text in facts.items() if name.endswith(" in float") and name[0].isdigit()}
    assert list(curve) == ["0 in float", "1 in float"]
    assert re.fullmatch(r"[\d.]+ % at 1\.000× the time", curve["0 in float"])
    assert re.fullmatch(r"100\.00 % at [\d.]+× the time", curve["1 in float"])
    assert re.fullmatch(r"-[\d.]+ % noise, -[\d.]+ % loss, [+-][\d.]+ % time", facts["`Conv_2` in float"])
