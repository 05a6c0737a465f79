"""Operators that move, cut, join and resample values, in torch as ONNX defines them.

Sizes and axes come as attributes in older opsets and as tensors in newer ones; both are taken. The definitions are
those of https://onnx.ai/onnx/operators. `operators` puts these functions into its table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Attributes = Mapping[str, Any]


def integers(attributes: Attributes, name: str, tensor: Tensor | None) -> list[int] | None:
    """What the tensor or else the attribute says, or None where neither is there."""
    if tensor is not None:
        return [int(each) for each in tensor.reshape(-1).tolist()]
    return list(attributes[name]) if name in attributes else None


def split(attributes: Attributes, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    """Split: into parts of the given sizes, or equal ones of which the last may be smaller."""
    axis, given = attributes.get("axis", 0), integers(attributes, "split", sizes)
    return torch.split(x, math.ceil(x.shape[axis] / attributes["num_outputs"]) if given is None else given, axis)


def cut(
    attributes: Attributes,
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    """Slice; a negative step reads backwards."""
    first, last = (integers({}, "", each) or [] for each in (starts, ends))
    along = integers({}, "", axes) or range(len(first))
    strides = integers({}, "", steps) or [1] * len(first)
    for axis, start, end, step in zip(along, first, last, strides, strict=True):
        rows = range(*slice(start, _end(end, x.shape[axis], step), step).indices(x.shape[axis]))
        if step > 0:
            x = x.movedim(axis, 0)[rows.start : rows.stop : step].movedim(0, axis)
        else:
            x = x.index_select(axis, torch.tensor(list(rows), dtype=torch.int64))
    return x


def _end(end: int, size: int, step: int) -> int | None:
    """The end of a slice; one far before the first element, which only a backward slice has, is no end."""
    return None if step < 0 and end < -size else end


def reshape(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    """Reshape: a 0 keeps the size of that axis, unless `allowzero` says that it means 0."""
    wanted = integers({}, "", shape) or []
    if not attributes.get("allowzero", 0):
        wanted = [x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return x.reshape(wanted)


def flatten(attributes: Attributes, x: Tensor) -> Tensor:
    axis = attributes.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1)


def transpose(attributes: Attributes, x: Tensor) -> Tensor:
    return x.permute(attributes.get("perm", list(range(x.dim()))[::-1]))


def squeeze(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = integers(attributes, "axes", axes)
    return x.squeeze() if given is None else x.squeeze(given)


def unsqueeze(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Unsqueeze: axes are counted in the result."""
    given = integers(attributes, "axes", axes) or []
    rank = x.dim() + len(given)
    for axis in sorted(each % rank for each in given):
        x = x.unsqueeze(axis)
    return x


