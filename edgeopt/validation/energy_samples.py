"""Raw energy samples of one comparison: joules of each side while it ran and of the machine while it idled."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.model import canonical_json
from edgeopt.validation.predictions import pack_arrays


@dataclass(frozen=True)
class EnergyProtocol:
    """How the energy of sides is measured.

    Attributes:
        sets: fresh sets of workers, in each of which every side has one busy window. A process has an effect of its
            own, so the set is the unit of the interval; 10 are enough at 95 % confidence with up to 8 candidates.
        idle_seconds: length of an idle window; each busy window lies between two of them, so that a machine that warms
            up meanwhile has its idle power taken right.
        busy_seconds: least length of a busy window; the run that was begun is finished.
        settle_seconds: pause before an idle window, in which clocks and voltages fall.
        threads: of every side; a single one is pinned to one core, the same for all sides.
        call_seconds: what opening, warming up or one window may take before the side counts as hung.
        seed: of the order of sides.
    """

    sets: int = 10
    idle_seconds: float = 1.0
    busy_seconds: float = 2.0
    settle_seconds: float = 0.25
    threads: int = 1
    call_seconds: float = 300.0
    seed: int = 0


@dataclass(frozen=True)
class EnergySamples:
    """What was measured together.

    Attributes:
        sides, digests: names of the sides and the digests of their artifacts, in the order of the first axis.
        runs: (sides, sets) inferences of one batch in each busy window.
        busy: (sides, sets, 2) joules and seconds of each busy window.
        idle: (sets, sides + 1, 2) joules and seconds of the idle windows; the n-th turn lies between n and n + 1.
        order: (sets, sides) which side had the n-th turn.
        protocol: how it was measured.
        what: the counter counted, for people.
        cores: that all sides were pinned to; none where the scheduler chose.
        batch: images of one run.
        seconds: what the measuring took.
        environment: digest of the machine's fingerprint.
    """

    sides: tuple[str, ...]
    digests: tuple[str, ...]
    runs: NDArray[np.int64]
    busy: NDArray[np.float64]
    idle: NDArray[np.float64]
    order: NDArray[np.int64]
    protocol: EnergyProtocol
    what: str
    cores: tuple[int, ...]
    batch: int
    seconds: float
    environment: str

    @property
    def sets(self) -> int:
        return len(self.order)

    def digest_of(self, side: str) -> str:
        return self.digests[self.sides.index(side)]

    def millijoules_of(self, side: str) -> NDArray[np.float64]:
        """(sets,) energy of one inference of a side in each set beyond what the machine takes idle.

        The idle power is the mean of that before and that after the busy window. Below zero where the machine took less
        while it worked, which is noise, or work that the counter does not see.
        """
        index = self.sides.index(side)
        rows, turns = np.arange(self.sets), np.argmax(self.order == index, axis=1)
        joules, seconds = self.busy[index, :, 0], self.busy[index, :, 1]
        with np.errstate(divide="ignore", invalid="ignore"):  # a file that somebody changed may hold anything
            watts = self.idle[..., 0] / self.idle[..., 1]
            around = (watts[rows, turns] + watts[rows, turns + 1]) / 2
            beyond: NDArray[np.float64] = (joules - around * seconds) / self.runs[index]
        return 1e3 * beyond

    def to_npz(self) -> bytes:
        """The samples as the bytes of an .npz file; equal samples give equal bytes."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        rest = {name: value for name, value in values.items() if name not in arrays}
        rest["protocol"] = asdict(self.protocol)
        return pack_arrays({"header": np.frombuffer(canonical_json(rest), np.uint8), **arrays})

    @classmethod
    def from_npz(cls, data: bytes) -> EnergySamples:
        """The samples that `to_npz` gave."""
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            values: dict[str, Any] = {name: archive[name] for name in archive.files}
        values |= json.loads(values.pop("header").tobytes())
        values |= {name: tuple(values[name]) for name in ("sides", "digests", "cores")}
        return cls(**values | {"protocol": EnergyProtocol(**values["protocol"])})
