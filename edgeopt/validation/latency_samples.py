"""Raw latency samples of one comparison: every timed run of every side, by set of workers and block, in one file."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.model import canonical_json
from edgeopt.validation.predictions import pack_arrays
from edgeopt.validation.subject import Figures

#: above this share of blocks that cannot be corrected, a side is one that other threads work for
MOST_ODD = 0.1


@dataclass(frozen=True)
class Protocol:
    """How sides are timed.

    Attributes:
        looks: sets of workers at which a verdict is tried; all of them share the permitted error.
        blocks: blocks in one set; in each, every side has its turn, in random order. Many short turns beat few long
            ones: beside other jobs, 8 turns of 5 runs gave ratios that scattered by 5 to 10 %, 2 of 20 by 15 to 23 %.
        discard, iterations: untimed and timed runs of one turn.
        threads: of every side; a single one is pinned to one core, the same for all sides.
        seconds: what all looks together may take; a set that was begun is finished, and `least_sets` are always timed.
        set_seconds: what the turns of one set may take, about: see `fit`.
        least_sets: as many as a verdict takes at 95 % confidence with up to 8 candidates, or at 99 % with one.
        call_seconds: what opening, warming up or one turn may take before the side counts as hung.
        seed: of the order of turns.
    """

    looks: tuple[int, ...] = (10, 20, 40)
    blocks: int = 10
    discard: int = 2
    iterations: int = 4
    threads: int = 1
    seconds: float = 600.0
    set_seconds: float = 20.0
    least_sets: int = 10
    call_seconds: float = 300.0
    seed: int = 0

    def alpha(self, confidence: float, candidates: int = 1) -> float:
        """The error permitted to one interval, so that all looks at all candidates together keep 1 - confidence."""
        return (1.0 - confidence) / len(self.looks) / candidates

    def fit(self, round_seconds: float) -> Protocol:
        """This protocol with fewer and shorter turns where one run of every side takes long, `round_seconds` in all.

        Turns get shorter before they get fewer, down to 2 of one run each.
        """
        runs = self.set_seconds / max(round_seconds, 1e-9)
        if self.blocks * (self.discard + self.iterations) <= runs:
            return self
        discard = min(self.discard, 1)
        iterations = min(self.iterations, max(1, int(runs / self.blocks) - discard))
        blocks = min(self.blocks, max(2, int(runs / (discard + iterations))))
        return replace(self, discard=discard, iterations=iterations, blocks=blocks)


@dataclass(frozen=True)
class LatencySamples:
    """What was timed together.

    Attributes:
        sides, digests: names of the sides and the digests of their artifacts, in the order of the first axis.
        times_ns, waited_ns: (sides, sets, blocks, iterations) nanoseconds of each run, and how many of them the process
            waited while another one had its core.
        correctable: (sides, sets, blocks) whether a run could have done without what it waited: see `Block`.
        order: (sets, blocks, sides) which side had the n-th turn.
        figures: (sides, sets, 3) see `Figures`.
        throttled: (sets,) whether the kernel held the processes back; such a set counts for no side.
        cores: that all sides were pinned to; none where the scheduler chose.
        batch: images of one run.
        seconds: what the measuring took.
        environment: digest of the machine's fingerprint.
    """

    sides: tuple[str, ...]
    digests: tuple[str, ...]
    times_ns: NDArray[np.int64]
    waited_ns: NDArray[np.int64]
    correctable: NDArray[np.bool_]
    order: NDArray[np.int64]
    figures: NDArray[np.int64]
    throttled: NDArray[np.bool_]
    protocol: Protocol
    cores: tuple[int, ...]
    batch: int
    seconds: float
    environment: str

    @property
    def sets(self) -> int:
        return len(self.throttled)

    @property
    def kept_sets(self) -> int:
        """Sets that count: those in which nothing was throttled."""
        return int(np.count_nonzero(~self.throttled))

    @property
    def exhausted(self) -> bool:
        """Whether the protocol allows no further set."""
        return self.sets >= self.protocol.looks[-1] or self.overdue

    @property
    def overdue(self) -> bool:
        """Whether the time is spent, and there are as many sets as a verdict takes."""
        return self.seconds >= self.protocol.seconds and self.sets >= self.protocol.least_sets

    def digest_of(self, side: str) -> str:
        return self.digests[self.sides.index(side)]

    def times_of(self, side: str) -> NDArray[np.int64]:
        """(sets, blocks, iterations) nanoseconds of one side as the clock showed them, without throttled sets."""
        times: NDArray[np.int64] = self.times_ns[self.sides.index(side)][~self.throttled]
        return times

    def paired_times_of(self, side: str, baseline: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The times of two sides for their ratio: less what they waited, or with it for both.

        A side that other threads work for cannot be corrected. Correcting only its opponent would favour that one, so
        then neither is, and in a block where either cannot be, neither is there.
        """
        first, second = self.times_of(side), self.times_of(baseline)
        if not (self.is_correctable(side) and self.is_correctable(baseline)):
            return first, second
        both = (self._correctable_of(side) & self._correctable_of(baseline))[..., None]
        return np.where(both, self._net_times_of(side), first), np.where(both, self._net_times_of(baseline), second)

    def is_correctable(self, side: str) -> bool:
        """Whether what one side waited may be taken off, but in odd blocks: on a busy machine 1 of 160 was odd."""
        return bool(np.mean(~self._correctable_of(side)) <= MOST_ODD) if self.kept_sets else True

    def waited_share_of(self, side: str) -> float:
        """The share of one side's time, from 0 to 1, in which another process had its core."""
        waited = self.waited_ns[self.sides.index(side)][~self.throttled]
        return float(waited.sum() / max(1, self.times_of(side).sum()))

    def _correctable_of(self, side: str) -> NDArray[np.bool_]:
        blocks: NDArray[np.bool_] = self.correctable[self.sides.index(side)][~self.throttled]
        return blocks

    def _net_times_of(self, side: str) -> NDArray[np.int64]:
        times, waited = self.times_of(side), self.waited_ns[self.sides.index(side)][~self.throttled]
        # The counters of time and of waiting are read one after the other: what they contradict is left as it was.
        net: NDArray[np.int64] = np.where(waited < times, times - waited, times)
        return net

    def figures_of(self, side: str) -> list[Figures]:
        """What each fresh process of one side told of itself."""
        return [Figures(*(int(value) for value in row)) for row in self.figures[self.sides.index(side)]]

    def extend(self, later: LatencySamples) -> LatencySamples:
        """These samples with the sets of `later` added.

        Raises:
            ValueError: they are not of the same artifacts, protocol and machine.
        """
        for name in ("sides", "digests", "protocol", "cores", "batch", "environment"):
            if getattr(self, name) != getattr(later, name):
                raise ValueError(f"samples of two measurements differ in `{name}` and cannot be joined")
        axes = {"times_ns": 1, "waited_ns": 1, "correctable": 1, "order": 0, "figures": 1, "throttled": 0}
        joined = {
            name: np.concatenate([getattr(self, name), getattr(later, name)], axis=axis) for name, axis in axes.items()
        }
        return LatencySamples(**self._values() | joined | {"seconds": self.seconds + later.seconds})

    def to_npz(self) -> bytes:
        """The samples as the bytes of an .npz file; equal samples give equal bytes."""
        arrays = {name: value for name, value in self._values().items() if isinstance(value, np.ndarray)}
        rest = {name: value for name, value in self._values().items() if name not in arrays}
        rest["protocol"] = asdict(self.protocol)
        return pack_arrays({"header": np.frombuffer(canonical_json(rest), np.uint8), **arrays})

    @classmethod
    def from_npz(cls, data: bytes) -> LatencySamples:
        """The samples that `to_npz` gave."""
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            values: dict[str, Any] = {name: archive[name] for name in archive.files}
        values |= json.loads(values.pop("header").tobytes())
        protocol = values["protocol"] | {"looks": tuple(values["protocol"]["looks"])}
        values |= {name: tuple(values[name]) for name in ("sides", "digests", "cores")}
        return cls(**values | {"protocol": Protocol(**protocol)})

    def _values(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}
