"""A bundle with its session open: one batch at a time, of the size that was proven."""

from __future__ import annotations

import contextlib
import math
from typing import Any, NamedTuple

import numpy as np

from edgeopt import backends
from edgeopt.backends import Arrays, backend_errors
from edgeopt.bundle import Bundle
from edgeopt.device.answers import Answering, are_finite
from edgeopt.device.watching import Watch
from edgeopt.errors import BackendError, DataError

#: an input that is no 8-bit image is unusual where it holds more than so many times what any golden sample holds
USUAL = 10.0

IMAGE_LIMIT = 255.0


class Raw(NamedTuple):
    """What raw samples of an input are, as far as the golden ones tell: `limit` is the largest value that is usual."""

    dtype: np.dtype[Any] | None
    shape: tuple[int, ...]
    limit: float

    @property
    def gray(self) -> bool:
        return len(self.shape) == 3 and self.shape[0] == 1


class Opened:
    """A bundle that can answer.

    Attributes:
        digest: of its manifest.
        watch: who is told of each answer.
        raw: input → what its raw samples are.
        batch: how many samples it takes at once.
        answering: how its outputs are read.
        sound: whether it gave finite outputs for the golden samples when it was opened.
        users: of the predictor: how many calls it is in.
        confirmed: of the predictor: whether it is known that it can start.

    Raises:
        BackendError: the artifact cannot be opened or run.
        MissingError: a library is not installed.
        TrustError: the golden samples are none.
    """

    def __init__(self, bundle: Bundle, watch: Watch) -> None:
        self.bundle, self.watch = bundle, watch
        self.digest = bundle.manifest.digest()
        self.users, self.confirmed = 0, False
        self._artifact = bundle.artifact
        self._wanted = {spec.name: (spec.shape[1:], np.dtype(spec.dtype)) for spec in self._artifact.inputs}
        axis = self._artifact.inputs[0].shape[0]
        self._fixed = isinstance(axis, int)
        self.batch = axis if isinstance(axis, int) else int(self._artifact.settings.get("batch", 1))
        self._golden = [sample.inputs for sample in bundle.golden()]
        self.raw = {spec.name: _describe(self._golden, spec.name) for spec in self._artifact.inputs}
        self._stack = contextlib.ExitStack()
        self._session = self._stack.enter_context(backends.opened(self._artifact))
        try:
            made = self._warm_up()
        except BaseException:
            self.close()
            raise
        self.sound = all(map(are_finite, made))
        self.answering = Answering(made, bundle.manifest.classes)

    @property
    def one_input(self) -> str:
        """The only input.

        Raises:
            DataError: there are several.
        """
        if len(self._wanted) > 1:
            what = f"the network has {len(self._wanted)} inputs: {', '.join(self._wanted)}"
            raise DataError(what, "give an array for each by name")
        return next(iter(self._wanted))

    def prepare(self, raw: Arrays, name: str) -> Arrays:
        """The inputs of one sample, without a batch axis.

        Raises:
            DataError: they are not what the network takes.
        """
        if raw.keys() != self._wanted.keys():
            given, known = (", ".join(f"`{one}`" for one in names) for names in (raw, self._wanted))
            raise DataError(f"{name} has the inputs {given or 'none'}", f"the network takes {known}")
        made = self.bundle.manifest.preprocess.apply(raw, name)
        for key, (shape, dtype) in self._wanted.items():
            array = made[key]
            if array.shape != shape and not _fits(array.shape, shape):
                what = f"{name} has shape {list(array.shape)} once it is prepared"
                raise DataError(what, f"the network takes `{key}` as {list(shape)}")
            if array.dtype != dtype:
                made[key] = array.astype(dtype)
        return made

    def is_usual(self, raw: Arrays) -> bool:
        """Whether a sample holds no value far beyond those that the network is known to take."""
        return all(float(np.abs(array).max(initial=0)) <= self.raw[name].limit for name, array in raw.items())

    def run(self, inputs: Arrays) -> Arrays:
        """The outputs of one batch, which is filled up meanwhile where it is smaller than it has to be.

        Raises:
            BackendError: the inputs do not fit, or the runtime failed.
        """
        count = len(next(iter(inputs.values()), ()))
        padded = self._fixed and 0 < count < self.batch
        if padded:
            rows = np.minimum(np.arange(self.batch), count - 1)
            inputs = {name: array[rows] for name, array in inputs.items()}
        try:
            outputs = self._session.run(inputs)
        except Exception:
            with backend_errors(self._artifact.backend, "run"):  # here, so that only what fails pays for it
                raise
        size = self.batch if padded else count
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != size:
                what = f"output `{name}` has shape {list(array.shape)} for {size} samples: its first axis is not theirs"
                raise BackendError(what, "edgeopt takes networks that answer for each sample")
        return {name: array[:count] for name, array in outputs.items()} if padded else outputs

    def close(self) -> None:
        self._stack.close()

    def _warm_up(self) -> list[Arrays]:
        """Run on the golden samples, or zeros: no request waits for what a runtime does at first."""
        samples = [self.prepare(raw, "golden sample") for raw in self._golden]
        batches = [{name: np.stack([array] * self.batch) for name, array in sample.items()} for sample in samples]
        return [self.run(batch) for batch in batches or [backends.zeros(self._artifact, self.batch)]]


def _fits(shape: tuple[int, ...], wanted: tuple[int | str, ...]) -> bool:
    """Whether a shape is the one that is wanted, where symbols stand for any size."""
    return len(shape) == len(wanted) and all(
        size == axis or isinstance(axis, str) for size, axis in zip(shape, wanted, strict=True)
    )


def _describe(golden: list[Arrays], name: str) -> Raw:
    arrays = [sample[name] for sample in golden if name in sample]
    if not arrays:
        return Raw(None, (), math.inf)
    if arrays[0].dtype.kind in "biu" and arrays[0].dtype.itemsize == 1:
        return Raw(arrays[0].dtype, arrays[0].shape, IMAGE_LIMIT)
    return Raw(arrays[0].dtype, arrays[0].shape, USUAL * max(float(np.abs(one).max(initial=0)) for one in arrays))
