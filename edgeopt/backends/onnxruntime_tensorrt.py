"""ONNX Runtime on NVIDIA GPUs by TensorRT: engines for what TensorRT takes of the graph, CUDA for the rest.

`tensorrt` is faster to open and strict about types; this one takes graphs of which TensorRT does not know every
operator. Precision is the graph's: pairs and float16 tensors turn on the flags that TensorRT wants for them, nothing
else does. TensorRT 10 may still compute float by TF32, which ONNX Runtime gives no option for; `NVIDIA_TF32_OVERRIDE=0`
in the environment keeps it from doing so.

ONNX Runtime names a cached engine after the graph's file and tensors, and not after its weights: in a cache that two
networks share, the second one silently runs as the first. So engines belong to the artifact, are read from a copy, and
one that TensorRT builds anew when a session opens is an error, because it was not the one that was measured. Timings of
kernels, which are no network's own, are kept beside the store.

Nothing here was measured on a GPU yet.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from edgeopt import files, onnx_sessions
from edgeopt.backends import Backend, Session, zeros
from edgeopt.backends.onnxruntime_cpu import OnnxruntimeSession
from edgeopt.backends.onnxruntime_cuda import MB, MODEL, OnnxruntimeCuda
from edgeopt.context import Context
from edgeopt.errors import BackendError
from edgeopt.model import Artifact, Facts, Form, Model, QuantizationProfile, list_files
from edgeopt.onnx_sessions import Opening, gpu
from edgeopt.onnx_sessions.coverage import take_coverage
from edgeopt.onnx_sessions.device_buffers import DeviceBuffers
from edgeopt.quantization.profiles import TENSORRT
from edgeopt.store import default_root

if TYPE_CHECKING:
    import onnx

ENGINES = "engines"
TIMINGS = "tensorrt_timings"
PAIR = ("QuantizeLinear", "DequantizeLinear")


class OnnxruntimeTensorrt(Backend):
    """Runs float and QDQ graphs on an NVIDIA GPU by TensorRT engines, and by CUDA where TensorRT knows no operator."""

    accepts: ClassVar[Form] = "onnx"
    on_nvidia: ClassVar[bool] = True

    device_id: int = Field(default=0, ge=0, description="number of the GPU")
    workspace_mb: int | None = Field(
        default=None, gt=0, description="most memory of the GPU that one layer may take; none: no limit"
    )
    builder_optimization_level: int = Field(
        default=3, ge=0, le=5, description="how long the builder tries: more makes engines faster and builds longer"
    )
    timing_cache: bool = Field(default=True, description="keep timings of kernels for the builds to come")
    use_tf32: bool = Field(default=False, description="round float inputs of products to 10 bits, in CUDA's part")
    cuda_graph: bool = Field(default=False, description="launch all kernels of a run as one; one run at a time")
    allow_cpu: bool = Field(default=False, description="run on the CPU what neither TensorRT nor CUDA takes")

    @model_validator(mode="after")
    def _no_graph_over_two_devices(self) -> OnnxruntimeTensorrt:
        if self.cuda_graph and self.allow_cpu:
            raise ValueError("`cuda_graph` takes every node on the GPU: it goes without `allow_cpu`")
        return self

    def available(self) -> None:
        gpu.require_gpu("tensorrt", self.device_id)

    def profile(self, isa: Collection[str] | None = None) -> QuantizationProfile:
        """Symmetric s8 before what computes in integers, per-channel weights, no pair on a bias: see `TENSORRT`."""
        return TENSORRT

    def machine(self) -> dict[str, str]:
        return gpu.machine()

    def build(self, model: Model, context: Context, folder: Path) -> Artifact:
        from edgeopt.onnx_graph import load_graph

        files.copy(model.path, folder / MODEL)
        sizes = onnx_sessions.batch_symbols(model.inputs, context.batch)
        capability = gpu.compute_capability(self.device_id)
        artifact = Artifact(
            target=context.target,
            backend="onnxruntime_tensorrt",
            files=list_files(folder, [MODEL]),
            inputs=onnx_sessions.fix_axes(model.inputs, sizes),
            outputs=onnx_sessions.fix_axes(model.outputs, sizes),
            requires={"onnxruntime": onnx_sessions.import_runtime().__version__, "compute_capability": capability},
            settings={
                "threads": context.threads, "batch": context.batch, "dimensions": sizes,
                "flags": precision_flags(load_graph(model.path)), **self.model_dump(),
            },
            folder=folder,
        )  # fmt: skip
        facts = self._build_engines(artifact, context)
        engines = [f"{ENGINES}/{path.name}" for path in (folder / ENGINES).iterdir()]
        return artifact.model_copy(update={"files": list_files(folder, [MODEL, *engines]), "facts": facts})

    def open(self, artifact: Artifact) -> Session:
        options = onnx_sessions.recorded(OnnxruntimeTensorrt, artifact)
        options.available()
        with tempfile.TemporaryDirectory(prefix="edgeopt-engines-") as scratch:
            engines = {Path(file.path).name: artifact.folder / file.path for file in artifact.files}
            del engines[MODEL]
            for name, path in engines.items():
                files.copy(path, Path(scratch) / name)
            opening = options._opening(artifact, Path(scratch))
            session = onnx_sessions.open_session(onnx_sessions.graph_path(artifact), opening)
            require_same_engines(engines, Path(scratch))
        device = ("cuda", options.device_id)
        buffers = DeviceBuffers(session, artifact.inputs, artifact.outputs, device, alone=options.cuda_graph)
        return OnnxruntimeSession(buffers, artifact)

    def _build_engines(self, artifact: Artifact, context: Context) -> Facts:
        """Leave the engines in the folder of the artifact, and tell what runs by them.

        One build at a time: it times kernels, and writes down what it found.
        """
        engines, timings = artifact.folder / ENGINES, default_root() / TIMINGS
        for path in (engines, timings):
            files.make_folder(path)
        seen = self.model_copy(update={"cuda_graph": False, "allow_cpu": True})._opening(artifact, engines, timings)
        with files.lock(timings / "lock"):
            coverage = take_coverage(onnx_sessions.graph_path(artifact), seen, zeros(artifact, context.batch))
        on_gpu = ["tensorrt"] if self.cuda_graph else ["tensorrt", "cuda"]
        coverage.require([*on_gpu, onnx_sessions.CPU] if self.allow_cpu else on_gpu)
        return coverage.facts()

    def _opening(self, artifact: Artifact, engines: Path, timings: Path | None = None) -> Opening:
        behind = OnnxruntimeCuda(device_id=self.device_id, use_tf32=self.use_tf32).provider_options()
        providers = {"tensorrt": {**artifact.settings["flags"], **self.provider_options(engines, timings)}}
        return Opening(
            threads=int(artifact.settings["threads"]),
            providers=providers | {"cuda": behind} | ({onnx_sessions.CPU: {}} if self.allow_cpu else {}),
            dimensions=artifact.settings["dimensions"],
        )

    def provider_options(self, engines: Path, timings: Path | None = None) -> dict[str, str]:
        """The options of ONNX Runtime's TensorRT provider, which keeps engines and timings in these folders."""
        given: dict[str, Any] = {
            "device_id": self.device_id,
            "trt_builder_optimization_level": self.builder_optimization_level,
            "trt_cuda_graph_enable": int(self.cuda_graph),
            "trt_engine_cache_enable": 1,
            "trt_engine_cache_path": engines,
        }
        if self.workspace_mb is not None:
            given["trt_max_workspace_size"] = self.workspace_mb * MB
        if self.timing_cache and timings is not None:
            given |= {"trt_timing_cache_enable": 1, "trt_timing_cache_path": timings}
        return {name: str(value) for name, value in given.items()}


