"""Where a training runs, in what precision and in what layout: what is fast there and gives sound results."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from edgeopt import environment
from edgeopt.errors import PassError
from edgeopt.training.schedule import Device, Precision

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

#: what a CPU has that multiplies bfloat16 faster than float32
FAST_BF16 = ("amx_bf16", "avx512_bf16")


@dataclass(frozen=True)
class Place:
    """A device and the precision of the products that are computed there; weights and sums stay in float32."""

    device: torch.device
    precision: str

    @property
    def exact(self) -> bool:
        return self.precision == "fp32"

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Meanwhile, products are computed in the precision of the place."""
        if self.exact:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, DTYPES[self.precision])

    def take(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Tensors on the device."""
        return [tensor.to(self.device, non_blocking=True) for tensor in tensors]


def find_place(device: Device, precision: Precision) -> Place:
    """The device that is asked for, or the fastest one; the precision likewise.

    Raises:
        PassError: it is not there, or does not have that precision.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise PassError("`device: cuda` is asked for, and torch sees no such device", "set `device: auto`")
    kind = "cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu"
    fast = _reduced(kind)
    if precision in ("auto", "fp32"):
        return Place(torch.device(kind), fast[0] if fast and precision == "auto" else "fp32")
    if precision not in fast:
        what = f"`precision: {precision}` gains nothing on this machine's {kind}"
        raise PassError(what, f"set `precision: auto`; there is {', '.join([*fast, 'fp32'])}")
    return Place(torch.device(kind), precision)


def find_layout(networks: Sequence[nn.Module], inputs: Sequence[torch.Tensor]) -> torch.memory_format:
    """Channels last for images, where all the networks can be run so: training is then faster, on CPUs and on GPUs.

    A network that reshapes by `view` may hold its activations to the other order: each is run once to find out. They
    are left in the layout that is returned, and in evaluation mode.
    """
    images = any(each.dim() == 4 for each in inputs)
    suits = images and all(_runs_channels_last(network, inputs) for network in networks)
    layout = torch.channels_last if suits else torch.contiguous_format
    for network in networks:
        network.to(memory_format=layout)  # type: ignore[call-overload]
    return layout


def lay_out(tensors: Sequence[torch.Tensor], layout: torch.memory_format) -> list[torch.Tensor]:
    """Images (N, C, H, W) in the layout, and other tensors as they are."""
    return [each.contiguous(memory_format=layout) if each.dim() == 4 else each for each in tensors]


def _runs_channels_last(network: nn.Module, inputs: Sequence[torch.Tensor]) -> bool:
    network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        with torch.no_grad():
            network(*lay_out(inputs, torch.channels_last))
    except RuntimeError:
        return False  # if the layout was not the reason, training raises it again
    return True


def _reduced(kind: str) -> tuple[str, ...]:
    """The precisions below float32 in which a device is faster, the best one first."""
    if kind == "cuda":
        return ("bf16", "fp16") if torch.cuda.is_bf16_supported(including_emulation=False) else ("fp16",)
    return ("bf16",) if environment.cpu_flags().intersection(FAST_BF16) else ()
