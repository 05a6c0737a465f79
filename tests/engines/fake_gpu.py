"""What the fake GPU is and what goes wrong on it: one JSON text in the environment, so that child processes share it.

    {"version": "11.4.0.106", "build": "segfault"}

A test sets it by the fixture `fake_gpu`; the fakes read it anew each time that they need it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass

VARIABLE = "FAKE_GPU"

#: the newest release of each major version of TensorRT
VERSIONS = {10: "10.16.1.11", 11: "11.4.0.106"}

OLDEST_DRIVER = 12000


@dataclass(frozen=True)
class FakeGpu:
    """One GPU, sound unless a field says otherwise."""

    #: of TensorRT; read once, when `tensorrt` is imported
    version: str = VERSIONS[11]
    devices: int = 1
    name: str = "Fake Orin"
    capability: tuple[int, int] = (8, 7)
    #: 0: there is none; `OLDEST_DRIVER` and newer work
    driver: int = 13000
    memory_bytes: int = 8 << 30
    dla_cores: int = 0
    #: operators that the parser has no importer for
    refuses: tuple[str, ...] = ()
    #: what the builder does: `none` (returns None), `out_of_memory`, `segfault`, `hang`, or nothing wrong
    build: str = ""
    #: nodes that run in FP32 in the inspector's report, whatever the graph says
    float_layers: tuple[str, ...] = ()
    #: each floating-point output is NaN
    nan: bool = False
    #: what becomes of a CUDA graph that an engine is to be captured in: `refused`, `invalidated`, or nothing wrong
    capture: str = ""
    #: an engine finds no memory for an execution context
    no_context: bool = False

    def written(self) -> str:
        return json.dumps(dataclasses.asdict(self))


def fake_gpu() -> FakeGpu:
    """The GPU as the environment tells it."""
    fields = json.loads(os.environ.get(VARIABLE, "{}"))
    return FakeGpu(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
