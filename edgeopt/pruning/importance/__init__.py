"""What makes a channel matter: one file per kind, found by its name in the recipe.

To add one, write `importance/<name>.py` with a class of that name in CamelCase; a third party adds one by an entry
point in group `edgeopt.pruning.importance`. Names are checked where torch is not installed, so these files import it
inside their functions; what they share lies in `pruning.saliency`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from edgeopt import registry
from edgeopt.data import Samples
from edgeopt.errors import PassError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgeopt.pruning.groups import Group

KIND = "pruning.importance"


@dataclass(frozen=True)
class Evidence:
    """What channels may be weighed by; the network is left as it was.

    Attributes:
        samples: those that the kind needs; None where it needs none.
        seed: what is drawn at random follows from it.
    """

    network: nn.Module
    groups: Sequence[Group]
    samples: Samples | None = None
    seed: int = 0


class Importance(ABC):
    """One way to weigh the channels of a group against each other."""

    #: what it looks at beside the network: nothing, samples, or samples with labels
    needs: ClassVar[Literal["nothing", "samples", "labels"]] = "nothing"

    @abstractmethod
    def score(self, evidence: Evidence) -> Sequence[torch.Tensor | None]:
        """Of each group (size,) numbers of at least 0, the larger the more a channel matters; None: it cannot say."""


@dataclass(frozen=True)
class Weighed:
    """The importance of each group's channels, (size,) float64 of mean 1, and the groups that were weighed by `l2`."""

    scores: list[torch.Tensor]
    by_l2: tuple[str, ...] = ()


def weigh_channels(name: str, evidence: Evidence) -> Weighed:
    """The channels of all groups weighed by the kind of that name, or by `l2` where it has nothing to say of a group.

    Raises:
        PassError: something is not finite.
        UsageError: there is no such kind.
    """
    from edgeopt.pruning.saliency import score_weights, to_mean_one, weigh_magnitude

    kind: Importance = registry.resolve(KIND, name)()
    found, magnitude = kind.score(evidence), weigh_magnitude(evidence.network, "l2")
    scores = [
        score_weights(evidence.network, group, magnitude) if score is None else to_mean_one(score.double())
        for group, score in zip(evidence.groups, found, strict=True)
    ]
    for group, score in zip(evidence.groups, scores, strict=True):
        if not bool(score.isfinite().all()):
            hint = "see that its weights are finite" if name in ("l1", "l2") else "set `importance: l2`"
            raise PassError(f"the `{name}` importance of the channels of `{group.name}` is not finite", hint)
    silent = (group.name for group, score in zip(evidence.groups, found, strict=True) if score is None)
    return Weighed(scores, tuple(silent))
