"""The training loop: AdamW, a schedule of the learning rate, and a state at each epoch's end to go on from.

All that is random in an epoch follows from the seed and the number of the epoch, and the learning rate from the number
of the step. So on a CPU, a run that was interrupted and goes on ends with the very weights of one that was not. On CUDA
some kernels add up in no fixed order, and the weights are alike, not the same.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from edgeopt.context import Checkpoints
from edgeopt.edits.hold_zeros import HeldZeros
from edgeopt.errors import PassError
from edgeopt.training.augmentation import augment
from edgeopt.training.averaging import AveragedWeights
from edgeopt.training.best import Best
from edgeopt.training.losses import Loss, logits_of
from edgeopt.training.mixing import draw_mixing
from edgeopt.training.place import find_layout, find_place, lay_out
from edgeopt.training.range_test import find_learning_rate
from edgeopt.training.reproducible import reproducible
from edgeopt.training.schedule import MOMENTUM, Schedule, learning_rate_at, momentum_at
from edgeopt.training.shuffling import ShuffledSamples
from edgeopt.workers import Progress

#: how often an epoch tells how far it is
TOLD = 20

#: AdamW's decay of the second moment
SECOND_MOMENT = 0.999

#: how good a network is; the more, the better
Judge = Callable[[nn.Module], float]

#: writes a network that its training spoiled, as it was after so many epochs, and says where
Rescue = Callable[[int], Path | None]


class Training:
    """A network in training. It is changed in place: all its parameters, also those that its factory froze.

    Args:
        beside: networks that the loss runs on the same batches; they are put where the network is.
        judge: how good the network is, for `stop_after`.
        rescue: called before divergence is raised, when the network has the last sound weights again.

    Attributes:
        losses: the mean loss of each epoch so far.
        learning_rate: the peak.
        best: what `judge` said, epoch by epoch.
    """

    def __init__(
        self, network: nn.Module, samples: ShuffledSamples, loss: Loss, schedule: Schedule,
        beside: Sequence[nn.Module] = (), judge: Judge | None = None, rescue: Rescue | None = None,
    ) -> None:  # fmt: skip
        self.network, self.samples, self.loss, self.schedule = network.requires_grad_(True), samples, loss, schedule
        self._judge, self._rescue = judge, rescue
        self.place = find_place(schedule.device, schedule.precision)
        self.layout = find_layout((network, *beside), samples.take(torch.arange(min(2, len(samples)))))
        for each in (network, *beside):
            each.to(self.place.device)
        self.optimizer = _make_optimizer(network, schedule.weight_decay)
        self._scaler = torch.amp.GradScaler(self.place.device.type, enabled=self.place.precision == "fp16")
        self._zeros = HeldZeros(network)
        self._average = AveragedWeights(network, schedule.ema) if schedule.ema else None
        self.best = Best(schedule.stop_after)
        self.losses: list[float] = []
        self.learning_rate = schedule.learning_rate or 0.0  # found before the first step where there is none
        # Even batches: the last one must not be a single sample, of which a normalization has no variance.
        self.steps = max(1, min(math.ceil(len(samples) / schedule.batch), len(samples) // 2))

    def run(self, checkpoints: Checkpoints, progress: Progress) -> list[float]:
        """Train from the last sound checkpoint to the end, and return the mean loss of each epoch.

        The network is left on the CPU with the weights that count: the average with `ema`, the best with `stop_after`.

        Raises:
            PassError: the loss or the weights are not finite; the network then has those of the last sound epoch.
        """
        latest = checkpoints.latest(progress)
        if latest is not None:
            self._restore(latest[1])
        elif self.schedule.learning_rate is None:
            self.learning_rate = self._find_learning_rate(progress)
        sound = self._state() if latest is None else latest[1]
        while len(self.losses) < self.schedule.epochs and not self.best.settled:
            with reproducible(self.schedule.seed, len(self.losses)) as generator:
                loss = self._run_epoch(generator, progress)
            if not (math.isfinite(loss) and _is_finite(self.network)):
                epoch = len(self.losses) + 1
                self._restore(sound)
                raise self._diverged(epoch)
            self._end_epoch(loss)
            sound = self._state()
            checkpoints.put(len(self.losses), sound)
        self._finish()
        return self.losses

    def choices(self) -> dict[str, float]:
        """What the training chose by itself, for the report."""
        found: dict[str, float] = {}
        if self.schedule.learning_rate is None:
            found["learning_rate"] = self.learning_rate
        if self.best.weights is not None:
            found["best_epoch"] = self.best.epoch
        return found

    def tell_choices(self) -> str:
        """The same, as the end of a summary."""
        return "".join(f", {name.replace('_', ' ')} {value:g}" for name, value in self.choices().items())

    def step(self, indices: torch.Tensor, generator: torch.Generator, rate: float, momentum: float) -> float:
        """Learn from the samples at `indices` at that learning rate; returns their loss before."""
        schedule = self.schedule
        for group in self.optimizer.param_groups:
            group["lr"], group["betas"] = rate, (momentum, SECOND_MOMENT)
        taken = self.place.take(self.samples.take(indices))
        inputs = lay_out(augment(taken, schedule.shift, schedule.flip, generator), self.layout)
        labels = None if self.samples.labels is None else self.samples.labels[indices].to(self.place.device)
        mixing = draw_mixing(len(indices), schedule.mixup, generator) if schedule.mixup else None
        inputs = inputs if mixing is None else mixing.inputs(inputs)
        with self.place.autocast():
            logits = logits_of(self.network, inputs)
            if mixing is not None and labels is not None:
                labels = mixing.labels(labels, logits.shape[1])
            loss = self.loss(inputs, labels, logits)
        self._learn(loss)
        return float(loss.detach())

    def _find_learning_rate(self, progress: Progress) -> float:
        """What a range test finds; everything is then as it was before."""
        progress("testing learning rates", None)
        before = self._state()
        with reproducible(self.schedule.seed, self.schedule.epochs) as generator:
            self.network.train()
            batches = torch.tensor_split(torch.randperm(len(self.samples), generator=generator), self.steps)
            found = find_learning_rate(
                lambda number, rate: self.step(batches[number % self.steps], generator, rate, MOMENTUM)
            )
        self._restore(before)
        return found

    def _run_epoch(self, generator: torch.Generator, progress: Progress) -> float:
        """The mean loss of an epoch; not finite as soon as one is not."""
        self.network.train()
        schedule, epoch, total = self.schedule, len(self.losses), 0.0
        steps, shape = self.steps * schedule.epochs, (schedule.schedule, schedule.warm_up)
        order = torch.randperm(len(self.samples), generator=generator)
        for number, indices in enumerate(torch.tensor_split(order, self.steps)):
            step = epoch * self.steps + number
            rate = learning_rate_at(step, steps, self.learning_rate, *shape)
            total += self.step(indices, generator, rate, momentum_at(step, steps, *shape)) * len(indices)
            if not math.isfinite(total):
                break
            if number % max(1, self.steps // TOLD) == 0:
                progress(f"epoch {epoch + 1} of {schedule.epochs}{self._last_loss()}", step / steps)
        return total / len(self.samples)

    def _learn(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        torch.autograd.backward(self._scaler.scale(loss))
        if self.schedule.clip is not None:
            self._scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.schedule.clip)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self._zeros.restore()
        if self._average is not None:
            self._average.update(self.network)

    def _end_epoch(self, loss: float) -> None:
        self.losses.append(loss)
        if self._judge is not None:
            with self._weights_that_count():
                self.best.note(self._judge(self.network), self.network)

    def _weights_that_count(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._average is None else self._average.swapped_in(self.network)

    def _finish(self) -> None:
        if self.best.weights is not None:
            self.network.load_state_dict(self.best.weights)
        elif self._average is not None:
            self.network.load_state_dict(self._average.values)
        self.network.eval().to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def _diverged(self, epoch: int) -> PassError:
        """What to say when an epoch spoiled the network, which has its last sound weights again."""
        self._finish()
        sound = self.best.epoch or epoch - 1
        kept = None if self._rescue is None or not sound else self._rescue(sound)
        what = f"the loss is not finite in epoch {epoch}"
        where = "" if kept is None else f"; the weights after epoch {sound} are kept in `{kept}`"
        return PassError(what + where, f"lower `learning_rate`: try {self.learning_rate / 10:.2g}")

    def _last_loss(self) -> str:
        return f", loss {self.losses[-1]:.3f}" if self.losses else ""

    def _state(self) -> bytes:
        """All that the rest of the training depends on; randomness and rates follow from the number of epochs."""
        average = None if self._average is None else (self._average.values, self._average.steps)
        state = {
            "network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "losses": self.losses,
            "learning_rate": self.learning_rate, "scaler": self._scaler.state_dict(), "average": average,
            "best": self.best.state(),
        }  # fmt: skip
        stream = io.BytesIO()
        torch.save(state, stream)
        return stream.getvalue()

    def _restore(self, state: bytes) -> None:
        restored = torch.load(io.BytesIO(state), map_location=self.place.device, weights_only=True)
        self.network.load_state_dict(restored["network"])
        self.optimizer.load_state_dict(restored["optimizer"])
        self._scaler.load_state_dict(restored["scaler"])
        if self._average is not None:
            self._average.values, self._average.steps = restored["average"]
        self.best.restore(restored["best"])
        self.losses, self.learning_rate = restored["losses"], restored["learning_rate"]


def _is_finite(network: nn.Module) -> bool:
    """Whether weights and statistics are: a loss tells of those before its step only."""
    statistics = [each for name, each in network.named_buffers() if "running_" in name]
    return all(bool(each.isfinite().all()) for each in (*network.parameters(), *statistics))


def _make_optimizer(network: nn.Module, decay: float) -> torch.optim.Optimizer:
    """Weight decay is for weights: it would only pull biases and normalizations from where they belong."""
    matrices = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, fused=True)
