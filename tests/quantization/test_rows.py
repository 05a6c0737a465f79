"""A layer on some places of its result gives what the whole layer has there, for every kind of layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from edgeopt.errors import PassError
from edgeopt.quantization.rows import apply_rows, make_layer
from edgeopt.quantization.twin import Twin

Make = Callable[..., Any]

LAYERS = [
    ("Conv (x, w, b)", (5, 4, 3, 3), 5),
    ("Conv <pads = [1, 0, 2, 1], strides = [2, 1]> (x, w, b)", (5, 4, 3, 2), 5),
    ("Conv <auto_pad = 'SAME_UPPER', strides = [2, 2]> (x, w)", (5, 4, 3, 3), 5),
    ("Conv <group = 2, dilations = [2, 1], pads = [2, 0, 2, 0]> (x, w, b)", (6, 2, 3, 3), 6),
    ("Conv <group = 4> (x, w, b)", (4, 1, 3, 3), 4),
    ("ConvTranspose <strides = [2, 3]> (x, w, b)", (4, 5, 2, 3), 5),
    ("ConvTranspose <strides = [2, 2], pads = [1, 0, 1, 1], output_padding = [1, 0]> (x, w, b)", (4, 5, 3, 3), 5),
    ("ConvTranspose <group = 2, dilations = [1, 2], strides = [1, 2]> (x, w, b)", (4, 3, 3, 2), 6),
    ("ConvTranspose <auto_pad = 'SAME_UPPER', strides = [2, 2]> (x, w, b)", (4, 5, 3, 3), 5),
]


def check(make_graph: Make, weights: Make, body: str, shape: str, weight: tuple[int, ...], outputs: int) -> None:
    text = body.replace("'", '"')
    arrays = {"w": weights(*weight), **({"b": weights(outputs)} if "b)" in body else {})}
    twin = Twin(make_graph(f"y = {text}", f"N,{shape}", **arrays)).requires_grad_(False)
    layer, generator = make_layer(twin, "y"), torch.Generator().manual_seed(0)
    given = torch.randn(3, *map(int, shape.split(",")), generator=generator)
    made = twin({"x": given})["y"]
    rows, targets = layer.pick(given, made, 10, generator)
    matrix = layer.to_matrix(twin.tensor("w"))
    found = apply_rows(rows, matrix, twin.tensor("b") if "b" in arrays else None)
    assert len(rows) >= 3
    torch.testing.assert_close(found, targets, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.from_matrix(matrix), twin.tensor("w"))


@pytest.mark.parametrize(("body", "weight", "outputs"), LAYERS)
def test_rows_of_a_convolution_give_its_result(
    make_graph: Make, weights: Make, body: str, weight: tuple[int, ...], outputs: int
) -> None:
    check(make_graph, weights, body, "4,7,6", weight, outputs)


@pytest.mark.parametrize(
    ("body", "shape", "weight"),
    [("Gemm (x, w, b)", "4", (4, 5)), ("Gemm <transB = 1> (x, w, b)", "4", (5, 4)), ("MatMul (x, w)", "6,4", (4, 5))],
)
def test_rows_of_a_matrix_product_give_its_result(
    make_graph: Make, weights: Make, body: str, shape: str, weight: tuple[int, ...]
) -> None:
    check(make_graph, weights, body, shape, weight, 5)


def test_what_has_no_weight_is_refused(make_graph: Make) -> None:
    with pytest.raises(PassError, match="Relu `y` has no weight"):
        make_layer(Twin(make_graph("y = Relu (x)")), "y")
