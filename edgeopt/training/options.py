"""The options that the passes that train share: those of one loop, so that they mean the same in each."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from edgeopt.model import Value
from edgeopt.training.schedule import Schedule, Shape


class TrainingOptions(Value):
    """How long, how fast and on what variations of the samples to train, and which weights to keep."""

    epochs: int = Field(default=6, ge=1, description="passes over the training split")
    learning_rate: float | None = Field(
        default=2e-3, gt=0, description="the peak; `null`: a range test on the first batches finds it"
    )
    schedule: Shape = Field(
        default="cosine",
        description="the learning rate rises in a line and falls like a cosine; or in one cycle, momentum against it",
    )
    warm_up: float = Field(default=0.1, ge=0, lt=1, description="the share of the steps in which it rises")
    batch: int = Field(default=32, ge=2, description="samples per step")
    clip: float | None = Field(default=None, gt=0, description="the norm that the gradients of a step are cut to")
    shift: int = Field(default=2, ge=0, description="images are moved at random by up to this many pixels")
    flip: bool = Field(default=False, description="images are mirrored left to right at random")
    mixup: float = Field(
        default=0.0, ge=0, description="samples are mixed in pairs, evenly at 1 and hardly at 0.1: the alpha of mixup"
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="the share of each label that all classes get alike"
    )
    ema: float = Field(
        default=0.0, ge=0, lt=1, description="weights are averaged over steps with this decay, and the average is kept"
    )
    stop_after: int | None = Field(
        default=None,
        ge=1,
        description="end after so many epochs without a better one on the tuning split, and keep the best of all",
    )

    def make_schedule(self, seed: int, **more: Any) -> Schedule:
        """What the loop goes by; `more` stands in for what is no option of the pass."""
        known = self.model_dump(include=set(Schedule.__annotations__))
        return Schedule(**known | {"seed": seed} | more)
