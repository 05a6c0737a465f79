"""OpenVINO on the CPU: the graph as it is, one file, opened for the one batch size that it was built for.

Measured on small networks (AVX2 without VNNI, one thread, OpenVINO 2026.4.1; ratios of CPU time, all in turns):

- A symbolic batch makes a run 1.03 to 1.17 times as long at batch 1 (1.3 times in an INT8 DenseNet), and 1.01 to 1.07
  times at batch 8. And a Reshape into which a batch does not go gave the outputs of the run before, without a word;
  with a fixed batch it is refused on opening. So the batch axis of an artifact is a number. Other symbolic axes stay,
  and what does not fit goes unnoticed.
- OpenVINO's own format (IR) opens no faster (0.90 to 1.07 of the time, most of which is compiling), is 1.3 to 2.2
  times as large where the graph is quantized, and has other bytes each time. So the ONNX file is kept.
- By default each run pins its thread to the first core, even where it has but one: two processes then share that core
  and leave the others idle. It takes 1 % longer, too. So threads are not pinned.

The options (two threads on two cores that others used, too; the best of 12 turns):

- `hint: throughput` gives 1.5 and 1.8 times as many images per second to two callers as `latency` does (ResNet-20 in
  INT8, MobileNet in float). To one caller it gives 0.96 to 1.5 times as many on networks as small as these, in which
  two threads gain little: so it is worth trying there as well.
- `pinning: true` gives 1.1 to 1.2 times as many with `throughput`; with `latency` to one caller it gave 0.5 to 0.95,
  since a thread waits for its core while the other one is free.
- `cache: true` opens in 0.20 to 0.32 of the CPU time where the graph is quantized (ResNet-20: 40 for 190 ms, DenseNet:
  95 for 310 ms) and in 0.36 to 0.47 in float (40 for 110, 70 for 150 ms). What OpenVINO keeps by its own `CACHE_DIR`
  takes 0.37 to 0.62, since it reads the graph first. A compiled network is 1.1 to 2 times as large as its file.
- `bf16: true` needs AMX, and was not measured.

Nothing is computed in a precision that neither the graph nor `bf16` asks for: no float16, and 8 bits between pairs
alone. A NaN does not get past a Relu of OpenVINO, which makes it 0: a network that yields NaN may yield numbers here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from edgeopt import environment, files, openvino_sessions
from edgeopt.backends import Arrays, Backend, Session, check_inputs
from edgeopt.context import Context
from edgeopt.errors import BackendError, MissingError
from edgeopt.model import Artifact, Form, Model, QuantizationProfile, TensorSpec, list_files
from edgeopt.onnx_sessions import fix_axes, recorded
from edgeopt.openvino_sessions import CPU, PRECISION, Opening

MODEL = "model.onnx"
AMX = "amx_int8"

#: operator → the axis of its weight that counts outputs (of an untransposed one)
WEIGHT_AXES = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
PASSTHROUGH = (
    "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Resize", "DepthToSpace",
    "Pad",
)  # fmt: skip
ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "HardSwish", "Sigmoid", "Swish", "Tanh")


def make_profile(**differing: Any) -> QuantizationProfile:
    """What OpenVINO wants on all devices, as measured on the CPU, with what differs from one to another."""
    return QuantizationProfile(
        weight_dtype="int8",
        weight_axes=WEIGHT_AXES,
        quantized_ops=(*WEIGHT_AXES, "Add", "GlobalAveragePool"),
        passthrough_ops=PASSTHROUGH,
        fused_activations=ACTIVATIONS,
        float_output_ops=tuple(WEIGHT_AXES),
        quantize_bias=False,
        **differing,
    )


class OpenvinoCpu(Backend):
    """Runs float and QDQ graphs, for one batch size; QDQ pairs become integer operators when a session opens."""

    accepts: ClassVar[Form] = "onnx"

    hint: Literal["latency", "throughput"] = Field(
        default="latency", description="one run at a time on all threads; or as many at once as there are streams"
    )
    streams: int | None = Field(
        default=None,
        ge=1,
        description="runs at once with `hint: throughput`, which share the threads; none: a thread each",
    )
    pinning: bool = Field(default=False, description="keep each thread on a core of its own")
    cache: bool = Field(
        default=False, description="keep the compiled network in the user's cache folder, to open it faster again"
    )
    bf16: bool = Field(default=False, description="compute in bfloat16 what is float, on a CPU with AMX")

    @model_validator(mode="after")
    def _no_streams_without_throughput(self) -> OpenvinoCpu:
        if self.streams is not None and self.hint == "latency":
            raise ValueError("`streams` says how many run at once, which is `hint: throughput`")
        return self

    def available(self) -> None:
        try:
            openvino_sessions.start_core()
        except MissingError as error:
            raise MissingError("`openvino_cpu` needs OpenVINO, which is not installed", error.hint) from error

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
        return make_profile(
            name="openvino_cpu/arm64" if arm else f"openvino_cpu/{'x86_vnni' if exact else 'x86'}",
            activation_dtype="int8" if arm else "uint8",
            activation_symmetric=arm,
            weight_bits=8 if arm or exact else 7,
            integer_moves=("Pad",),
        )

    def build(self, model: Model, context: Context, folder: Path) -> Artifact:
        self.available()
        self._check(context)
        files.copy(model.path, folder / MODEL)
        isa = environment.needed_isa(context.isa, exact=bool(model.ranges))
        sizes = openvino_sessions.batch_sizes(model.inputs, context.batch)
        return Artifact(
            target=context.target,
            backend="openvino_cpu",
            files=list_files(folder, [MODEL]),
            inputs=fix_axes(model.inputs, sizes),
            outputs=fix_axes(model.outputs, sizes),
            requires={
                "openvino": environment.library_version("openvino") or "unknown",
                "isa": f"{isa} amx" if self.bf16 else isa,
            },
            settings={"threads": context.threads, "batch": context.batch, **self.model_dump()},
            folder=folder,
        )

    def _check(self, context: Context) -> None:
        isa = environment.cpu()[1] if context.isa is None else context.isa
        if self.bf16 and AMX not in isa:
            raise BackendError("`bf16` needs a CPU with AMX, and the target's has none", "leave `bf16` out")
        if (self.streams or 1) > context.threads:
            threads = f"{context.threads} thread{'s' if context.threads > 1 else ''}"
            raise BackendError(f"`streams: {self.streams}` do not go into {threads}", "give the target more `threads`")

    def open(self, artifact: Artifact) -> Session:
        options = recorded(OpenvinoCpu, artifact)
        opening = options._opening(int(artifact.settings["threads"]))
        path = artifact.folder / artifact.files[0].path
        return OpenvinoSession(openvino_sessions.open_network(path, artifact.inputs, opening), artifact)

    def alternatives(self, artifact: Artifact) -> Mapping[str, Artifact]:
        """The other hint, and pinned threads, which both say something only to more than one thread."""
        if int(artifact.settings["threads"]) == 1:
            return {}
        options = recorded(OpenvinoCpu, artifact)
        other = "latency" if options.hint == "throughput" else "throughput"
        tried: dict[str, dict[str, Any]] = {f"hint {other}": {"hint": other, "streams": None}}
        if not options.pinning:
            tried["pinning on"] = {"pinning": True}
        return {
            name: artifact.model_copy(update={"settings": artifact.settings | settings})
            for name, settings in tried.items()
        }

    def _opening(self, threads: int) -> Opening:
        streams = self.streams or (threads if self.hint == "throughput" else 1)
        properties = {
            "PERFORMANCE_HINT": self.hint.upper(),
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": self.pinning,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
            PRECISION: "bf16" if self.bf16 else "f32",
        }
        return Opening(CPU, properties, environment.cpu() if self.cache else ())


class OpenvinoSession(Session):
    """A compiled model and the requests that nobody uses just now: each holds the tensors of one run."""

    def __init__(self, compiled: Any, artifact: Artifact) -> None:
        self._compiled = compiled
        self._idle = [compiled.create_infer_request()]  # at once: it belongs to opening, not to the first run
        self._inputs = artifact.inputs
        read = openvino_sessions.names(compiled.inputs)
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
            raise BackendError(f"OpenVINO failed: {openvino_sessions.first_line(error)}") from error
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
    """OpenVINO's own compiled model, as an artifact is opened that was built without options, for these shapes.

    Raises:
        BackendError: OpenVINO refuses the graph, or the shapes.
    """
    return openvino_sessions.open_network(path, inputs, OpenvinoCpu()._opening(threads))
