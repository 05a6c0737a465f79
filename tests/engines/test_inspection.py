"""Layers as inspectors of several versions tell them, held against what a graph asks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgeopt.engines.inspection import Layer, Precisions, read_layers
from edgeopt.engines.plan import Precision
from edgeopt.errors import BackendError

INT8, HALF, FLOAT = "Thirty-two wide channel vectorized row major Int8 format", "Row major FP16 format", "Float"


def told(name: str, kind: str, *inputs: str, metadata: str = "") -> dict[str, Any]:
    tensors = [{"Name": f"t{index}", "Dimensions": [1], "Format/Datatype": one} for index, one in enumerate(inputs)]
    return {"Name": name, "LayerType": kind, "Inputs": tensors, "Outputs": [], "Metadata": metadata}


def layers(*found: dict[str, Any]) -> tuple[Layer, ...]:
    return read_layers(json.dumps({"Layers": list(found), "Bindings": []}))


def facts(asked: dict[str, Precision], *found: dict[str, Any]) -> dict[str, str | int]:
    return Precisions(asked, layers(*found)).facts()


def test_copies_around_a_layer_are_named_after_it_and_tell_nothing_of_it() -> None:
    found = facts(
        {"conv": "int8", "other": "int8"},
        told("Reformatting CopyNode for Input Tensor 0 to w + conv", "Reformat", FLOAT, metadata="[ONNX Layer: conv]"),
        told("w + conv", "CaskConvolution", INT8),
        told("other output copy", "NoOp", FLOAT, metadata="[ONNX Layer: other]"),
        told("other", "CaskConvolution", INT8),
    )
    assert found == {"precision": "2 in int8", "layers": 4}


def test_a_layer_that_only_prepares_a_node_counts_not_where_another_multiplies() -> None:
    prepares = told("__myl_MoveConc", "kgen", FLOAT, metadata="[ONNX Layer: dense]")
    multiplies = told("dense_myl3", "gemm", INT8, metadata="[ONNX Layer: dense]\x1e[ONNX Layer: relu]")
    assert "note" not in facts({"dense": "int8"}, prepares, multiplies)
    found = facts({"dense": "int8"}, prepares)
    assert found["above"] == 1
    assert "`__myl_MoveConc`" in str(found["note"])


def test_convolutions_that_were_joined_side_by_side_are_all_found() -> None:
    found = facts({"left": "int8", "right": "int8"}, told("left || right", "CaskConvolution", HALF))
    assert (
        found["note"]
        == "this is no int8 engine: 1 of 1 layers with weights run in more bits than asked: `left || right`"
    )


def test_what_stands_behind_one_name_is_of_no_known_precision() -> None:
    found = facts({"first": "int8", "last": "int8"}, told("{ForeignNode[first...last]}", "DLA", FLOAT))
    assert found["precision"] == "1 in unknown"
    assert "does not tell in what precision 1 of 1" in str(found["note"])


def test_a_node_that_no_layer_names_is_told() -> None:
    found = facts({"conv": "int8", "gone": "int8"}, told("conv", "CaskConvolution", INT8))
    assert "no layer that computes `gone`" in str(found["note"])


def test_fewer_bits_than_asked_are_fine_and_each_version_words_them_otherwise() -> None:
    eleven = {"Name": "conv", "LayerType": "CaskConvolution", "Inputs": [{"Datatype": "Half", "Format": "Linear"}]}
    assert facts({"conv": "float32"}, eleven) == {"precision": "1 in float16", "layers": 1}


@pytest.mark.parametrize("text", ["", "[]", '{"Layers": ["conv"]}', '{"Layers": []}', '{"Layers": [{"Inputs": []}]}'])
def test_what_cannot_be_read_is_no_engine_that_was_inspected(text: str) -> None:
    with pytest.raises(BackendError):
        read_layers(text)
