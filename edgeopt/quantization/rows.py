"""A weighted node as a product of matrices, on some places of its result only.

What a convolution computes at one place is its weights times one patch of the input. So a layer can be studied on a few
thousand rows, picked over all images at random, instead of on whole images: memory hangs on neither their number nor
their size. Rows have the shape (rows, groups, inputs of a group), weights (groups, outputs of a group, inputs of it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import Tensor
from torch.nn import functional

from edgeopt.errors import PassError
from edgeopt.quantization import windows
from edgeopt.quantization.twin import Twin


@dataclass(frozen=True)
class Layer:
    """One node of a twin that has a constant weight."""

    node: onnx.NodeProto
    attributes: dict[str, Any]
    shape: tuple[int, ...]

    @property
    def groups(self) -> int:
        count: int = self.attributes.get("group", 1)
        return count

    def to_matrix(self, weight: Tensor) -> Tensor:
        """The weight as (groups, outputs of a group, inputs of a group); elements of the weight, each once."""
        if self.node.op_type == "Conv":
            return weight.reshape(self.groups, self.shape[0] // self.groups, -1)
        if self.node.op_type == "ConvTranspose":
            # read backwards, it is the weight of a plain convolution over an input with zeros in between
            blocks = weight.reshape(self.groups, self.shape[0] // self.groups, *self.shape[1:]).transpose(1, 2)
            return blocks.flip(list(range(3, blocks.dim()))).flatten(2)
        return (weight if self.attributes.get("transB", 0) else weight.t())[None]

    def from_matrix(self, matrix: Tensor) -> Tensor:
        """The inverse of `to_matrix`."""
        if self.node.op_type == "Conv":
            return matrix.reshape(self.shape)
        if self.node.op_type == "ConvTranspose":
            blocks = matrix.reshape(self.groups, self.shape[1], self.shape[0] // self.groups, *self.shape[2:])
            return blocks.flip(list(range(3, blocks.dim()))).transpose(1, 2).reshape(self.shape)
        return matrix[0] if self.attributes.get("transB", 0) else matrix[0].t()

    def pick(self, given: Tensor, made: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Of `count` places at random per image: the rows of `given`, the input, and what `made` holds there."""
        if self.node.op_type in ("Gemm", "MatMul"):
            rows, targets = given.reshape(-1, given.shape[-1]), made.reshape(-1, made.shape[-1])
            chosen = torch.randperm(len(rows), generator=generator)[: count * len(given)]
            return rows[chosen][:, None], targets[chosen]
        patches = self._patches(given, made)
        spatial = made.shape[2:]
        shape = (len(given), min(count, spatial.numel()))
        places = [torch.randint(0, size, shape, generator=generator).flatten() for size in spatial]
        image = torch.arange(len(given)).repeat_interleave(shape[1])
        index: tuple[Any, ...] = (image, slice(None), *places)
        return patches[index].reshape(len(image), self.groups, -1), made[index]

    def _patches(self, given: Tensor, made: Tensor) -> Tensor:
        """A view (images, channels, places …, window …) of the padded input."""
        axes = given.dim() - 2
        kernel = list(self.shape[2:])
        strides, dilations = (list(self.attributes.get(name, [1] * axes)) for name in ("strides", "dilations"))
        reaches = [dilation * (size - 1) + 1 for dilation, size in zip(dilations, kernel, strict=True)]
        if self.node.op_type == "ConvTranspose":
            given, strides = self._spread(given, made, strides, reaches), [1] * axes
        else:
            pads = windows.pads_of(self.attributes, given.shape[2:], kernel, strides, dilations)
            given = functional.pad(given, windows.for_torch(pads))
        for axis, (reach, stride) in enumerate(zip(reaches, strides, strict=True)):
            given = given.unfold(axis + 2, reach, stride)
        return given[_every(dilations)]

    def _spread(self, given: Tensor, made: Tensor, strides: list[int], reaches: list[int]) -> Tensor:
        """The input of a transposed convolution with zeros in between and around, so that a plain one does the same."""
        sizes = [(size - 1) * stride + 1 for size, stride in zip(given.shape[2:], strides, strict=True)]
        spread = given.new_zeros(*given.shape[:2], *sizes)
        spread[_every(strides)] = given
        whole = [size + reach - 1 for size, reach in zip(sizes, reaches, strict=True)]
        more = list(self.attributes.get("output_padding", [0] * len(sizes)))
        whole = [size + extra for size, extra in zip(whole, more, strict=True)]
        cuts = windows.transposed_pads(self.attributes, given.shape[2:], whole, strides)
        around = [
            (reach - 1 - before, reach - 1 - after + extra)
            for reach, extra, (before, after) in zip(reaches, more, cuts, strict=True)
        ]
        return functional.pad(spread, windows.for_torch(around))


def _every(steps: list[int]) -> tuple[Any, ...]:
    """The index of each n-th element along the last axes."""
    return (..., *(slice(None, None, step) for step in steps))


def make_layer(twin: Twin, name: str) -> Layer:
    """The layer of a weighted node.

    Raises:
        PassError: it is no operator with a weight.
    """
    node = twin.nodes[name]
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        raise PassError(f"{node.op_type} `{name}` has no weight to round")
    return Layer(node, twin.attributes[name], tuple(twin.tensor(node.input[1]).shape))


def apply_rows(rows: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """What the layer makes of rows: (rows, outputs)."""
    result = torch.einsum("rgi,goi->rgo", rows, matrix).flatten(1)
    return result if bias is None else result + bias.reshape(-1)
