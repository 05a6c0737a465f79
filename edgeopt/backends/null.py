"""No device at all: zeros of the right shapes, so that the whole pipeline runs anywhere. It measures nothing real."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from edgeopt import files
from edgeopt.backends import Arrays, Backend, Session, check_inputs
from edgeopt.context import Context
from edgeopt.model import Artifact, Form, Model, TensorSpec, list_files


class Null(Backend):
    """Takes any graph and answers with zeros."""

    accepts: ClassVar[Form] = "onnx"
    simulated: ClassVar[bool] = True

    def available(self) -> None:
        """There is nothing to install."""

    def build(self, model: Model, context: Context, folder: Path) -> Artifact:
        files.copy(model.path, folder / "model.onnx")
        return Artifact(
            target=context.target,
            backend="null",
            files=list_files(folder, ["model.onnx"]),
            inputs=model.inputs,
            outputs=model.outputs,
            settings={"threads": context.threads, "batch": context.batch},
            folder=folder,
        )

    def open(self, artifact: Artifact) -> Session:
        return NullSession(artifact)


class NullSession(Session):
    """Zeros, whatever the inputs are; the inputs have to fit all the same."""

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact

    def run(self, inputs: Arrays) -> Arrays:
        sizes = check_inputs(self._artifact.inputs, inputs)
        batch = int(self._artifact.settings["batch"])
        return {
            spec.name: np.zeros(_resolve(spec, sizes, batch), np.dtype(spec.dtype)) for spec in self._artifact.outputs
        }


def _resolve(spec: TensorSpec, sizes: Mapping[str, int], batch: int) -> tuple[int, ...]:
    """The shape with symbols replaced by the sizes that the inputs gave them, or else by `batch`."""
    return tuple(axis if isinstance(axis, int) else sizes.get(axis, batch) for axis in spec.shape)