def precision_flags(graph: onnx.ModelProto) -> dict[str, str]:
    """What TensorRT 10 must be allowed to take a graph as it is: int8 where it has pairs, float16 where it has that,
    and kernels for two zeros in four weights where it has such."""
    import onnx

    from edgeopt.sparsity.pattern import has_sparse

    tensors = {tensor.data_type for tensor in graph.graph.initializer}
    tensors |= {value.type.tensor_type.elem_type for value in (*graph.graph.input, *graph.graph.value_info)}
    tensors |= {one.i for node in graph.graph.node if node.op_type == "Cast" for one in node.attribute}
    flags = {
        "trt_int8_enable": any(node.op_type in PAIR for node in graph.graph.node),
        "trt_fp16_enable": onnx.TensorProto.FLOAT16 in tensors,
        "trt_sparsity_enable": has_sparse(graph),
    }
    return {name: "1" for name, needed in flags.items() if needed}


def require_same_engines(engines: Collection[str], folder: Path) -> None:
    """Return if a session that opened with the engines in `folder` has built none there.

    Raises:
        BackendError: the engines of the artifact are not for this machine, so that others stand in for them.
    """
    built = sorted({path.name for path in folder.iterdir()} - set(engines))
    if built:
        message = f"TensorRT built {', '.join(f'`{name}`' for name in built)} anew: the artifact's do not fit"
        raise BackendError(message, "build it on a machine with this GPU, driver, TensorRT and ONNX Runtime")
