"""The order of channels in which two of each four weights carry most.

Pool and Yu, "Channel Permutations for N:M Sparsity", NeurIPS 2021: which weights are neighbours is free, since the
channels that a layer reads may be numbered anew if all that makes them, and all else that reads them, is. Two stretches
of four are taken at a time, and their eight channels dealt out anew in the best of 35 ways, until no two gain anything.
Nothing of the network's structure changes, so there is no edit: the same numbers stand in another order, and that the
outputs are the same is seen by running both.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from edgeopt.edits.keep_channels import is_depthwise, view_channels
from edgeopt.network import name_outputs
from edgeopt.pruning.groups import Group, Member
from edgeopt.sparsity.two_four import OF, kept_magnitude

#: weights that an order is sought on, and at least and at most of each channel: more take long, and change it little
SOUGHT, FEWEST, MOST = 1 << 15, 32, 256
#: all pairs are gone through so often, but not again after one that has gained less than this share
SWEEPS, WORTH = 4, 1e-3

#: largest difference of the outputs in another order, as a share of the largest: sums are rounded otherwise
TOLERANCE = 1e-4

#: all ways to choose four of eight that have the first among them, and the four that are left
HALVES = [(0, *rest) for rest in itertools.combinations(range(1, 2 * OF), OF - 1)]
SPLITS = torch.tensor([[*half, *(each for each in range(2 * OF) if each not in half)] for half in HALVES])


def permute_groups(
    network: nn.Module, groups: Sequence[Group], sparse: Sequence[str], inputs: Sequence[torch.Tensor]
) -> int:
    """Number the channels of groups anew, in place, where that lets the layers `sparse` keep more; returns how many.

    A group whose new order changes what the network computes is left as it is.
    """
    expected, permuted = _run(network, inputs), 0
    for group in groups:
        readers = [member for member in group.members if _reads_in_order(network, member, sparse)]
        if not readers or not _is_free(network, group):
            continue
        order = find_order(torch.cat([_columns(network, member) for member in readers], 1))
        if order is None:
            continue
        before = copy.deepcopy(network.state_dict())
        for member in group.members:
            _reorder(network.get_submodule(member.module), member, order)
        if all(_close(*pair) for pair in zip(_run(network, inputs), expected, strict=True)):
            permuted += 1
        else:
            network.load_state_dict(before)
    return permuted


def find_order(columns: torch.Tensor) -> list[int] | None:
    """The order of channels that keeps more magnitude, or None where none was found.

    Args:
        columns: (channels, rows) magnitudes of the weights that read each channel; channels are a multiple of four.
    """
    count = len(columns) // OF
    if count < 2:
        return None
    rows = min(max(SOUGHT // len(columns), FEWEST), MOST)
    step = max(1, -(-columns.shape[1] // rows))
    some = columns[:, ::step]
    order = torch.arange(len(columns)).view(count, OF)
    for _ in range(SWEEPS):
        before = _kept(some, order)
        for pairs in _rounds(count):
            _deal(some, order, torch.tensor(pairs))
        if _kept(some, order) < before * (1 + WORTH):
            break
    gained = _kept(columns, order) > _kept(columns, torch.arange(len(columns)).view(count, OF)) * (1 + 1e-6)
    return [int(channel) for channel in order.flatten()] if gained else None


def _kept(columns: torch.Tensor, order: torch.Tensor) -> float:
    """What two of four keep with the channels in stretches so."""
    return float(kept_magnitude(columns[order]).double().sum())


def _deal(columns: torch.Tensor, order: torch.Tensor, pairs: torch.Tensor) -> None:
    """Deal out the channels of each pair of stretches anew, in place."""
    eights = order[pairs].flatten(1)
    candidates = eights[:, SPLITS]
    magnitudes = columns[eights][:, SPLITS].view(len(pairs), len(SPLITS), 2, OF, -1)
    kept = kept_magnitude(magnitudes).sum(-1)
    best = kept.argmax(1)
    rows = torch.arange(len(pairs))
    better = kept[rows, best] > kept[:, 0] * (1 + 1e-6)  # the first way is how they stand
    order[pairs[better]] = candidates[rows, best][better].view(-1, 2, OF)


def _rounds(count: int) -> Iterator[list[tuple[int, int]]]:
    """Each pair of `count` things once, in rounds in which none is in two pairs (the circle method)."""
    circle = list(range(count + count % 2))
    for _ in range(len(circle) - 1):
        half = len(circle) // 2
        pairs = zip(circle[:half], reversed(circle[half:]), strict=True)
        yield [(min(pair), max(pair)) for pair in pairs if max(pair) < count]
        circle = [circle[0], circle[-1], *circle[1:-1]]


def _reads_in_order(network: nn.Module, member: Member, sparse: Sequence[str]) -> bool:
    """Whether a member is what a sparse layer reads, one channel for each of the group's, beginning at a stretch."""
    first = member.channels[0][0]
    in_order = all(channels == (first + number,) for number, channels in enumerate(member.channels))
    layer = network.get_submodule(member.module)
    ungrouped = getattr(layer, "groups", 1) == 1
    return member.module in sparse and member.axis == "in" and in_order and ungrouped and first % OF == 0


def _is_free(network: nn.Module, group: Group) -> bool:
    """Whether any order of its channels is one of the network's: no convolution in groups ties them to a place."""
    modules = [network.get_submodule(member.module) for member in group.members]
    tied = any(getattr(module, "groups", 1) > 1 and not is_depthwise(module) for module in modules)
    return not group.obstacle and not tied and group.size % OF == 0


def _columns(network: nn.Module, member: Member) -> torch.Tensor:
    """(channels, rows) magnitudes of the weights of a layer that read each channel."""
    weight = network.get_submodule(member.module).get_parameter("weight").detach().abs()
    chosen = [channels[0] for channels in member.channels]
    return weight[:, chosen].transpose(0, 1).flatten(1)


@torch.no_grad()
def _reorder(module: nn.Module, member: Member, order: Sequence[int]) -> None:
    """Let channel i of the group be the one that was `order[i]`, in all tensors of a module along the member's axis."""
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        view = view_channels(module, member.axis, tensor)
        if view is None:
            continue
        width = view.shape[1]
        source = torch.arange(view.shape[0] * width)
        for channels, taken in zip(member.channels, order, strict=True):
            source[list(channels)] = torch.tensor(member.channels[taken])
        view.copy_(view[source // width, source % width].view_as(view).clone())


@torch.inference_mode()
def _run(network: nn.Module, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return list(name_outputs(network(*inputs)).values())


def _close(output: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((output - expected).abs().max() <= TOLERANCE * expected.abs().max())
