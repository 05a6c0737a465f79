"""The runtimes as their documentation opens them for latency on one thread: what peers' files run in.

`offer` makes them known as a third party's package would, by entry points, so that workers find them, too. OpenVINO is
given fixed shapes, and its default of pinning its thread to the first core is off: all sides are pinned from outside.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from edgeopt import backends, files
from edgeopt.backends import Arrays, Backend, Session
from edgeopt.context import Context
from edgeopt.model import Artifact, Form, Model, TensorSpec, list_files

#: of each backend of edgeopt, the plain one
PLAIN = {"onnxruntime_cpu": "plain_onnxruntime", "openvino_cpu": "plain_openvino"}
ENTRY_POINTS = f"""[edgeopt.backends]
{PLAIN["onnxruntime_cpu"]} = plain:PlainOnnxruntime
{PLAIN["openvino_cpu"]} = plain:PlainOpenvino
"""
OPENVINO_SETTINGS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}

MODEL = "model.onnx"


class PlainSession(Session):
    """A function from inputs to outputs."""

    def __init__(self, run: Callable[[Arrays], Arrays]) -> None:
        self._run = run

    def run(self, inputs: Arrays) -> Arrays:
        return self._run(inputs)


class Plain(Backend):
    """An ONNX file as it is."""

    accepts: ClassVar[Form] = "onnx"
    library: ClassVar[str]

    def available(self) -> None:
        backends.get(f"{self.library}_cpu").available()

    def build(self, model: Model, context: Context, folder: Path) -> Artifact:
        files.copy(model.path, folder / MODEL)
        return Artifact(
            target=context.target, backend=f"plain_{self.library}", files=list_files(folder, [MODEL]),
            inputs=_fix(model.inputs, context.batch), outputs=_fix(model.outputs, context.batch), folder=folder,
        )  # fmt: skip


class PlainOnnxruntime(Plain):
    """Default options but for the number of threads."""

    library: ClassVar[str] = "onnxruntime"

    def open(self, artifact: Artifact) -> Session:
        import onnxruntime

        options: Any = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = str(artifact.folder / MODEL)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [spec.name for spec in artifact.outputs]
        return PlainSession(lambda inputs: dict(zip(names, session.run(names, inputs), strict=True)))


class PlainOpenvino(Plain):
    """The hint for latency, one thread, and the shapes fixed."""

    library: ClassVar[str] = "openvino"

    def open(self, artifact: Artifact) -> Session:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # or it reports each import to its makers
        import openvino

        core = openvino.Core()
        model = core.read_model(str(artifact.folder / MODEL))
        model.reshape({spec.name: list(spec.shape) for spec in artifact.inputs})
        request = core.compile_model(model, "CPU", OPENVINO_SETTINGS).create_infer_request()
        names = [spec.name for spec in artifact.outputs]

        def run(inputs: Arrays) -> Arrays:
            found = request.infer(inputs)
            return {name: found[name] for name in names}

        return PlainSession(run)


def offer(folder: Path) -> None:
    """Make the two known to this process and to the workers that it starts; `folder` must last as long as they do."""
    metadata = folder / "edgeopt_plain-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: edgeopt-plain\nVersion: 0\n", encoding="utf8")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS, encoding="utf8")
    sys.path.append(str(folder))


def _fix(specs: tuple[TensorSpec, ...], batch: int) -> tuple[TensorSpec, ...]:
    return tuple(spec.model_copy(update={"shape": spec.with_batch(batch)}) for spec in specs)
