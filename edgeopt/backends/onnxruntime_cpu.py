"""ONNX Runtime on the CPU: the graph as it is, one file, opened with what was measured to be fastest.

Measured on residual networks (2 cores, AVX2, ONNX Runtime 1.32):

- A fixed batch is as fast as a symbolic one (ratio 1.00 at three sizes), so the batch stays symbolic.
- With two threads, spinning inside a run makes it 1.2 times as fast; a pool that goes on spinning after the run makes
  the process beside it 1.2 times slower. So it spins, and stops at the end of each run.
- All in integers beats convolutions alone, 1.65 to 1.68 ms and 0.66 to 0.72 ms: each border costs two conversions. The
  operators listed below are those for which the optimized graph has an integer node, and no conversion beside it.

The options, each against the default, on a digits network, ResNet-20 and MobileNetV2, with one thread unless said.
Ratios are of time: what is above 1 is slower.

- `graph: extended`, without the layout in blocks, takes 1.34, 1.54 and 3.1 in float, and 1.02, 1.07 and 1.13 in INT8.
  `basic` and `none` take as much in float, and 2.8, 2.9 and 4.7 in INT8, where they fuse no pair. `extended` wins a
  little where channels are no multiple of 4: 1.00 with 9 or 33 of them, 0.98 to 0.99 with a Transpose in each layer.
- `spinning: never`, with two threads, takes 1.05 to 1.08 where two cores are free, and `always` 0.98 to 1.00. Where
  other jobs want the cores, both can win: in float they took 0.62 and 0.42 on the digits network, and in two runs 0.69
  and 0.37, 1.04 and 0.90 on ResNet-20. `never` is worth trying; `always` wins from whoever is beside it: you say it.
- `arena: false` takes 1.00 to 1.02, and saves nothing of the peak of memory (0.98 to 1.01).
- `prepacking: false` takes 1.00 in float and 1.5 to 1.7 in INT8, and saves nothing of the peak either (0.98 to 1.01).
- `format: ort` takes 0.99 to 1.00 and gives the same bits. It opens in 0.6 to 0.9 of the time and has 0.91 to 0.98 of
  the peak; the file is 1.01 to 1.15 times as large. Its bytes differ from build to build, in the order of entries.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from edgeopt import environment, files, onnx_sessions
from edgeopt.backends import Arrays, Backend, Session, check_inputs
from edgeopt.context import Context
from edgeopt.errors import BackendError
from edgeopt.model import Artifact, Form, Model, QuantizationProfile, list_files
from edgeopt.onnx_sessions import Level, Opening, ort_format

if TYPE_CHECKING:
    import onnxruntime

MODEL = "model.onnx"

#: operator → the axis of its weight that counts outputs (of an untransposed one)
WEIGHT_AXES = {"Conv": 0, "Gemm": 1, "MatMul": 1}
QUANTIZED = (*WEIGHT_AXES, "Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid")
PASSTHROUGH = (
    "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Resize", "DepthToSpace",
    "Pad",
)  # fmt: skip


#: option and value of the other settings that are worth trying
ALTERNATIVES: tuple[tuple[str, str | bool], ...] = (
    ("graph", "extended"), ("spinning", "never"),
)  # fmt: skip

#: that have no say once a graph is written as optimized, or without a second thread
NOT_IN_ORT, NOT_ALONE = ("graph",), ("spinning",)


class OnnxruntimeCpu(Backend):
    """Runs float and QDQ graphs; QDQ pairs become integer operators when a session opens."""

    accepts: ClassVar[Form] = "onnx"

    graph: Level = Field(
        default="all", description="how far the graph is optimized; `all` lays it out for the CPU, too"
    )
    spinning: Literal["run", "always", "never"] = Field(
        default="run", description="whether idle threads spin: during a run, after it too, or never"
    )
    arena: bool = Field(default=True, description="keep memory between runs, by a plan of the first one")
    prepacking: bool = Field(default=True, description="keep a second copy of weights in the order that kernels read")
    format: Literal["onnx", "ort"] = Field(
        default="onnx", description="`ort`: the graph as optimized, and the operators that a reduced build needs"
    )

    def available(self) -> None:
        onnx_sessions.import_runtime()

    def profile(self, isa: Collection[str] | None = None) -> QuantizationProfile:
        """Per-channel weights; u8 activations on x86, s8 on arm; 7-bit weights where 8 bits would saturate.

        Activations are asymmetric on arm too: a Relu before Q is dropped only where the zero point is the lowest
        integer, without which 9 of 19 convolutions of a ResNet-20 ran in integers, with it all 19.

        AVX2 adds pairs of u8 s8 products in 16 bits: two of 255 * 127 do not fit, two of 255 * 63 do.
        """
        arm, exact = environment.is_arm(isa), environment.has_integer_dot_product(isa)
        return QuantizationProfile(
            name="onnxruntime_cpu/arm64" if arm else f"onnxruntime_cpu/{'x86_vnni' if exact else 'x86'}",
            activation_dtype="int8" if arm else "uint8",
            weight_dtype="int8",
            weight_bits=8 if arm or exact else 7,
            weight_axes=WEIGHT_AXES,
            quantized_ops=QUANTIZED,
            passthrough_ops=PASSTHROUGH,
            integer_moves=("Pad",),
            fused_activations=("Relu", "Clip"),
            float_output_ops=("Gemm", "MatMul"),
        )

    def build(self, model: Model, context: Context, folder: Path) -> Artifact:
        requires = {
            "onnxruntime": onnx_sessions.import_runtime().__version__,
            "isa": environment.needed_isa(context.isa, exact=bool(model.ranges)),
        }
        names = [MODEL]
        if self.format == "ort":
            names = [ort_format.GRAPH, ort_format.OPERATORS]
            block = ort_format.write_ort(model.path, folder, self._opening(context.threads), context.isa)
            requires |= {} if block is None else {"channel_block": str(block)}
        else:
            files.copy(model.path, folder / MODEL)
        return Artifact(
            target=context.target,
            backend="onnxruntime_cpu",
            files=list_files(folder, names),
            inputs=model.inputs,
            outputs=model.outputs,
            requires=requires,
            settings={"threads": context.threads, "batch": context.batch, **self.model_dump()},
            folder=folder,
        )

    def open(self, artifact: Artifact) -> Session:
        block, here = artifact.requires.get("channel_block"), str(ort_format.channel_block())
        if block not in (None, here):
            message = f"the graph is laid out in blocks of {block} channels, and this CPU takes {here}"
            raise BackendError(message, "name the CPU by `isa:` of the target, or take `format: onnx`")
        opening = onnx_sessions.recorded(OnnxruntimeCpu, artifact)._opening(int(artifact.settings["threads"]))
        session = onnx_sessions.open_session(onnx_sessions.graph_path(artifact), opening)
        outputs = [spec.name for spec in artifact.outputs]
        return OnnxruntimeSession(onnx_sessions.run_on_host(session, outputs), artifact)

    def alternatives(self, artifact: Artifact) -> Mapping[str, Artifact]:
        """Less optimized graphs, which win where a layout costs more than it saves; quieter threads; no arena."""
        options = onnx_sessions.recorded(OnnxruntimeCpu, artifact)
        idle = (*(NOT_IN_ORT if options.format == "ort" else ()),
                *(NOT_ALONE if int(artifact.settings["threads"]) == 1 else ()))  # fmt: skip
        return {
            f"{option} {_tell(value)}": artifact.model_copy(update={"settings": artifact.settings | {option: value}})
            for option, value in ALTERNATIVES
            if option not in idle and getattr(options, option) != value
        }

    def _opening(self, threads: int) -> Opening:
        entries = {"run": onnx_sessions.STOP_SPINNING, "never": {"session.intra_op.allow_spinning": "0"}, "always": {}}
        packing = {} if self.prepacking else {"session.disable_prepacking": "1"}
        arena: dict[str, Any] = {} if self.arena else {"enable_cpu_mem_arena": False, "enable_mem_pattern": False}
        return Opening(
            threads=threads, level=self.graph, entries={**entries[self.spinning], **packing}, attributes=arena
        )


class OnnxruntimeSession(Session):
    """What runs one batch, and gives fresh arrays, until it is closed."""

    def __init__(self, run: Callable[[Arrays], Arrays], artifact: Artifact) -> None:
        self._run: Callable[[Arrays], Arrays] | None = run
        self._inputs = artifact.inputs

    def run(self, inputs: Arrays) -> Arrays:
        check_inputs(self._inputs, inputs)
        run = self._run
        if run is None:
            raise BackendError("the session is closed")
        try:
            return run(inputs)
        except Exception as error:  # the runtime's own exceptions have no base but Exception
            raise BackendError(f"ONNX Runtime failed: {onnx_sessions.first_line(error)}") from error

    def close(self) -> None:
        self._run = None


def open_runtime(graph: str | bytes, threads: int, **settings: Any) -> onnxruntime.InferenceSession:
    """ONNX Runtime's own session, as an artifact is opened that was built without options; `graph`: a path or bytes.

    `settings` are further attributes of its `SessionOptions`: `explain` turns profiling on by them.

    Raises:
        BackendError: ONNX Runtime refuses the graph.
    """
    return onnx_sessions.open_session(graph, Opening(threads=threads, attributes=settings))


def _tell(value: str | bool) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value
