"""What a teacher looks at, taught beside what it answers: where in an image its layers are active.

A pruned student has other channels than its teacher, but the same places in the image. So maps of activity are
compared, which have no channels and need no layer between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from edgeopt.errors import PassError, did_you_mean
from edgeopt.training.losses import DistillationLoss

HINT = "name modules in `features`, or set `distill_features: 0`"


class AttentionLoss:
    """Distillation, and `weight` times how far the student's maps of activity are from the teacher's.

    A map is the mean of squares over channels, brought to length 1; two are as far apart as the square of the length
    of their difference. After Zagoruyko and Komodakis, "Paying More Attention to Attention: Improving the Performance
    of Convolutional Neural Networks via Attention Transfer", 2017.

    It hooks into both networks, and goes by what they gave in their last runs.
    """

    def __init__(self, answers: DistillationLoss, student: nn.Module, names: Sequence[str], weight: float) -> None:
        self.answers, self.weight = answers, weight
        self._student, self._teacher = (_watch(network, names) for network in (student, answers.teacher))

    def __call__(
        self, inputs: Sequence[torch.Tensor], labels: torch.Tensor | None, logits: torch.Tensor
    ) -> torch.Tensor:
        loss = self.answers(inputs, labels, logits)
        apart = [_attention(self._student[name]) - _attention(each) for name, each in self._teacher.items()]
        return loss + self.weight * torch.stack([each.square().sum(1).mean() for each in apart]).sum()


def find_features(
    student: nn.Module, teacher: nn.Module, inputs: Sequence[torch.Tensor], listed: Sequence[str] = ()
) -> tuple[str, ...]:
    """The modules to compare: the last one of each resolution, or those that are listed.

    Both networks are run as they stand, and must have a module of the name that gives maps of the same size.

    Raises:
        PassError: there is none, or one that is listed does not do.
    """
    sizes, wanted = _find_maps(student, inputs), _find_maps(teacher, inputs)
    common = {name: size for name, size in sizes.items() if wanted.get(name) == size}
    for name in listed:
        if name not in common:
            what = f"`{name}` gives no maps of one size, once a run, in the network and in the original"
            raise PassError(what, did_you_mean(name, common) or HINT)
    ends = {size: name for name, size in common.items() if size != (1, 1)}
    if not listed and not ends:
        raise PassError("the network and the original have no modules of one name with maps of one size", HINT)
    return tuple(listed) or tuple(ends.values())


def _find_maps(network: nn.Module, inputs: Sequence[torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """The modules that give one tensor (N, C, H, W) in a run, in the order in which they end: name → (H, W)."""
    sizes: dict[str, tuple[int, ...]] = {}
    again = set[str]()

    def note(name: str, result: Any) -> None:
        if name in sizes:
            again.add(name)
        if isinstance(result, torch.Tensor) and result.dim() == 4:
            sizes[name] = tuple(result.shape[2:])

    hooks = [_hook(module, name, note) for name, module in network.named_modules() if name]
    try:
        with torch.no_grad():
            network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: size for name, size in sizes.items() if name not in again}


def _watch(network: nn.Module, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """What the named modules give, always that of the last run."""
    found: dict[str, torch.Tensor] = {}
    for name in names:
        _hook(network.get_submodule(name), name, found.__setitem__)
    return found


def _hook(module: nn.Module, name: str, note: Callable[[str, Any], None]) -> torch.utils.hooks.RemovableHandle:
    return module.register_forward_hook(lambda _, __, result: note(name, result))


def _attention(maps: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) → (N, H·W) of length 1."""
    return functional.normalize(maps.float().square().mean(1).flatten(1), dim=1)
