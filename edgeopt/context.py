"""What a pass or a build may know beside the model: samples, seed, folder, progress, and what the target lends.

A context is plain data and crosses to workers as it is. There are no globals: what is not here is not known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeopt import environment, files, workers
from edgeopt.data import Samples
from edgeopt.model import Model, QuantizationProfile, canonical_json
from edgeopt.workers import Progress, report_progress

#: a checkpoint begins with the SHA-256 of the rest
DIGEST_BYTES = hashlib.sha256().digest_size

#: in place of the key of data, in the memos that builds keep for one another
BUILDS = "builds"


@dataclass(frozen=True)
class Checkpoints:
    """The state of an unfinished step, kept under the step's key until the step is published."""

    folder: Path | None = None

    def put(self, number: int, data: bytes) -> None:
        """Keep `data` as the state after `number` epochs; the earlier ones are removed."""
        if self.folder is None:
            return
        files.write_bytes(self.folder / f"{number:06d}.checkpoint", hashlib.sha256(data).digest() + data)
        for path in self._paths()[:-1]:
            files.remove(path)

    def latest(self, progress: Progress = report_progress) -> tuple[int, bytes] | None:
        """The newest state that was put and is sound, and its number; a damaged one is removed with a word of it."""
        for path in reversed(self._paths()):
            stored = _read(path)
            digest, data = stored[:DIGEST_BYTES], stored[DIGEST_BYTES:]
            if hashlib.sha256(data).digest() == digest:
                return int(path.stem), data
            progress("a checkpoint is damaged: starting over", None)
            files.remove(path)
        return None

    def part(self, name: str) -> Checkpoints:
        """The state of a part of the step, apart from that of others."""
        return Checkpoints(None if self.folder is None else self.folder / name)

    def _paths(self) -> list[Path]:
        return [] if self.folder is None else sorted(self.folder.glob("*.checkpoint"))


@dataclass(frozen=True)
class Memo:
    """What a step found out that another one may want, by what it was found from; `data_key` names the data.

    A memo is a saving and never a result: what is damaged or gone is found out again.
    """

    folder: Path
    data_key: str

    def get(self, parts: object) -> bytes | None:
        """What was put for these parts, which are plain data; None where nothing sound was."""
        stored = _read(self._path(parts))
        digest, data = stored[:DIGEST_BYTES], stored[DIGEST_BYTES:]
        return data if stored and hashlib.sha256(data).digest() == digest else None

    def put(self, parts: object, data: bytes) -> None:
        files.write_bytes(self._path(parts), hashlib.sha256(data).digest() + data)

    def _path(self, parts: object) -> Path:
        return self.folder / f"{hashlib.sha256(canonical_json([self.data_key, parts])).hexdigest()}.memo"


def _read(path: Path) -> bytes:
    """The bytes of a file; none where it cannot be read, as on a failing disk."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


@dataclass(frozen=True)
class AccuracyGoal:
    """What choices aim at: a metric, and how many points of it may be lost; None: the recipe does not say.

    `root` is the folder that a metric in a file of the user's is relative to.
    """

    metric: str = "top1"
    max_drop_pp: float | None = None
    root: Path | None = None


@dataclass(frozen=True)
class Timer:
    """The target's clock, for choosing and not for judging: a named function that a worker runs, or a device.

    Attributes:
        function: takes a backend's name and options, models, threads and batch, and gives the milliseconds of each.
        environ: of that worker.
        device: the name of the device that times instead. This process cannot reach it: its parent does, and lends it.
        machine: the fingerprint of whatever times.
    """

    function: str
    backend: str
    threads: int
    batch: int
    options: dict[str, Any] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    device: str | None = None
    machine: dict[str, Any] = field(default_factory=environment.fingerprint)

    def time(self, models: Sequence[Model], progress: Progress = report_progress) -> list[float]:
        """(models,) milliseconds of one run.

        Raises:
            BuildError: one of them cannot be built or run.
            DeviceError: the device cannot be reached.
        """
        arguments = (self.backend, self.options, list(models), self.threads, self.batch)
        found: list[float]
        if self.device is None:
            found = workers.run(self.function, *arguments, environ=self.environ, progress=progress)
        else:
            found = workers.ask_parent(*arguments)
        return found


@dataclass(frozen=True)
class Context:
    """The surroundings of one step.

    Attributes:
        folder: where the step writes; published into the store when it succeeds.
        seed: every random choice starts from it.
        calibration, tuning, training: the splits of the recipe that this step may see; never the validation split.
        original: the network as given, for distillation and comparison.
        profile: how the target's backend wants its graph quantized.
        half: whether what ships has float16 where it has floats.
        accuracy: what the target's budget allows to lose.
        timer: the target's clock.
        threads, batch: of the target.
        isa: of the target's CPU, where the recipe says; None: it is this machine's.
        progress: tells a short text and a fraction.
        checkpoints: state that survives a kill.
        memo: what other steps found out from the same data.
    """

    folder: Path
    seed: int = 0
    calibration: Samples | None = None
    tuning: Samples | None = None
    training: Samples | None = None
    original: Model | None = None
    profile: QuantizationProfile | None = None
    half: bool = False
    accuracy: AccuracyGoal | None = None
    timer: Timer | None = None
    target: str = ""
    threads: int = 1
    batch: int = 1
    isa: tuple[str, ...] | None = None
    progress: Callable[[str, float | None], None] = report_progress
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    memo: Memo | None = None
