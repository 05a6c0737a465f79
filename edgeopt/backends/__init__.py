"""Runtimes that artifacts are built for: one file per backend, with build and open side by side.

A backend is one frozen pydantic model whose fields are its options in the recipe. To add one, write
`backends/<name>.py` with a class of that name in CamelCase; the contract tests find it.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeopt import registry
from edgeopt.context import BUILDS, Context, Memo
from edgeopt.errors import BackendError, MissingError, unforeseen
from edgeopt.model import Artifact, Form, Model, QuantizationProfile, TensorSpec, Value

Arrays = dict[str, NDArray[Any]]


class Session(ABC):
    """An opened artifact. It never times itself: `validation/subject.py` holds the only clock."""

    @abstractmethod
    def run(self, inputs: Arrays) -> Arrays:
        """Run one batch; the arrays that come back belong to the caller.

        Several threads may call it at once, as a server does that opens one session for many streams: what cannot run
        side by side waits inside.

        Raises:
            BackendError: the inputs do not fit, or the runtime failed.
        """

    def device_ms(self, inputs: Arrays) -> float | None:
        """Milliseconds that one batch takes by the clock of a device beside the CPU, without copies to it and back.

        None where there is no such device. It says how fast the device is, and not how long a caller waits.
        """
        return None

    def close(self) -> None:
        """Free what the session holds."""
        return

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Backend(Value):
    """Builds artifacts from models in `accepts` form, and opens them.

    Subclasses declare options as fields with a range, a default and a description each. What a session needs of them
    goes into `Artifact.settings`: an artifact is opened by a backend without options.
    """

    accepts: ClassVar[Form]
    #: a simulated backend measures nothing real and need not agree with the original
    simulated: ClassVar[bool] = False
    #: whether its sessions run on an NVIDIA GPU; where all of a target's do, the original does so, too
    on_nvidia: ClassVar[bool] = False

    @abstractmethod
    def available(self) -> None:
        """Return if this machine can build and open artifacts.

        Raises:
            MissingError: names what to install.
        """

    def profile(self, isa: Collection[str] | None = None) -> QuantizationProfile | None:
        """What the backend wants to see in a quantized graph; None if it runs no integers.

        Args:
            isa: what the CPU that it is for has of `environment.INTERESTING_ISA`; None: this machine.
        """
        return None

    def machine(self) -> dict[str, str]:
        """What of this machine decides what `build` makes, beside the CPU: it goes into the step's key.

        A plan asks for it, so nothing heavy is imported.
        """
        return {}

    @abstractmethod
    def build(self, model: Model, context: Context, folder: Path) -> Artifact:
        """Build `model` for `context.threads` and `context.batch` into `folder`."""

    def prepare(self, model: Model, context: Context, folder: Path, missing: MissingError) -> Artifact:
        """Go as far as this machine can, which is not `available`: leave in `folder` what a device builds from.

        Returns:
            An artifact that says why it is `unbuilt`.

        Raises:
            MissingError: `missing`, from a backend that can do nothing without what is missing.
        """
        raise missing

    @abstractmethod
    def open(self, artifact: Artifact) -> Session:
        """Open an artifact of this backend."""

    def alternatives(self, artifact: Artifact) -> Mapping[str, Artifact]:
        """The same files with other settings that are worth trying, by a name in a word or two; most have none.

        Which is the fastest is not known here: it is measured, on the target.
        """
        return {}

    def finish(self, planned: Artifact, context: Context, folder: Path) -> Artifact:
        """Build into `folder`, where this backend is `available`, what `prepare` planned elsewhere.

        Raises:
            BackendError: this backend plans nothing.
        """
        raise BackendError(f"`{planned.backend}` builds nothing from a plan")

    def simulate(self, artifact: Artifact) -> Session:
        """Open what `prepare` left: the same numbers as far as they can be known here, and not the same speed.

        Raises:
            BackendError: this backend prepares nothing.
        """
        raise BackendError(f"`{artifact.backend}` cannot simulate what is not built")


def get(name: str, options: Mapping[str, Any] | None = None) -> Backend:
    """The backend of that name with those options."""
    backend: Backend = registry.resolve("backends", name)(**(options or {}))
    return backend


def backend_errors(name: str, doing: str) -> AbstractContextManager[None]:
    """`unforeseen` for a backend, or a user's network inside it; `doing` is what it could not do: `open its artifact`.

    Raises:
        BackendError: it raised something.
        MissingError: a library is not installed, or the disk is full.
    """
    return unforeseen(f"`{name}` could not {doing}", BackendError)


@contextlib.contextmanager
def opened(artifact: Artifact) -> Iterator[Session]:
    """A session of the artifact's backend, closed at the end; `backend_errors` for opening and closing it.

    What is not built yet is simulated.
    """
    name = artifact.backend
    with backend_errors(name, "open its artifact"):
        backend = get(name)
        session = backend.simulate(artifact) if artifact.unbuilt else backend.open(artifact)
    try:
        yield session
    finally:
        with backend_errors(name, "close its session"):
            session.close()


def build_artifact(name: str, model: Model, context: Context, options: Mapping[str, Any] | None = None) -> Artifact:
    """What a worker runs: build, or prepare where that is all, then open the result and run it once on zeros.

    Raises:
        BackendError: the backend failed, whatever it raised.
        MissingError: it is not installed.
    """
    with backend_errors(name, "build"):
        backend = get(name, options)
        try:
            backend.available()
        except MissingError as missing:
            artifact = backend.prepare(model, context, context.folder, missing)
        else:
            artifact = backend.build(model, context, context.folder)
    with opened(artifact) as session, backend_errors(name, "run what it built"):
        session.run(zeros(artifact, context.batch))
    return artifact


def check_inputs(specs: Sequence[TensorSpec], inputs: Arrays) -> dict[str, int]:
    """The sizes of the symbolic axes, if `inputs` are what `specs` describe; sessions call it before they run.

    Raises:
        BackendError: a name, dtype or shape does not fit; says what was expected and what was given.
    """
    sizes: dict[str, int] = {}
    if inputs.keys() != {spec.name for spec in specs}:
        expected, given = (", ".join(f"`{name}`" for name in names) for names in ([s.name for s in specs], inputs))
        raise BackendError(f"expected inputs {expected}, got {given or 'none'}")
    for spec in specs:
        array = inputs[spec.name]
        fits = len(array.shape) == len(spec.shape) and all(
            size == (axis if isinstance(axis, int) else sizes.setdefault(axis, size))
            for axis, size in zip(spec.shape, array.shape, strict=True)
        )
        if not fits or array.dtype != spec.dtype:
            expected = f"{spec.dtype} {_shape(spec.shape)}"
            raise BackendError(f"expected `{spec.name}` as {expected}, got {array.dtype} {_shape(array.shape)}")
    return sizes


def _shape(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def build_planned(planned: Artifact, folder: Path, memos: Path) -> Artifact:
    """What a worker runs on the device: build what was planned elsewhere, then open it and run it once on zeros.

    Raises:
        BackendError: the backend failed, whatever it raised.
        MissingError: it is not installed, or there is no such device.
    """
    with backend_errors(planned.backend, "build what was planned"):
        backend = get(planned.backend)
        backend.available()
        artifact = backend.finish(planned, Context(folder=folder, memo=Memo(memos, BUILDS)), folder)
    with opened(artifact) as session, backend_errors(planned.backend, "run what it built"):
        session.run(zeros(artifact, int(artifact.settings["batch"])))
    return artifact


def zeros(artifact: Artifact, batch: int) -> Arrays:
    """One batch of zeros in the shapes of the artifact's inputs."""
    return {spec.name: np.zeros(spec.with_batch(batch), np.dtype(spec.dtype)) for spec in artifact.inputs}


def run_each(artifact: Artifact, samples: list[Arrays], batch: int) -> list[Arrays]:
    """What a worker runs: the outputs of each sample, without the batch axis.

    Args:
        samples: inputs of one sample each, with a batch axis of 1; repeated to fill a batch.

    Raises:
        BackendError: the artifact cannot be opened or run.
    """
    outputs = []
    with opened(artifact) as session:
        for sample in samples:
            inputs = {name: np.repeat(array, batch, axis=0) for name, array in sample.items()}
            with backend_errors(artifact.backend, "run"):
                made = session.run(inputs)
            outputs.append({name: array[0] for name, array in made.items()})
    return outputs
