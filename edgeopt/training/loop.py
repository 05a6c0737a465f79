"""The training loop: AdamW, one cycle of the learning rate, and a state at each epoch's end to go on from.

All that is random in an epoch follows from the seed and the number of the epoch, and the learning rate from the number
of the step. So a run that was interrupted and goes on ends with the very weights of one that was not.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from edgeopt import environment
from edgeopt.context import Checkpoints
from edgeopt.edits.hold_zeros import HeldZeros
from edgeopt.errors import PassError
from edgeopt.training.augmentation import augment
from edgeopt.training.losses import Loss, logits_of
from edgeopt.training.shuffling import ShuffledSamples
from edgeopt.workers import Progress

#: the share of the steps in which the learning rate rises
WARM_UP = 0.1
#: how often an epoch tells how far it is
TOLD = 20


@dataclass(frozen=True)
class Schedule:
    """How to train: `learning_rate` is the peak; `shift` (pixels) and `flip` are the augmentation."""

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    shift: int
    flip: bool
    seed: int


class Training:
    """A network in training. It is changed in place: all its parameters, also those that its factory froze."""

    def __init__(self, network: nn.Module, samples: ShuffledSamples, loss: Loss, schedule: Schedule) -> None:
        self.network, self.samples, self.loss, self.schedule = network.requires_grad_(True), samples, loss, schedule
        self.optimizer = _make_optimizer(network, schedule)
        self._zeros = HeldZeros(network)
        self.losses: list[float] = []
        # Even batches: the last one must not be a single sample, of which a normalization has no variance.
        self.steps = max(1, min(math.ceil(len(samples) / schedule.batch), len(samples) // 2))

    def run(self, checkpoints: Checkpoints, progress: Progress) -> list[float]:
        """Train from the last sound checkpoint to the end, and return the mean loss of each epoch.

        Raises:
            PassError: the loss is not finite.
        """
        latest = checkpoints.latest(progress)
        if latest is not None:
            self._restore(latest[1])
        while len(self.losses) < self.schedule.epochs:
            with _reproducible(self.schedule.seed, len(self.losses)) as generator:
                self.losses.append(self._run_epoch(generator, progress))
            checkpoints.put(len(self.losses), self._state())
        self.network.eval()
        return self.losses

    def _run_epoch(self, generator: torch.Generator, progress: Progress) -> float:
        self.network.train()
        epoch, total = len(self.losses), 0.0
        order = torch.randperm(len(self.samples), generator=generator)
        for step, indices in enumerate(torch.tensor_split(order, self.steps)):
            total += self._run_step(epoch * self.steps + step, indices, generator) * len(indices)
            if not math.isfinite(total):
                raise PassError(f"the loss is not finite in epoch {epoch + 1}", "lower `learning_rate`")
            if step % max(1, self.steps // TOLD) == 0:
                done = (epoch + step / self.steps) / self.schedule.epochs
                progress(f"epoch {epoch + 1} of {self.schedule.epochs}{self._last_loss()}", done)
        return total / len(self.samples)

    def _run_step(self, step: int, indices: torch.Tensor, generator: torch.Generator) -> float:
        schedule = self.schedule
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(step, self.steps * schedule.epochs, schedule.learning_rate)
        inputs = augment(self.samples.take(indices), schedule.shift, schedule.flip, generator)
        labels = None if self.samples.labels is None else self.samples.labels[indices]
        loss = self.loss(inputs, labels, logits_of(self.network, inputs))
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        self._zeros.restore()
        return float(loss.detach())

    def _last_loss(self) -> str:
        return f", loss {self.losses[-1]:.3f}" if self.losses else ""

    def _state(self) -> bytes:
        """Weights, optimizer and losses; the randomness and the learning rate follow from the number of epochs."""
        stream = io.BytesIO()
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "losses": self.losses}
        torch.save(state, stream)
        return stream.getvalue()

    def _restore(self, state: bytes) -> None:
        restored = torch.load(io.BytesIO(state), weights_only=True)
        self.network.load_state_dict(restored["network"])
        self.optimizer.load_state_dict(restored["optimizer"])
        self.losses = restored["losses"]


def learning_rate_at(step: int, steps: int, peak: float) -> float:
    """Up in a line to the peak over the first tenth of the steps, then down half a cosine towards 0."""
    rising = max(1, round(WARM_UP * steps))
    if step < rising:
        return peak * (step + 1) / rising
    return peak * (1 + math.cos(math.pi * (step - rising + 1) / (steps - rising + 1))) / 2


def _make_optimizer(network: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """Weight decay is for weights: it would only pull biases and normalizations from where they belong."""
    matrices = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate)


@contextlib.contextmanager
def _reproducible(seed: int, epoch: int) -> Iterator[torch.Generator]:
    """Torch set so that the epoch gives the same weights each time on this machine, and set back afterwards."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    mixed = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mixed)  # for dropout and the like, which take the global generator
        torch.set_num_threads(environment.cpu_cores())
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield torch.Generator().manual_seed(mixed)
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(strict)
