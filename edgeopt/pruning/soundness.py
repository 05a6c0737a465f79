"""Which groups can be pruned soundly, found by running the result.

A dependency graph can be wrong: it takes an operation that it does not know for an element-wise one, and does not see
what a network computes with the shapes of its tensors. So nothing is believed: a pruned network must run, give outputs
of the same shape that hang on the inputs, need fewer operations, compute what the whole network computes with those
channels masked, and export as the whole one does. A group that fails is left whole.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from edgeopt.edits import apply_edit
from edgeopt.errors import PassError
from edgeopt.model import Edit, TensorSpec
from edgeopt.network import count_macs, name_outputs
from edgeopt.pruning.groups import Choice, describe
from edgeopt.pruning.removal import make_edits, mask_channels

#: allowed difference of a pruned and a masked network, as a share of how far outputs of different samples lie apart
TOLERANCE = 1e-4

#: what rounding may do to an output, in units of its last digit, and how much further samples must at least lie apart
ROUNDING, TELLING = 1000, 10

#: random inputs of standard deviation 1 are made so much larger, and once more, until the outputs of samples differ
LARGER = (16, 16)

#: what exports a network, or raises `PassError`
Export = Callable[[nn.Module], object]


@dataclass(frozen=True)
class Sound:
    """Edits that hold together, how many groups they prune, and why each of the others is left whole, by name."""

    edits: tuple[Edit, ...]
    pruned: int
    left_whole: dict[str, str]


def make_inputs(specs: Sequence[TensorSpec], batch: int, seed: int = 0) -> list[torch.Tensor]:
    """Random inputs in the order of `specs`: normal for floats, zeros and ones for integers."""
    generator = torch.Generator().manual_seed(seed)
    inputs = []
    for spec in specs:
        values, dtype = torch.randn(spec.with_batch(batch), generator=generator), getattr(torch, spec.dtype)
        inputs.append((values if dtype.is_floating_point else values > 0).to(dtype))
    return inputs


def keep_sound(
    network: nn.Module, choices: Sequence[Choice], inputs: Sequence[torch.Tensor], export: Export | None = None
) -> Sound:
    """The part of `choices` that can be pruned soundly together.

    All are tried at once, which is the usual case; if that fails, one half and then the other beside what held, and so
    on, so that one bad group among many is found in few tries. The same choices give the same result.

    Args:
        inputs: at least two samples.
        export: raises `PassError` where a network cannot be exported; what the whole network can, the pruned one must.
    """
    chosen = [choice for choice in choices if len(choice.kept) < choice.group.size]
    reasons = {
        choice.group.name: f"rounding keeps all of its {choice.group.size} channels"
        for choice in choices
        if choice not in chosen
    }
    trial = Trial(network, inputs, export)
    accepted = _sift(trial, [], chosen, reasons)
    left_whole = {
        choice.group.name: choice.group.tell(reasons[choice.group.name])
        for choice in choices
        if choice.group.name in reasons
    }
    return Sound(make_edits(network, accepted), len(accepted), left_whole)


def _sift(
    trial: Trial, accepted: list[Choice], doubted: list[Choice], reasons: dict[str, str], fault: str | None = None
) -> list[Choice]:
    """Those accepted, which hold together, and of those in doubt what holds beside them; why each other does not.

    Args:
        fault: of all of them together, where it is known.
    """
    if fault is None:
        fault = trial.fault(make_edits(trial.network, [*accepted, *doubted]))
    if not fault:
        return [*accepted, *doubted]
    if len(doubted) == 1:
        reasons[doubted[0].group.name] = fault
        return accepted
    middle = len(doubted) // 2
    held = _sift(trial, accepted, doubted[:middle], reasons)
    whole_half = len(held) == len(accepted) + middle
    return _sift(trial, held, doubted[middle:], reasons, fault if whole_half else None)


class Trial:
    """A network that pruned copies of itself are held against.

    It is computed in float64, if it can be: a network that has lost many channels hardly tells samples apart before it
    is tuned, and in float32 that little would drown in rounding.

    Args:
        inputs: at least two samples.
    """

    def __init__(self, network: nn.Module, inputs: Sequence[torch.Tensor], export: Export | None = None) -> None:
        self.network, self._export = network, export
        self._precise, self._inputs = _sharpen(network, inputs)
        self._macs = count_macs(self._precise, self._inputs)
        self._doubt = _find_doubt(_tell_apart(self._precise, self._inputs)[1])

    def fault(self, edits: Sequence[Edit]) -> str:
        """What is wrong with the network when `edits` are replayed on a copy of it; empty if nothing is."""
        if self._doubt or not edits:
            return f"nothing can be shown of it: {self._doubt}" if edits else ""
        masked, pruned = copy.deepcopy(self._precise), copy.deepcopy(self._precise)
        mask_channels(masked, edits)
        inputs, expected = _tell_apart(masked, self._inputs)
        if doubt := _find_doubt(expected):
            return f"with zeros in its channels {doubt}"
        try:
            for edit in edits:
                apply_edit(pruned, edit)
            outputs = _run(pruned, inputs)
        except Exception as error:  # what a wrongly pruned network raises is up to its author; it is told as the reason
            return f"the network does not run without its channels: {describe(error)}"
        if [output.shape for output in outputs] != [output.shape for output in expected]:
            return "the outputs have another shape without its channels"
        if not all(_agree(output, wanted) for output, wanted in zip(outputs, expected, strict=True)):
            return "the network computes something else without its channels than with zeros in them"
        if count_macs(pruned, inputs) >= self._macs:
            return "it saves no operations"
        return self._find_export_fault(edits)

    def _find_export_fault(self, edits: Sequence[Edit]) -> str:
        pruned = copy.deepcopy(self.network)
        for edit in edits:
            apply_edit(pruned, edit)
        fault = self._try_export(pruned)
        return f"without its channels {fault}" if fault and self._exports else ""

    @cached_property
    def _exports(self) -> bool:
        """Whether the whole network can be exported; if not, pruning is not to blame."""
        return not self._try_export(self.network)

    def _try_export(self, network: nn.Module) -> str:
        if self._export is None:
            return ""
        try:
            self._export(network)
        except PassError as error:
            return error.message
        return ""


@torch.inference_mode()
def _run(network: nn.Module, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return list(name_outputs(network.eval()(*inputs)).values())


def _sharpen(network: nn.Module, inputs: Sequence[torch.Tensor]) -> tuple[nn.Module, list[torch.Tensor]]:
    """Copies in float64; in float32 where the network does not run otherwise, as one that makes such numbers itself."""
    precise = copy.deepcopy(network).double()
    doubled = [values.double() if values.is_floating_point() else values for values in inputs]
    try:
        _run(precise, doubled)
    except RuntimeError:
        return copy.deepcopy(network), list(inputs)
    return precise, doubled


def _tell_apart(
    network: nn.Module, inputs: Sequence[torch.Tensor]
) -> tuple[Sequence[torch.Tensor], list[torch.Tensor]]:
    """The inputs and the outputs; the inputs are larger where the network would not tell samples apart otherwise."""
    outputs = _run(network, inputs)
    for scale in LARGER:
        if not _find_doubt(outputs):
            break
        inputs = [values * scale if values.is_floating_point() else values for values in inputs]
        outputs = _run(network, inputs)
    return inputs, outputs


def _find_doubt(outputs: Sequence[torch.Tensor]) -> str:
    """Why a comparison with these outputs of random inputs shows nothing, as one of constants; empty where it does."""
    if not all(bool(output.isfinite().all()) for output in outputs):
        return "the outputs are not finite"
    if not any(_spread(output) > TELLING * _rounding(output) for output in outputs):
        return "the outputs do not depend on the inputs"
    return ""


def _agree(output: torch.Tensor, expected: torch.Tensor) -> bool:
    allowed = max(TOLERANCE * _spread(expected), _rounding(expected))
    return bool(((output.double() - expected.double()).abs() <= allowed).all())


def _spread(output: torch.Tensor) -> float:
    """How far samples lie apart."""
    values = output.double()
    return float((values - values[:1]).abs().max()) if output.dim() and output.numel() else 0.0


def _rounding(output: torch.Tensor) -> float:
    """What rounding may change."""
    if not output.is_floating_point() or not output.numel():
        return 0.0
    return ROUNDING * torch.finfo(output.dtype).eps * float(output.double().abs().max())
