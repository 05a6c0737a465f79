"""Raw latency samples of one comparison: every timed run of every side, by set of workers and block, in one file.

What disturbs a block is kept beside its runs and decides only when they are looked at: a block in which the machine
held the processes back, was too hot, or moved the thread of a pinned side counts for no side.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.model import canonical_json
from edgeopt.validation.conditions import Slowdowns
from edgeopt.validation.predictions import pack_arrays
from edgeopt.validation.subject import Figures

#: what lies inside the clock: a runtime of a device copies there and back within it
CLOCK = "host arrays in, host arrays out"

#: the arrays of samples, and which of their axes counts the sets
SET_AXES = {
    "times_ns": 1, "waited_ns": 1, "correctable": 1, "order": 0, "slowed": 0, "moves": 1, "settled": 1, "streams": 1,
    "streams_slowed": 1, "figures": 1, "device_ns": 1,
}  # fmt: skip

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
        concurrency: streams that call one session at once while throughput is taken; 1: it follows from the median.
        stream_seconds: what each side's turn with so many streams takes, once a set.
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
    concurrency: int = 1
    stream_seconds: float = 1.0
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
        slowed: (sets, blocks, 2) how often the machine slowed the processes down: see `Slowdowns`.
        moves: (sides, sets, blocks) how often the calling thread was moved to another core.
        settled: (sides, sets) whether warm-up ended because the speed had settled.
        streams: (sides, sets, streams, 2) runs of each stream, and the nanoseconds that they took; no stream where
            throughput follows from the median.
        streams_slowed: (sides, sets, 2) as `slowed`, while the streams ran.
        figures: (sides, sets, 3) see `Figures`.
        device_ns: (sides, sets, runs) nanoseconds by the clock of a device, without copies; -1 where it has none.
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
    slowed: NDArray[np.int64]
    moves: NDArray[np.int64]
    settled: NDArray[np.bool_]
    streams: NDArray[np.int64]
    streams_slowed: NDArray[np.int64]
    figures: NDArray[np.int64]
    device_ns: NDArray[np.int64]
    protocol: Protocol
    cores: tuple[int, ...]
    batch: int
    seconds: float
    environment: str

    @property
    def sets(self) -> int:
        return len(self.order)

    @property
    def disturbed(self) -> dict[str, NDArray[np.bool_]]:
        """What spoils a block, in words → (sets, blocks) whether it did.

        Only a pinned side must not move: other threads may go from core to core as the scheduler sees fit.
        """
        pinned = np.full(self.order.shape[:2], bool(self.cores))
        return {
            "the CPU quota was spent": self.slowed[..., Slowdowns._fields.index("quota")] > 0,
            "the CPU was too hot": self.slowed[..., Slowdowns._fields.index("heat")] > 0,
            "a thread was moved off its core": (self.moves > 0).any(axis=0) & pinned,
        }

    @property
    def kept(self) -> NDArray[np.bool_]:
        """(sets, blocks) which blocks count, for all sides: undisturbed ones, of sets that keep half of theirs."""
        kept: NDArray[np.bool_] = ~np.any(list(self.disturbed.values()), axis=0)
        enough: NDArray[np.bool_] = 2 * np.count_nonzero(kept, axis=1, keepdims=True) >= kept.shape[1]
        return kept & enough

    @property
    def blocks(self) -> int:
        """How many were timed, in all sets together."""
        return self.sets * self.protocol.blocks

    @property
    def dropped_blocks(self) -> int:
        """Blocks that count for no side."""
        return int(np.count_nonzero(~self.kept))

    @property
    def kept_sets(self) -> int:
        """Sets of which something counts."""
        return int(np.count_nonzero(self.kept.any(axis=1)))

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

    def times_of(self, side: str) -> list[NDArray[np.int64]]:
        """Of each set that counts (blocks, iterations) nanoseconds of one side, as the clock showed them."""
        return self._kept_of(self.times_ns, side)

    def paired_times_of(self, side: str, baseline: str) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """The times of two sides for their ratio, by set as `times_of`: less what they waited, or with it for both.

        A side that other threads work for cannot be corrected. Correcting only its opponent would favour that one, so
        then neither is, and in a block where either cannot be, neither is there.
        """
        first, second = self.times_of(side), self.times_of(baseline)
        if self.is_correctable(side) and self.is_correctable(baseline):
            pairs = zip(self._kept_of(self.correctable, side), self._kept_of(self.correctable, baseline), strict=True)
            both = [(one & other)[:, None] for one, other in pairs]
            first = list(map(np.where, both, self._net_times_of(side), first))
            second = list(map(np.where, both, self._net_times_of(baseline), second))
        return list(zip(first, second, strict=True))

    def is_correctable(self, side: str) -> bool:
        """Whether what one side waited may be taken off, but in odd blocks: on a busy machine 1 of 160 was odd."""
        odd = ~self.correctable[self.sides.index(side)][self.kept]
        return bool(np.mean(odd) <= MOST_ODD) if odd.size else True

    def waited_share_of(self, side: str) -> float:
        """The share of one side's time, from 0 to 1, in which another process had its core."""
        times, waited = (sum(int(one.sum()) for one in self._kept_of(values, side))
                         for values in (self.times_ns, self.waited_ns))  # fmt: skip
        return waited / max(1, times)

    def _kept_of(self, values: NDArray[Any], side: str) -> list[NDArray[Any]]:
        """Of (sides, sets, blocks, …) values those of one side, by set, without blocks that do not count."""
        by_set = zip(values[self.sides.index(side)], self.kept, strict=True)
        return [one[kept] for one, kept in by_set if kept.any()]

    def _net_times_of(self, side: str) -> list[NDArray[np.int64]]:
        # The counters of time and of waiting are read one after the other: what they contradict is left as it was.
        waits = zip(self.times_of(side), self._kept_of(self.waited_ns, side), strict=True)
        return [np.where(waited < times, times - waited, times) for times, waited in waits]

    def figures_of(self, side: str) -> list[Figures]:
        """What each fresh process of one side told of itself."""
        return [Figures(*(int(value) for value in row)) for row in self.figures[self.sides.index(side)]]

    def device_times_of(self, side: str) -> list[NDArray[np.int64]]:
        """Of each set the nanoseconds of one side by the clock of its device; nothing where it has none."""
        rows = self.device_ns[self.sides.index(side)]
        return [row[row >= 0] for row in rows if (row >= 0).any()]

    def extend(self, later: LatencySamples) -> LatencySamples:
        """These samples with the sets of `later` added.

        Raises:
            ValueError: they are not of the same artifacts, protocol and machine.
        """
        for name in ("sides", "digests", "protocol", "cores", "batch", "environment"):
            if getattr(self, name) != getattr(later, name):
                raise ValueError(f"samples of two measurements differ in `{name}` and cannot be joined")
        joined = {
            name: np.concatenate([getattr(self, name), getattr(later, name)], axis=axis)
            for name, axis in SET_AXES.items()
        }
        return LatencySamples(**self._values() | joined | {"seconds": self.seconds + later.seconds})

    def first_sets(self, count: int) -> LatencySamples:
        """What was known after so many sets, or after all of them; the time is shared out evenly."""
        count = min(count, self.sets)
        cut = {name: np.take(getattr(self, name), range(count), axis=axis) for name, axis in SET_AXES.items()}
        return LatencySamples(**self._values() | cut | {"seconds": self.seconds * count / self.sets})

    def to_npz(self) -> bytes:
        """The samples as the bytes of an .npz file; equal samples give equal bytes."""
        return pack_fields(self._values() | {"protocol": asdict(self.protocol)})

    @classmethod
    def from_npz(cls, data: bytes) -> LatencySamples:
        """The samples that `to_npz` gave."""
        values = unpack_fields(data)
        protocol = values["protocol"] | {"looks": tuple(values["protocol"]["looks"])}
        values |= {name: tuple(values[name]) for name in ("sides", "digests", "cores")}
        return cls(**values | {"protocol": Protocol(**protocol)})

    def _values(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def pack_fields(values: dict[str, Any]) -> bytes:
    """Arrays, and plain data beside them, as the bytes of an .npz file; equal values give equal bytes."""
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    rest = {name: value for name, value in values.items() if name not in arrays}
    return pack_arrays({"header": np.frombuffer(canonical_json(rest), np.uint8), **arrays})


def unpack_fields(data: bytes) -> dict[str, Any]:
    """The values that `pack_fields` packed, but with lists for tuples."""
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        values: dict[str, Any] = {name: archive[name] for name in archive.files}
    return values | dict(json.loads(values.pop("header").tobytes()))
