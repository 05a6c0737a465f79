"""What a predictor tells of each answer, to whoever watches it."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from edgeopt.backends import Arrays

Outcome = Literal["ok", "nonfinite", "timeout", "error"]


class Seconds(NamedTuple):
    """How long the stages of one answer took."""

    pre: float
    infer: float
    post: float


class Watch(Protocol):
    """Told of every answer, by several threads at once; it must not be slow: it is inside the predictor's time."""

    def answered(self, inputs: Arrays, outputs: Arrays, seconds: Seconds) -> None:
        """One batch was answered: prepared inputs and outputs, with the batch axis, without padding."""

    def failed(self, outcome: Outcome) -> None:
        """One batch was not."""


class NobodyWatches:
    """The watch of a predictor that nobody looks at."""

    def answered(self, inputs: Arrays, outputs: Arrays, seconds: Seconds) -> None:
        return

    def failed(self, outcome: Outcome) -> None:
        return
