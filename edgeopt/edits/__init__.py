"""Structure edits: what passes change in a torch network, as plain data that replays on a fresh module.

One file per kind, with a function `apply(module, edit)` that changes the named module in place and raises `SourceError`
where the edit does not fit it. Shapes follow from the edit alone: the tensors are loaded afterwards. The kinds are
listed here and not looked up by name, so that the key of a step, which reads imports, covers their code.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from edgeopt.edits import drop_branch, factor, fold, hold_zeros, keep_channels, replace_module
from edgeopt.errors import SourceError
from edgeopt.model import Edit

EDITS: dict[str, Callable[[nn.Module, Edit], None]] = {
    "drop_branch": drop_branch.apply,
    "factor": factor.apply,
    "fold": fold.apply,
    "hold_zeros": hold_zeros.apply,
    "keep_channels": keep_channels.apply,
    "replace_module": replace_module.apply,
}


def apply_edit(network: nn.Module, edit: Edit) -> None:
    """Replay one structure edit in place.

    Raises:
        SourceError: the network has no such module, or the edit does not fit it, or is of a kind that is not known.
    """
    if edit.kind not in EDITS:
        raise SourceError(f"the network has an edit `{edit.kind}`, which this edgeopt does not know", "update edgeopt")
    try:
        module = network.get_submodule(edit.module)
    except AttributeError as error:
        raise SourceError(f"the network has no module `{edit.module}` to edit") from error
    EDITS[edit.kind](module, edit)
