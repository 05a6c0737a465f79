"""Activations of a network: which are modules that another one can stand in for, and which are calls that none can.

A smooth activation is several operations where a runtime knows no kernel for it, and a table or a return to floats
where it computes in integers; a Relu costs nothing behind a convolution. What a gate multiplies with must stay between
its bounds, so it gets the piecewise-linear twin of its own (Howard et al. 2019).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgeopt.model import Edit
from edgeopt.network import name_outputs

#: activations with bounds → what stands in for them, whatever stands in for others
GATES = {"Sigmoid": "Hardsigmoid", "Tanh": "Hardtanh"}

#: activations that cost something → the function that computes the same
FUNCTIONS = {
    "Hardswish": "hardswish", "SiLU": "silu", "GELU": "gelu", "ELU": "elu", "Mish": "mish", "SELU": "selu",
    "CELU": "celu", "Softplus": "softplus", "Sigmoid": "sigmoid", "Tanh": "tanh",
}  # fmt: skip


class Calls(TorchFunctionMode):
    """Notes which activations are called as functions, and in which modules; calls of the modules' own do not count."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self.found = Counter[tuple[str, str]]()
        self.inside = list[tuple[str, bool]]()
        self._functions = {FUNCTIONS[name] for name in names}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "").rstrip("_")
        owner, is_activation = self.inside[-1] if self.inside else ("", False)
        if name in self._functions and not is_activation:
            self.found[name, owner] += 1
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Replacing:
    """What is replaced: the edits, how many modules of each kind, and what is left, each with its reason."""

    edits: tuple[Edit, ...]
    counts: dict[str, int]
    left: tuple[str, ...]


def find_replacements(network: nn.Module, inputs: Sequence[Tensor], which: Collection[str], to: str) -> Replacing:
    """All activation modules of the kinds `which`, but for those whose results the network returns.

    Args:
        inputs: to run it once, which shows what is called as a function and cannot be replaced.
        to: what stands in for those that have no bounds.
    """
    calls, returned = _watch(network, inputs, [name for name in which if name != to])
    edits, counts, left = list[Edit](), Counter[str](), [f"{call}: called as a function" for call in calls]
    for name, module in network.named_modules(remove_duplicate=False):
        kind, (owner, _, child) = type(module).__name__, name.rpartition(".")
        put = GATES.get(kind, to)
        if not _is_known(module) or kind not in which or kind == put:
            continue
        if id(module) in returned or not child:
            left.append(f"{kind} `{name}`: it makes an output")
            continue
        edits.append(Edit(kind="replace_module", module=owner, arguments={"child": child, "kind": put}))
        counts[f"{kind} → {put}"] += 1
    return Replacing(tuple(edits), dict(counts), tuple(left))


def _watch(network: nn.Module, inputs: Sequence[Tensor], which: Collection[str]) -> tuple[list[str], set[int]]:
    """What a forward pass calls as a function, in words, and the ids of modules whose results it returns."""
    calls, made = Calls(which), list[tuple[Any, int]]()

    def enter(name: str, module: nn.Module) -> Callable[..., None]:
        return lambda *_: calls.inside.append((name, _is_known(module)))

    def leave(module: nn.Module, _given: Any, result: Any) -> None:
        calls.inside.pop()
        made.append((result, id(module)))  # kept alive, so that no other one gets its memory

    with ExitStack() as hooks, torch.no_grad():
        for name, module in network.named_modules():
            hooks.enter_context(module.register_forward_pre_hook(enter(name, module)))
            hooks.enter_context(module.register_forward_hook(leave))
        with calls:
            outputs = name_outputs(network.eval()(*inputs))
    held = {_memory_of(tensor) for tensor in outputs.values()}  # also of a view, or where the module works in place
    returned = {module for result, module in made if isinstance(result, Tensor) and _memory_of(result) in held}
    return [f"{name} in `{owner or 'the network'}`" for name, owner in calls.found], returned


def _is_known(module: nn.Module) -> bool:
    """Whether it is an activation of torch's own, and not one that somebody gave the same name."""
    kind = type(module).__name__
    return kind in FUNCTIONS and type(module) is getattr(nn, kind)


def _memory_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
