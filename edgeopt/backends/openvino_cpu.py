"""OpenVINO on the CPU: the graph as it is, one file, opened for the one batch size that it was built for.

Measured on small networks (AVX2 without VNNI, one thread, OpenVINO 2026.4.1; ratios of CPU time, all in turns):

- A symbolic batch makes a run 1.03 to 1.17 times as long at batch 1, and 1.01 to 1.07 times at batch 8. And a Reshape
  into which a batch does not go gave the outputs of the run before, without a word; with a fixed batch it is refused on
  opening. So the batch axis of an artifact is a number. Other symbolic axes stay, and what does not fit goes unnoticed.
- OpenVINO's own format (IR) opens no faster (0.90 to 1.07 of the time, most of which is compiling), is 1.3 to 2.2
  times as large where the graph is quantized, and has other bytes each time. So the ONNX file is kept.
- By default each run pins its thread to the first core, even where it has but one: two processes then share that core
  and leave the others idle. It takes 1 % longer, too. So threads are not pinned.

Nothing is computed in a precision that the graph does not ask for: no bfloat16, no float16, and 8 bits between pairs
alone. A NaN does not get past a Relu of OpenVINO, which makes it 0: a network that yields NaN may yield numbers here.

As it is, `import openvino` reports every import to its makers, with no consent asked: it writes an identity to
`~/intel` and forks a process that calls an analytics service. That is the work of `openvino_telemetry`; without it,
OpenVINO takes a stand-in of its own that does nothing. So it is imported as if that library were not installed.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgeopt import environment, files
from edgeopt.backends import Arrays, Backend, Session, check_inputs
from edgeopt.context import Context
from edgeopt.errors import BackendError, MissingError
from edgeopt.model import Artifact, Form, Model, QuantizationProfile, TensorSpec, list_files

MODEL = "model.onnx"
INSTALL = "`pip install edgeopt[openvino]`"
TELEMETRY = "openvino_telemetry"

#: one request runs at a time, as fast as it can, and nothing is rounded beyond what the graph says
SETTINGS = {
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": 1,
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    "ENABLE_CPU_PINNING": False,
}

#: how lines of an error begin that say where in OpenVINO it was raised, and not what is wrong
PLACES = ("Exception from ", "Check '", "FrontEnd API failed", "Model wasn't", "Summary", "While validating")

#: operator → the axis of its weight that counts outputs (of an untransposed one)
WEIGHT_AXES = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
PASSTHROUGH = (
    "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Resize", "DepthToSpace",
    "Pad",
)  # fmt: skip
ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "HardSwish", "Sigmoid", "Swish", "Tanh")


class OpenvinoCpu(Backend):
    """Runs float and QDQ graphs, for one batch size; QDQ pairs become integer operators when a session opens."""

    accepts: ClassVar[Form] = "onnx"

    def available(self) -> None:
        _import_runtime()

    def profile(self, isa: Collection[str] | None = None) -> QuantizationProfile:
        """u8 activations, float biases, and pairs where integers are read; 7-bit weights where 8 bits would saturate.

        Measured on 13 networks; ratios are times against this profile, dB are signal to noise at the output. It takes
        0.49 to 0.73 of the time of float; up to 0.99 where convolutions are depthwise and images small.

        - int8 activations are no faster (0.99 to 1.11), since convolutions take uint8. And they are wrong: a Concat
          loses 13 to 30 dB against the same pairs computed one by one.
        - Without VNNI products are added in pairs, in 16 bits, as in ONNX Runtime: in convolutions and Gemm 255 * 127
          comes out as half, and with int8 activations as a hundredth. 8-bit weights then cost 3 to 15 dB in 12 of the
          networks, and are no faster (0.98 to 1.02). Depthwise convolutions add no pairs.
        - Operators with a weight give floats as well as integers. A pair behind each of them, whoever reads it, takes
          1.02 to 1.08 where that is Concat, a gate or an average, 0.99 to 1.02 elsewhere, and costs up to 2 dB.
        - Biases are added in float anyway: as int32 they save nothing (0.99 to 1.04) and cost 0.2 dB.
        - All activations but HardSigmoid run inside the convolution before them, unless a pair stands between the two:
          then 1.05 to 1.19 for Relu, 1.3 for Clip and HardSwish, 1.09 to 1.16 for the others, and 1.14 of a whole
          network for SiLU, which is Swish.
        - In float, Add takes 1.01 to 1.06 and ConvTranspose 1.07. GlobalAveragePool takes 0.99 to 1.01, and a
          conversion more.
        - In integers, Mul takes 1.04 to 1.22, since gates run in float; Concat 1.01 to 1.08, and up to 5 dB
          are lost. Without a pair of its own a Concat moves integers all the same. So neither has one.
        - Pad moves integers itself. Between pairs it is as fast, but where channels are padded, OpenVINO refuses the
          graph, or loses 20 dB (int8). An AveragePool that counts its padding loses 10 dB where values are signed.

        On arm nothing was measured. int8 without zero points is what its kernels take, by the pull requests 36764 and
        37351 of OpenVINO; what a Concat makes of them is to be looked at.
        """
        arm, exact = environment.is_arm(isa), environment.has_integer_dot_product(isa)
        return QuantizationProfile(
            name="openvino_cpu/arm64" if arm else f"openvino_cpu/{'x86_vnni' if exact else 'x86'}",
            activation_dtype="int8" if arm else "uint8",
            activation_symmetric=arm,
            weight_dtype="int8",
            weight_bits=8 if arm or exact else 7,
            weight_axes=WEIGHT_AXES,
            quantized_ops=(*WEIGHT_AXES, "Add", "GlobalAveragePool"),
            passthrough_ops=PASSTHROUGH,
            integer_moves=("Pad",),
            fused_activations=ACTIVATIONS,
            float_output_ops=tuple(WEIGHT_AXES),
            quantize_bias=False,
        )

    def build(self, model: Model, context: Context, folder: Path) -> Artifact:
        self.available()
        files.copy(model.path, folder / MODEL)
        symbols = {spec.shape[0] for spec in model.inputs if spec.shape}
        return Artifact(
            target=context.target,
            backend="openvino_cpu",
            files=list_files(folder, [MODEL]),
            inputs=_fix_batch(model.inputs, symbols, context.batch),
            outputs=_fix_batch(model.outputs, symbols, context.batch),
            requires={
                "openvino": environment.library_version("openvino") or "unknown",
                "isa": environment.needed_isa(context.isa, exact=bool(model.ranges)),
            },
            settings={"threads": context.threads, "batch": context.batch},
            folder=folder,
        )

    def open(self, artifact: Artifact) -> Session:
        path = artifact.folder / artifact.files[0].path
        return OpenvinoSession(open_runtime(path, artifact.inputs, int(artifact.settings["threads"])), artifact)


class OpenvinoSession(Session):
    """A compiled model and the requests that nobody uses just now: each holds the tensors of one run."""

    def __init__(self, compiled: Any, artifact: Artifact) -> None:
        self._compiled = compiled
        self._idle = [compiled.create_infer_request()]  # at once: it belongs to opening, not to the first run
        self._inputs = artifact.inputs
        read = _names(compiled.inputs)
        self._read = [spec.name for spec in artifact.inputs if spec.name in read]
        self._outputs = [spec.name for spec in artifact.outputs]

    def run(self, inputs: Arrays) -> Arrays:
        check_inputs(self._inputs, inputs)
        compiled = self._compiled
        if compiled is None:
            raise BackendError("the session is closed")
        try:
            request = self._take(compiled)
            outputs = self._run(request, inputs)
        except Exception as error:  # most are RuntimeError, but none is promised
            raise BackendError(f"OpenVINO failed: {_first_line(error)}") from error
        self._give_back(request)
        return outputs

    def _take(self, compiled: Any) -> Any:
        with contextlib.suppress(IndexError):  # another thread may take the last one at any moment
            return self._idle.pop()
        return compiled.create_infer_request()

    def _give_back(self, request: Any) -> None:
        if self._compiled is not None:
            self._idle.append(request)

    def _run(self, request: Any, inputs: Arrays) -> Arrays:
        """Inputs are shared with OpenVINO where it can share them, and outputs copied, since the next run writes there.

        Tensors that are set and got by name cost 10 microseconds less than arguments and results of `infer`.
        """
        import openvino

        for name in self._read:
            array = np.require(inputs[name], requirements=["C", "W"])
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        request.infer(share_outputs=True)
        return {name: request.get_tensor(name).data.copy() for name in self._outputs}

    def close(self) -> None:
        self._compiled = None
        self._idle.clear()


def open_runtime(path: Path, inputs: tuple[TensorSpec, ...], threads: int) -> Any:
    """OpenVINO's own compiled model, as every artifact is opened, for inputs of these shapes.

    Raises:
        BackendError: OpenVINO refuses the graph, or the shapes.
    """
    core = _import_runtime().Core()
    try:
        model = core.read_model(str(path))
        read = _names(model.inputs)
        model.reshape({spec.name: _partial_shape(spec) for spec in inputs if spec.name in read})
        return core.compile_model(model, "CPU", {**SETTINGS, "INFERENCE_NUM_THREADS": threads})
    except Exception as error:  # most are RuntimeError, but none is promised
        raise BackendError(f"OpenVINO cannot run `{path}`: {_first_line(error)}") from error


def _names(ports: Any) -> set[str]:
    """The tensors behind these ports; OpenVINO drops inputs that nothing reads."""
    return {name for port in ports for name in port.get_names()}


def _partial_shape(spec: TensorSpec) -> list[int]:
    return [axis if isinstance(axis, int) else -1 for axis in spec.shape]


def _fix_batch(specs: tuple[TensorSpec, ...], symbols: set[int | str], batch: int) -> tuple[TensorSpec, ...]:
    """The specs with `batch` for the symbols that inputs have on their first axis."""
    fixed = ([batch if isinstance(axis, str) and axis in symbols else axis for axis in spec.shape] for spec in specs)
    return tuple(spec.model_copy(update={"shape": tuple(shape)}) for spec, shape in zip(specs, fixed, strict=True))


def _import_runtime() -> Any:
    try:
        with _without_telemetry():
            import openvino
    except ImportError as error:
        raise MissingError("`openvino_cpu` needs OpenVINO, which is not installed", INSTALL) from error
    return openvino


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """Meanwhile `openvino_telemetry` seems not to be installed.

    What OpenVINO imports keeps the stand-in; whoever else wants that library in this process finds it as before.
    """
    modules: dict[str, Any] = sys.modules
    was_there, before = TELEMETRY in modules, modules.get(TELEMETRY)
    modules[TELEMETRY] = None
    try:
        yield
    finally:
        if was_there:
            modules[TELEMETRY] = before
        else:
            modules.pop(TELEMETRY, None)


def _first_line(error: Exception) -> str:
    """The first line that says what is wrong."""
    lines = [line.strip(" -") for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(PLACES)]
    return told[0] if told else type(error).__name__
