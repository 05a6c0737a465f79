"""Channels of one module that stay, along one axis: what structured pruning leaves."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from edgeopt.errors import SourceError
from edgeopt.model import Edit

#: what `keep_channels` can change, and the attributes in which these modules count their channels
SLICEABLE = (_ConvNd, nn.Linear, _BatchNorm, _InstanceNorm, nn.PReLU)
CHANNEL_COUNTS = {
    "out": ("out_channels", "out_features", "num_features", "num_parameters"),
    "in": ("in_channels", "in_features"),
}


def is_depthwise(module: nn.Module) -> bool:
    """Whether the module is a convolution in which each channel sees only itself."""
    return isinstance(module, _ConvNd) and 1 < module.groups == module.in_channels == module.out_channels


def view_channels(module: nn.Module, axis: str, tensor: torch.Tensor) -> torch.Tensor | None:
    """A view of one of a module's tensors with its channels along `axis` (`out` or `in`) first.

    The shape is (groups, channels per group, …): channel c is at [c // n, c % n]. None where the tensor has no such
    axis, as a bias has no input channels. A depthwise convolution has one axis, `out`, for what goes in and out.
    """
    if tensor.dim() < 2 and (tensor.dim() == 0 or axis == "in"):
        return None
    groups: int = getattr(module, "groups", 1)
    blocks = tensor.view(groups, tensor.shape[0] // groups, *tensor.shape[1:])
    return blocks.transpose(1, 2) if _is_inner_axis(module, axis, tensor) else blocks


def _is_inner_axis(module: nn.Module, axis: str, tensor: torch.Tensor) -> bool:
    inner = "out" if getattr(module, "transposed", False) else "in"
    return tensor.dim() > 1 and axis == inner and not is_depthwise(module)


def apply(module: nn.Module, edit: Edit) -> None:
    """Keep the listed channels along one axis: increasing, and as many from each group of a grouped convolution."""
    axis, kept = edit.arguments["axis"], edit.arguments["channels"]
    counts = [name for name in CHANNEL_COUNTS[axis] if hasattr(module, name)]
    if not isinstance(module, SLICEABLE) or not counts:
        raise SourceError(f"cannot keep `{axis}` channels of `{edit.module}`, a {type(module).__name__}")
    _check_kept(module, edit, getattr(module, counts[0]))
    sliced = {name: _slice(module, axis, tensor, kept) for name, tensor in _own_tensors(module)}
    if is_depthwise(module):
        counts = ["groups", "in_channels", "out_channels"]
    for name, tensor in sliced.items():
        old = getattr(module, name)
        setattr(module, name, nn.Parameter(tensor, old.requires_grad) if isinstance(old, nn.Parameter) else tensor)
    for name in counts:
        setattr(module, name, len(kept))


def _own_tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def _check_kept(module: nn.Module, edit: Edit, channels: int) -> None:
    kept, groups = edit.arguments["channels"], getattr(module, "groups", 1)
    if not kept or kept != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= channels:
        raise SourceError(f"`{edit.module}` has channels 0 to {channels - 1}, these cannot be kept: {kept}")
    per_group = Counter(channel // (channels // groups) for channel in kept)
    if not is_depthwise(module) and (len(per_group) != groups or len(set(per_group.values())) != 1):
        raise SourceError(f"`{edit.module}` cannot keep unequal numbers of channels in its {groups} groups")


def _slice(module: nn.Module, axis: str, tensor: torch.Tensor, kept: list[int]) -> torch.Tensor:
    view = view_channels(module, axis, tensor.detach())
    if view is None:
        return tensor.detach()
    index = torch.tensor(kept).view(len(kept) if is_depthwise(module) else view.shape[0], -1)
    chosen = view[index // view.shape[1], index % view.shape[1]]
    chosen = chosen.transpose(1, 2) if _is_inner_axis(module, axis, tensor) else chosen
    return chosen.flatten(0, 1).contiguous()
