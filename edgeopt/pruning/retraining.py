"""What a change to a network costs once a short training has won back what it soon can.

Before any training, curves mislead where it matters: the answers may be ruined without a block that its neighbours
learn to stand in for within a minute, and less so without another one that they cannot make up for. On ResNet-20 fifty
steps turn the order of its blocks around (benchmarks/README.md). So short a training tells candidates apart; how good
one will be in the end it does not tell.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from edgeopt.context import Checkpoints, Context
from edgeopt.data import Samples
from edgeopt.errors import PassError
from edgeopt.pruning.goal import apply_edits
from edgeopt.pruning.groups import Choice
from edgeopt.pruning.removal import mask
from edgeopt.pruning.soundness import keep_sound
from edgeopt.training.loop import Training
from edgeopt.training.losses import DistillationLoss
from edgeopt.training.schedule import Schedule
from edgeopt.training.shuffling import ShuffledSamples, open_shuffled

#: samples of a step, the peak of the learning rate, and how much the answers are softened that are to be learned
BATCH, LEARNING_RATE, TEMPERATURE = 64, 2e-3, 4.0


class Retraining:
    """Takes channels and branches away from a network, and trains what is left for one pass over samples.

    It learns to answer as the network did, which needs no labels.

    Args:
        inputs: at least two samples, to prove a removal with.
    """

    def __init__(self, network: nn.Module, inputs: Sequence[torch.Tensor], samples: ShuffledSamples, seed: int) -> None:
        self._network, self._inputs, self._samples = network, inputs, samples
        self._teacher = copy.deepcopy(network).requires_grad_(False)
        self._schedule = Schedule(1, BATCH, LEARNING_RATE, seed=seed, precision="auto", device="auto")

    def without(self, choices: Sequence[Choice]) -> nn.Module:
        """The network without what the choices leave out, trained.

        What cannot be cut soundly is not going to be: it is masked and not trained. One whose loss gets infinite is
        left as it was cut.
        """
        sound = keep_sound(self._network, choices, self._inputs)
        if sound.left_whole:
            return mask(self._network, choices)
        cut = apply_edits(self._network, sound.edits)
        loss = DistillationLoss(self._teacher, TEMPERATURE, 1.0)
        with contextlib.suppress(PassError):
            Training(cut, self._samples, loss, self._schedule, [self._teacher]).run(Checkpoints(), _tell_nobody)
        return cut


@contextlib.contextmanager
def open_retraining(
    network: nn.Module, inputs: Sequence[torch.Tensor], samples: Samples, steps: int, context: Context
) -> Iterator[Retraining]:
    """A retraining of so many steps, on samples spread evenly over the split."""
    with open_shuffled(samples.spread(steps * BATCH), context.folder, context.progress) as shuffled:
        yield Retraining(network, inputs, shuffled, context.seed)


def _tell_nobody(_text: str, _fraction: float | None) -> None:
    """Each training is over soon; the scan tells how many are."""
