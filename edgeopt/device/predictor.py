"""The predictor: raw samples in, labels out, from one verified bundle, for any number of threads at once.

    sample ─► prepare ─► session ─► finite? ─► labels
                             ▲          │ no, though the sample is a usual one
                             └──────────┘ the release before, opened in its place, answers the same sample

Opened on a device's folder it says of the release that it can start, with its first answer, and leaves one that gives
NaN or infinity. A sample with values beyond all that is known proves nothing: it is refused, so that nobody who may
send samples can turn a device back.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.backends import Arrays
from edgeopt.bundle import Bundle
from edgeopt.bundle.trust import Root
from edgeopt.data.preprocess import Preprocess
from edgeopt.device.answers import Prediction, are_finite
from edgeopt.device.current import Current, MakeWatch
from edgeopt.device.home import Home
from edgeopt.device.images import MOST_PIXELS, read_image
from edgeopt.device.opened import Opened, Raw
from edgeopt.device.source import Source, find_source
from edgeopt.device.watching import NobodyWatches, Seconds, Watch
from edgeopt.errors import DataError, DeviceError, EdgeoptError

#: a raw sample: the bytes of an image file, its path, a raw array, or one for each input by name
Sample = bytes | Path | NDArray[Any] | Mapping[str, NDArray[Any]]


def watch_nothing(bundle: Bundle, home: Home | None) -> Watch:
    """The watch of a predictor that nobody looks at."""
    return NobodyWatches()


def load(
    path: str | Path, *, root: Root | Path | None = None, make_watch: MakeWatch = watch_nothing,
    most_pixels: int = MOST_PIXELS,
) -> Predictor:  # fmt: skip
    """Open what lies at `path` and run it once: a device's folder, a bundle's folder, or a `.edgeopt` file.

    Args:
        root: whose signature the bundle must have; a device's folder has a root of its own.
        make_watch: who is told of each answer.
        most_pixels: images with more are refused.

    Raises:
        UsageError: there is nothing of the kind.
        TrustError: the bundle is not what its manifest says, or not signed as it should be.
        DeviceError: no release is active, or none gives finite outputs.
        BackendError: the artifact cannot be opened or run.
        MissingError: the runtime is not installed.
    """
    source = find_source(Path(path), root)
    try:
        return Predictor(source, make_watch, most_pixels)
    except BaseException:
        source.close()
        raise


class Predictor:
    """Answers samples until it is closed; `load` makes one."""

    def __init__(self, source: Source, make_watch: MakeWatch, most_pixels: int = MOST_PIXELS) -> None:
        self._current, self._most_pixels = Current(source, make_watch), most_pixels

    @property
    def bundle(self) -> Bundle:
        """What answers now."""
        return self._current.use(lambda opened: opened.bundle)

    @property
    def digest(self) -> str:
        """Of the manifest of what answers now."""
        return self._current.use(lambda opened: opened.digest)

    @property
    def watch(self) -> Watch:
        """Who is told of the answers of what answers now."""
        return self._current.use(lambda opened: opened.watch)

    @property
    def batch(self) -> int:
        """How many samples it takes at once."""
        return self._current.use(lambda opened: opened.batch)

    @property
    def threads(self) -> int:
        """How many threads one answer takes."""
        return int(self.bundle.artifact.settings.get("threads", 1))

    @property
    def raw(self) -> Mapping[str, Raw]:
        """Input → what its raw samples are."""
        return self._current.use(lambda opened: opened.raw)

    def predict(self, sample: Sample, top: int = 1) -> Prediction:
        """What the network says of one sample; `top` is how many classes are named.

        Raises:
            DataError: the sample cannot be read, or is not what the network takes.
            DeviceError: the outputs are not finite, and there is no release to go back to.
            BackendError: the runtime failed.
        """
        return self.predict_batch([sample], top)[0]

    def predict_batch(self, samples: Sequence[Sample], top: int = 1) -> list[Prediction]:
        """What the network says of each of the samples, in order; raises as `predict` does, of all of them together."""
        made: list[Prediction] = []
        while len(made) < len(samples):
            made += self._current.answer(partial(self._predict, samples=samples, first=len(made), top=top))
        return made

    def run(self, inputs: Arrays) -> Arrays:
        """Outputs for inputs that are prepared, any number of them, with a batch axis.

        Raises:
            DataError: they hold NaN or infinity.
            DeviceError: the outputs are not finite, and no release to go back to takes inputs that are prepared so.
            BackendError: the inputs do not fit, or the runtime failed.
        """
        if not are_finite(inputs):
            raise DataError("the inputs hold NaN or infinity", "mend the sample, or take it out")
        prepared_by, count = self.bundle.manifest.preprocess, len(next(iter(inputs.values()), ()))
        parts: list[Arrays] = []
        done = 0
        while done < count or not parts:
            parts.append(self._current.answer(partial(self._run, inputs=inputs, first=done, prepared_by=prepared_by)))
            done += len(next(iter(parts[-1].values())))
        return (
            parts[0] if len(parts) == 1 else {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}
        )

    def follow(self) -> bool:
        """Open what was activated since, in place of what answers now; returns whether something was.

        Raises:
            EdgeoptError: it cannot be opened, and what has answered goes on.
        """
        return self._current.follow()

    def confirm(self) -> None:
        """Say that the release can start, as the first answer does by itself."""
        self._current.use(self._current.confirm)

    def close(self) -> None:
        """Answer no more; what is being answered still is. A start that ends in order has not failed."""
        self._current.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _predict(self, opened: Opened, samples: Sequence[Sample], first: int, top: int) -> list[Prediction] | None:
        """One batch of the samples, from the one with number `first` on."""
        start = time.perf_counter()
        batch = samples[first : first + opened.batch]
        names = [_name(sample, first + number, len(samples)) for number, sample in enumerate(batch)]
        raws = [self._read(sample, opened, name) for sample, name in zip(batch, names, strict=True)]
        inputs = _stack([opened.prepare(raw, name) for raw, name in zip(raws, names, strict=True)])
        prepared = time.perf_counter()
        outputs = self._infer(opened, inputs, raws)
        if outputs is None:
            return None
        inferred = time.perf_counter()
        predictions = opened.answering.predictions(outputs, top)
        seconds = Seconds(prepared - start, inferred - prepared, time.perf_counter() - inferred)
        opened.watch.answered(inputs, outputs, seconds)
        return predictions

    def _run(self, opened: Opened, inputs: Arrays, first: int, prepared_by: Preprocess) -> Arrays | None:
        """One batch of inputs, from the sample with number `first` on."""
        preprocess = opened.bundle.manifest.preprocess
        if preprocess is not prepared_by and preprocess != prepared_by:  # the first is told in no time
            raise DeviceError("the release was left meanwhile, and this one prepares otherwise", "prepare anew")
        start = time.perf_counter()
        batch = {name: array[first : first + opened.batch] for name, array in inputs.items()}
        outputs = self._infer(opened, batch, ())
        if outputs is not None:
            opened.watch.answered(batch, outputs, Seconds(0.0, time.perf_counter() - start, 0.0))
        return outputs

    def _infer(self, opened: Opened, inputs: Arrays, raws: Sequence[Arrays]) -> Arrays | None:
        """The outputs, if they are finite."""
        try:
            outputs = opened.run(inputs)
        except EdgeoptError:
            opened.watch.failed("error")
            raise
        if are_finite(outputs):
            self._current.confirm(opened)
            return outputs
        opened.watch.failed("nonfinite")
        if not all(map(opened.is_usual, raws)):
            what = "the outputs are not finite, for a sample with values beyond all that the network is known to take"
            raise DataError(what, "look at where the sample comes from")
        return None

    def _read(self, sample: Sample, opened: Opened, name: str) -> Arrays:
        if isinstance(sample, Mapping):
            return dict(sample)
        if isinstance(sample, np.ndarray):
            return {opened.one_input: sample}
        gray = opened.raw[opened.one_input].gray
        return {opened.one_input: read_image(sample, gray=gray, most_pixels=self._most_pixels, name=name)}


def _name(sample: Sample, number: int, count: int) -> str:
    """What to call a sample in a message."""
    if isinstance(sample, Path):
        return f"`{sample}`"
    return "the sample" if count == 1 else f"sample {number + 1} of {count}"


def _stack(samples: Sequence[Arrays]) -> Arrays:
    if len(samples) == 1:
        return {name: array[None] for name, array in samples[0].items()}
    for name, first in samples[0].items():
        if any(sample[name].shape != first.shape for sample in samples):
            raise DataError("the samples differ in shape once they are prepared", "give them one by one")
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
