"""A third-party backend for tests that ends as the text of its one file says.

ok: ten times the input; error: the process ends with SIGSEGV; hang: it never answers.
A second word names a file: the first run makes it, and kills whoever started this, as a power cut in the midst of a
smoke test would.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import ClassVar

import numpy as np

from edgeopt.backends import Arrays, Backend, Session
from edgeopt.context import Context
from edgeopt.model import Artifact, Form, Model, QuantizationProfile


class DoomedSession(Session):
    def __init__(self, fate: str, *mark: str) -> None:
        self._fate, self._marks = fate, [Path(one) for one in mark]

    def run(self, inputs: Arrays) -> Arrays:
        for mark in self._marks:
            if not mark.exists():
                mark.touch()
                os.kill(os.getppid(), signal.SIGKILL)
        if self._fate == "error":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self._fate == "hang":
            time.sleep(3600)
        return {"scores": np.asarray(inputs["image"] * 10)}


class Doomed(Backend):
    accepts: ClassVar[Form] = "onnx"

    def available(self) -> None:
        return

    def profile(self) -> QuantizationProfile:
        raise NotImplementedError

    def build(self, model: Model, context: Context, folder: Path) -> Artifact:
        raise NotImplementedError

    def open(self, artifact: Artifact) -> Session:
        return DoomedSession(*(artifact.folder / "model.onnx").read_text().split())
