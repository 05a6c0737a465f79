"""ONNX Runtime on NVIDIA GPUs by CUDA and cuDNN: the graph as it is, operator by operator.

It has no convolution in integers: a pair stays a QuantizeLinear and a DequantizeLinear of their own around a float
convolution (the kernels are float, half and bfloat16, and what fuses pairs does so for the CPU alone), so that INT8
adds work and saves none. Hence no quantization profile; `onnxruntime_tensorrt` and `tensorrt` compute in integers.

What is asked for is what runs: ONNX Runtime may run on the CPU what CUDA does not take only where `allow_cpu` says so,
and a build looks at every node. Nothing here was measured on a GPU yet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from edgeopt import files, onnx_sessions
from edgeopt.backends import Backend, Session, zeros
from edgeopt.backends.onnxruntime_cpu import OnnxruntimeSession
from edgeopt.context import Context
from edgeopt.model import Artifact, Form, Model, list_files
from edgeopt.onnx_sessions import Opening, gpu
from edgeopt.onnx_sessions.coverage import take_coverage
from edgeopt.onnx_sessions.device_buffers import DeviceBuffers

MODEL = "model.onnx"
MB = 1_000_000


class OnnxruntimeCuda(Backend):
    """Runs float graphs on an NVIDIA GPU, each operator by a kernel of CUDA or cuDNN."""

    accepts: ClassVar[Form] = "onnx"
    on_nvidia: ClassVar[bool] = True

    device_id: int = Field(default=0, ge=0, description="number of the GPU")
    arena_mb: int | None = Field(default=None, gt=0, description="most memory of the GPU that it keeps; none: no limit")
    cudnn_conv_algo_search: Literal["exhaustive", "heuristic", "default"] = Field(
        default="exhaustive", description="whether algorithms of convolutions are timed, foretold or left to cuDNN"
    )
    use_tf32: bool = Field(default=False, description="round float inputs of products to 10 bits, which is faster")
    cuda_graph: bool = Field(
        default=False, description="launch all kernels of a run as one, for one batch size; one run at a time"
    )
    allow_cpu: bool = Field(default=False, description="run on the CPU what CUDA does not take")

    @model_validator(mode="after")
    def _no_graph_over_two_devices(self) -> OnnxruntimeCuda:
        if self.cuda_graph and self.allow_cpu:
            raise ValueError("`cuda_graph` takes every node on the GPU: it goes without `allow_cpu`")
        return self

    def available(self) -> None:
        gpu.require_gpu("cuda", self.device_id)

    def machine(self) -> dict[str, str]:
        return gpu.machine()

    def build(self, model: Model, context: Context, folder: Path) -> Artifact:
        files.copy(model.path, folder / MODEL)
        sizes = onnx_sessions.batch_symbols(model.inputs, context.batch) if self.cuda_graph else {}
        artifact = Artifact(
            target=context.target,
            backend="onnxruntime_cuda",
            files=list_files(folder, [MODEL]),
            inputs=onnx_sessions.fix_axes(model.inputs, sizes),
            outputs=onnx_sessions.fix_axes(model.outputs, sizes),
            requires={"onnxruntime": onnx_sessions.import_runtime().__version__, "gpu": "nvidia"},
            settings={"threads": context.threads, "batch": context.batch, "dimensions": sizes, **self.model_dump()},
            folder=folder,
        )
        # seen without a captured graph, in which no node has a time of its own, and with the CPU, to name what is there
        seen = self.model_copy(update={"cuda_graph": False, "allow_cpu": True})._opening(artifact)
        coverage = take_coverage(onnx_sessions.graph_path(artifact), seen, zeros(artifact, context.batch))
        coverage.require(["cuda", onnx_sessions.CPU] if self.allow_cpu else ["cuda"])
        return artifact.model_copy(update={"facts": coverage.facts()})

    def open(self, artifact: Artifact) -> Session:
        options = onnx_sessions.recorded(OnnxruntimeCuda, artifact)
        options.available()
        session = onnx_sessions.open_session(onnx_sessions.graph_path(artifact), options._opening(artifact))
        device = ("cuda", options.device_id)
        buffers = DeviceBuffers(session, artifact.inputs, artifact.outputs, device, alone=options.cuda_graph)
        return OnnxruntimeSession(buffers, artifact)

    def _opening(self, artifact: Artifact) -> Opening:
        providers: dict[str, dict[str, str]] = {"cuda": self.provider_options()}
        return Opening(
            threads=int(artifact.settings["threads"]),
            providers=providers | ({onnx_sessions.CPU: {}} if self.allow_cpu else {}),
            dimensions=artifact.settings["dimensions"],
        )

    def provider_options(self) -> dict[str, str]:
        """The options of ONNX Runtime's CUDA provider."""
        given: dict[str, Any] = {
            "device_id": self.device_id,
            "cudnn_conv_algo_search": self.cudnn_conv_algo_search.upper(),
            "use_tf32": int(self.use_tf32),
            "enable_cuda_graph": int(self.cuda_graph),
        }
        if self.arena_mb is not None:
            given["gpu_mem_limit"] = self.arena_mb * MB
        return {name: str(value) for name, value in given.items()}
