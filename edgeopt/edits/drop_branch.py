"""A residual block that is only its shortcut any more: what pruning in depth leaves."""

from __future__ import annotations

from torch import nn

from edgeopt.errors import SourceError
from edgeopt.model import Edit


def apply(module: nn.Module, edit: Edit) -> None:
    """Let the module return what it is given; its layers and their tensors go.

    It stays the object that it was, as its parent may hold it by more than one name; only its forward pass is another.
    """
    if not any(True for _ in module.children()):
        raise SourceError(f"cannot drop the branch of `{edit.module}`, a {type(module).__name__} without layers")
    for name in [*dict(module.named_children())]:
        delattr(module, name)
    for name in [*dict(module.named_parameters(recurse=False)), *dict(module.named_buffers(recurse=False))]:
        delattr(module, name)
    module.forward = nn.Identity().forward
