"""A third-party backend for tests: its speed, its answers and its faults are written in the artifact's settings.

microseconds: how much of a core's time one run takes
helper_microseconds: how much another thread of the process takes meanwhile; sleep_microseconds: how long it sleeps
faster_after: the run from which on they take a tenth of that; alone: only one thread may run at a time
classes: how many scores there are
answers: `oracle` (the class is the first input value), `nan` (not finite where that value is 3), `dead` (zeros)
bug_at: the run that raises what no backend should; buggy: opening does
crash_at: the run, counted from 1, that ends the process; hang_at: the run that never returns
hoard_mb: memory that opening takes and never gives back
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgeopt.backends import Arrays, Backend, Session
from edgeopt.context import Context
from edgeopt.errors import BackendError
from edgeopt.model import Artifact, Form, Model, TensorSpec

CLASSES = 5


def burn(microseconds: float) -> None:
    until = time.thread_time() + microseconds / 1e6
    while time.thread_time() < until:
        pass


class ScriptedSession(Session):
    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._runs = 0
        if settings.get("refuse"):
            raise BackendError("the script says no", "write another script")
        if settings.get("buggy"):
            raise KeyError("weights")
        self._alone = threading.Lock() if settings.get("alone") else contextlib.nullcontext()
        self._hoard = np.ones(int(settings.get("hoard_mb", 0) * 1e6), np.uint8)

    def run(self, inputs: Arrays) -> Arrays:
        with self._alone:
            return self._run(inputs)

    def _run(self, inputs: Arrays) -> Arrays:
        self._runs += 1
        if self._runs == self._settings.get("bug_at"):
            raise ValueError("no such kernel")
        if self._runs == self._settings.get("crash_at"):
            os.abort()
        if self._runs == self._settings.get("hang_at"):
            time.sleep(3600)
        scores = self._scores(inputs["image"])
        if helper := self._settings.get("helper_microseconds"):
            thread = threading.Thread(target=burn, args=(helper,))
            thread.start()
            thread.join()
        share = 0.1 if self._runs > self._settings.get("faster_after", self._runs) else 1.0
        time.sleep(share * self._settings.get("sleep_microseconds", 0) / 1e6)
        burn(share * self._settings.get("microseconds", 0))
        return {"scores": scores}

    def _scores(self, images: Any) -> Any:
        classes = images.reshape(len(images), -1)[:, 0].astype(int)
        if self._settings.get("answers") == "dead":
            return np.zeros((len(images), CLASSES), np.float32)
        known = self._settings.get("classes", CLASSES)
        scores = np.eye(known, dtype=np.float32)[classes % known]
        if self._settings.get("answers") == "nan":
            scores[classes == 3] = np.nan
        return scores


class Scripted(Backend):
    accepts: ClassVar[Form] = "onnx"

    def available(self) -> None:
        return None

    def build(self, model: Model, context: Context, folder: Path) -> Artifact:
        raise NotImplementedError

    def open(self, artifact: Artifact) -> Session:
        return ScriptedSession(artifact.settings)


class ScriptedSimulation(Scripted):
    simulated: ClassVar[bool] = True


def script(backend: str = "scripted", batch: int | str = "batch", **settings: Any) -> Artifact:
    return Artifact(
        target="test",
        backend=backend,
        files=(),
        inputs=(TensorSpec(name="image", shape=(batch, 1, 2, 2)),),
        outputs=(TensorSpec(name="scores", shape=(batch, CLASSES)),),
        settings=settings,
    )
