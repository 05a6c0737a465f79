"""ONNX Runtime on the CPU: the graph as it is, one file, opened with what was measured to be fastest.

Measured on residual networks (2 cores, AVX2, ONNX Runtime 1.32):

- A fixed batch is as fast as a symbolic one (ratio 1.00 at three sizes), so the batch stays symbolic.
- With two threads, spinning inside a run makes it 1.2 times as fast; a pool that goes on spinning after the run makes
  the process beside it 1.2 times slower. So it spins, and stops at the end of each run.
- All in integers beats convolutions alone, 1.65 to 1.68 ms and 0.66 to 0.72 ms: each border costs two conversions. The
  operators listed below are those for which the optimized graph has an integer node, and no conversion beside it.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgeopt import environment, files
from edgeopt.backends import Arrays, Backend, Session, check_inputs
from edgeopt.context import Context
from edgeopt.errors import BackendError, MissingError
from edgeopt.model import Artifact, Form, Model, QuantizationProfile, list_files

if TYPE_CHECKING:
    import onnxruntime

MODEL = "model.onnx"
INSTALL = "`pip install edgeopt[cpu]`"

#: would quantize what a recipe keeps in float, wherever it stands between two pairs: to 8 bits and with one scale for
#: all channels, which is coarser than the layer was before, and saturates where there is no integer dot product
TURNED_OFF = ["WeightBiasQuantization"]

#: operator → the axis of its weight that counts outputs (of an untransposed one)
WEIGHT_AXES = {"Conv": 0, "Gemm": 1, "MatMul": 1}
QUANTIZED = (*WEIGHT_AXES, "Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid")
PASSTHROUGH = (
    "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Resize", "DepthToSpace",
    "Pad",
)  # fmt: skip


class OnnxruntimeCpu(Backend):
    """Runs float and QDQ graphs; QDQ pairs become integer operators when a session opens."""

    accepts: ClassVar[Form] = "onnx"

    def available(self) -> None:
        _import_runtime()

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
        files.copy(model.path, folder / MODEL)
        return Artifact(
            target=context.target,
            backend="onnxruntime_cpu",
            files=list_files(folder, [MODEL]),
            inputs=model.inputs,
            outputs=model.outputs,
            requires={
                "onnxruntime": _import_runtime().__version__,
                "isa": environment.needed_isa(context.isa, exact=bool(model.ranges)),
            },
            settings={"threads": context.threads, "batch": context.batch},
            folder=folder,
        )

    def open(self, artifact: Artifact) -> Session:
        path = artifact.folder / artifact.files[0].path
        return OnnxruntimeSession(open_runtime(str(path), int(artifact.settings["threads"])), artifact)


class OnnxruntimeSession(Session):
    """One inference session; its outputs are fresh arrays."""

    def __init__(self, session: onnxruntime.InferenceSession, artifact: Artifact) -> None:
        self._session: onnxruntime.InferenceSession | None = session
        self._inputs = artifact.inputs
        self._outputs = [spec.name for spec in artifact.outputs]

    def run(self, inputs: Arrays) -> Arrays:
        check_inputs(self._inputs, inputs)
        if self._session is None:
            raise BackendError("the session is closed")
        try:
            return dict(zip(self._outputs, self._session.run(self._outputs, inputs), strict=True))
        except Exception as error:  # the runtime's own exceptions have no base but Exception
            raise BackendError(f"ONNX Runtime failed: {_first_line(error)}") from error

    def close(self) -> None:
        self._session = None


def open_runtime(graph: str | bytes, threads: int, **settings: Any) -> onnxruntime.InferenceSession:
    """ONNX Runtime's own session, as every artifact is opened; `graph` is a path or the bytes of one.

    `settings` are further attributes of its `SessionOptions`: `explain` turns profiling on by them.

    Raises:
        BackendError: ONNX Runtime refuses the graph.
    """
    runtime: Any = _import_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4  # what goes wrong is raised; the log would say it twice
    options.add_session_config_entry("session.force_spinning_stop", "1")
    for name, value in settings.items():
        setattr(options, name, value)
    providers = ["CPUExecutionProvider"]
    try:
        return runtime.InferenceSession(graph, options, providers=providers, disabled_optimizers=TURNED_OFF)
    except Exception as error:  # the runtime's own exceptions have no base but Exception
        named = f"`{graph}`" if isinstance(graph, str) else "the graph"
        raise BackendError(f"ONNX Runtime cannot run {named}: {_first_line(error)}") from error


def _import_runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingError("`onnxruntime_cpu` needs ONNX Runtime, which is not installed", INSTALL) from error
    return onnxruntime


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
