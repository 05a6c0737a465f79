"""Layers that a trace does not come to, and why: no layer goes missing without a word.

Groups are traced by gradients, from the outputs back. What the outputs do not hang on, what is computed without
gradients, and what lends its weights to others instead of being called has no place in such a trace.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from edgeopt.network import name_outputs

#: modules that make channels, and the attributes in which those that pruning cannot narrow count them
MAKERS = (_ConvNd, nn.Linear, nn.Embedding, nn.MultiheadAttention, nn.RNNBase)
WIDTHS = ("out_channels", "out_features", "embedding_dim", "embed_dim", "hidden_size")


def find_unseen(network: nn.Module, inputs: Sequence[torch.Tensor], seen: Collection[str]) -> dict[str, str]:
    """Each module that makes channels and is not among those `seen`, with the reason why it is not.

    Args:
        network: in evaluation mode, its parameters with gradients.
    """
    modules = {name: module for name, module in network.named_modules() if name not in seen}
    unseen = {name: module for name, module in modules.items() if isinstance(module, MAKERS)}
    if not unseen:
        return {}
    ran = set[nn.Module]()
    with ExitStack() as hooks, torch.enable_grad():
        for module in unseen.values():
            hooks.enter_context(module.register_forward_hook(lambda module, _inputs, _result: ran.add(module)))
        outputs = [output for output in name_outputs(network(*inputs)).values() if output.requires_grad]
    used = set(_find_used(unseen, outputs))
    return {name: _explain(module, module in ran, name in used) for name, module in unseen.items()}


def count_made(module: nn.Module) -> int:
    """How many channels such a module makes."""
    return next(int(getattr(module, name)) for name in WIDTHS if hasattr(module, name))


def _find_used(modules: Mapping[str, nn.Module], outputs: Sequence[torch.Tensor]) -> Iterator[str]:
    """The names of those with a parameter that the outputs hang on."""
    owned = [(name, part) for name, module in modules.items() for part in module.parameters(recurse=False)]
    if owned and outputs:
        total = torch.stack([output.sum() for output in outputs]).sum()
        found = torch.autograd.grad(total, [part for _, part in owned], allow_unused=True)
        yield from (name for (name, _), gradient in zip(owned, found, strict=True) if gradient is not None)


def _explain(module: nn.Module, ran: bool, used: bool) -> str:
    if not isinstance(module, (_ConvNd, nn.Linear)) and ran:
        return f"layers of its kind ({type(module).__name__}) cannot be narrowed"
    if ran:
        return "it does not pass gradients on to the outputs, and it is by gradients that channels are followed"
    return "its weights are used without calling it" if used else "a forward pass does not run it"