def pad(
    attributes: Attributes, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    """Pad with a constant, or with what the axis itself holds; negative amounts cut."""
    amounts = integers({}, "", pads) or []
    along = integers({}, "", axes) or list(range(x.dim()))
    mode = attributes.get("mode", b"constant").decode()
    both = [(amounts[index], amounts[index + len(along)]) for index in range(len(along))]
    if mode == "constant":
        per_axis = dict(zip((axis % x.dim() for axis in along), both, strict=True))
        order = [amount for axis in reversed(range(x.dim())) for amount in per_axis.get(axis, (0, 0))]
        return functional.pad(x, order, value=0.0 if value is None else value.item())
    for axis, (before, after) in zip(along, both, strict=True):
        x = x.index_select(axis, _padded_rows(mode, x.shape[axis], before, after))
    return x


def _padded_rows(mode: str, size: int, before: int, after: int) -> Tensor:
    rows = torch.arange(-before, size + after)
    if mode == "edge":
        return rows.clamp(0, size - 1)
    if mode == "wrap":
        return rows % size
    if size == 1:
        return torch.zeros_like(rows)
    turned = rows % (2 * size - 2)
    return torch.where(turned < size, turned, 2 * size - 2 - turned)


def resize(
    attributes: Attributes,
    x: Tensor,
    region: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    """Resize: nearest or linear, one axis after the other."""
    kept = {"antialias": 0, "keep_aspect_ratio_policy": b"stretch"}
    for name, value in kept.items():
        if attributes.get(name, value) != value:
            raise NotImplementedError(f"`{name}` is set")
    axes = list(attributes.get("axes", range(x.dim())))
    wanted = None if sizes is None else sizes.tolist()
    factors = None if wanted is not None or scales is None else scales.tolist()
    for index, axis in enumerate(axes):
        size = x.shape[axis]
        count = int(wanted[index]) if wanted is not None else math.floor(size * (factors or [])[index])
        factor = count / size if factors is None else factors[index]
        if (count, factor) != (size, 1.0):
            x = _resample(attributes, x, axis, count, factor)
    return x


def _resample(attributes: Attributes, x: Tensor, axis: int, count: int, factor: float) -> Tensor:
    """`count` values along an axis, from the two beside each place or from the nearest."""
    size, mode = x.shape[axis], attributes.get("mode", b"nearest").decode()
    places = _places(attributes, size, count, factor)
    if mode == "nearest":
        rows = _round(attributes.get("nearest_mode", b"round_prefer_floor").decode(), places)
        return x.index_select(axis, rows.long().clamp(0, size - 1))
    if mode != "linear":
        raise NotImplementedError(f"its mode is `{mode}`")
    places = places.clamp(0, size - 1)
    below = places.floor()
    shape = [-1 if each == axis % x.dim() else 1 for each in range(x.dim())]
    share = (places - below).to(x.dtype).reshape(shape)
    above = (below.long() + 1).clamp(max=size - 1)
    return x.index_select(axis, below.long()) * (1 - share) + x.index_select(axis, above) * share


def _places(attributes: Attributes, size: int, count: int, factor: float) -> Tensor:
    """Where along the input each element of the result lies."""
    mode = attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
    rows = torch.arange(count, dtype=torch.float64)
    if mode == "asymmetric":
        return rows / factor
    if mode == "align_corners":
        return rows * (size - 1) / max(1, count - 1)
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and count > 1):
        return (rows + 0.5) / factor - 0.5
    if mode == "pytorch_half_pixel":
        return torch.zeros_like(rows)
    raise NotImplementedError(f"its `coordinate_transformation_mode` is `{mode}`")


def _round(mode: str, places: Tensor) -> Tensor:
    """To the nearest row; `places` that come out of a division may lie a hair beside a whole or a half."""
    near = (places * 2).round() / 2
    places = torch.where((places - near).abs() < 1e-6, near, places)
    if mode == "floor":
        return places.floor()
    if mode == "ceil":
        return places.ceil()
    return (places - 0.5).ceil() if mode == "round_prefer_floor" else (places + 0.5).floor()


def depth_to_space(attributes: Attributes, x: Tensor) -> Tensor:
    """DepthToSpace, in either order of the channels."""
    count, channels, height, width = x.shape
    block = attributes["blocksize"]
    inner = channels // block**2
    if attributes.get("mode", b"DCR") == b"CRD":
        moved = x.reshape(count, inner, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
    else:
        moved = x.reshape(count, block, block, inner, height, width).permute(0, 3, 4, 1, 5, 2)
    return moved.reshape(count, inner, height * block, width * block)


def space_to_depth(attributes: Attributes, x: Tensor) -> Tensor:
    count, channels, height, width = x.shape
    block = attributes["blocksize"]
    split_up = x.reshape(count, channels, height // block, block, width // block, block).permute(0, 3, 5, 1, 2, 4)
    return split_up.reshape(count, channels * block**2, height // block, width // block)


def shape_of(attributes: Attributes, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[attributes.get("start", 0) : attributes.get("end")], dtype=torch.int64)


def gather(attributes: Attributes, x: Tensor, rows: Tensor) -> Tensor:
    """Gather: negative rows count from the end."""
    axis = attributes.get("axis", 0) % x.dim()
    chosen = x.index_select(axis, rows.reshape(-1).long() % x.shape[axis])
    return chosen.reshape([*x.shape[:axis], *rows.shape, *x.shape[axis + 1 :]])


def expand(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    """Expand: a 1 in the shape keeps what the input has there."""
    wanted = [int(size) for size in shape.tolist()]
    own = [1] * (len(wanted) - x.dim()) + list(x.shape)
    wanted = [1] * (len(own) - len(wanted)) + wanted
    return x.expand([have if want == 1 else want for have, want in zip(own, wanted, strict=True)])
