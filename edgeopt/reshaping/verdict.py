"""Whether a reshaped network gained anything on the target, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from edgeopt import onnx_graph
from edgeopt.clock import make_clock
from edgeopt.context import Context
from edgeopt.data import Samples
from edgeopt.exporting import export_graph
from edgeopt.gain import Gain, time_gain
from edgeopt.model import Edit, Facts, Model, TensorSpec, write_model
from edgeopt.network import write_network

#: the fact where no clock was asked
UNMEASURED = "not measured: `on` names no candidate"

BATCH = 64


def measure_gain(before: nn.Module, after: nn.Module, model: Model, context: Context, on: str) -> Gain:
    """What the change of a network gains on the clock of the candidate `on`, at its precision.

    Raises:
        PassError: one of them cannot be exported.
        BuildError: one of them cannot be built or run.
    """
    graphs = [export_graph(network, model, context.seed) for network in (before, after)]
    return time_gain(make_clock(context), graphs[0], graphs[1], on)


def conclude(
    network: nn.Module, edits: Sequence[Edit], model: Model, folder: Path, gain: Gain | None, told: str, keep: bool
) -> tuple[Model, bool, Facts]:
    """Write the changed network, or the given one where the change gains nothing; what there is to tell of it.

    Args:
        network: changed already.
        edits: what was changed; none: nothing could be.
        gain: None where no clock was asked.
        told: what was changed, in a few words.
        keep: even where it gains nothing.

    Returns:
        The model, whether it changed, and the facts `summary` and, where something was changed, `gain`.
    """
    if not edits:
        return write_model(model, folder), False, {"summary": told}
    facts: Facts = {"gain": UNMEASURED} if gain is None else gain.facts()
    if gain is not None and not gain.worth and not keep:
        return write_model(model, folder), False, {**facts, "summary": f"{gain.tell()}; left as it was ({told})"}
    summary = told if gain is None else f"{told}; {gain.tell()}"
    return write_network(network, model, folder, tuple(edits)), True, {**facts, "summary": summary}


def random_inputs(specs: Sequence[TensorSpec], seed: int, batch: int = 2) -> list[torch.Tensor]:
    """One tensor per input of a network."""
    return [torch.from_numpy(array) for array in onnx_graph.random_inputs(specs, batch, seed).values()]


def read_inputs(samples: Samples, count: int) -> Iterator[list[torch.Tensor]]:
    """Batches of as many samples, spread over all of them, as a network takes them."""
    for part in samples.spread(count).batches(BATCH):
        yield [torch.from_numpy(part.inputs[name]) for name in samples.inputs]
