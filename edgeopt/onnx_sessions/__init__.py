"""ONNX Runtime's sessions, opened in one way for all backends that use it: on the CPU, on GPUs, over several devices.

What one of its providers does not take, ONNX Runtime runs on the CPU, and says nothing; a provider that its wheel lacks
or whose libraries are not found is left out in silence, and the whole network runs on the CPU. So what is asked for is
held against what is there before a session opens and after, and `coverage.py` looks at what really ran where.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from edgeopt.errors import BackendError, MissingError
from edgeopt.model import Artifact, TensorSpec, Value

if TYPE_CHECKING:
    import onnxruntime

Level = Literal["all", "extended", "basic", "none"]

CPU = "cpu"
INSTALL = "`pip install edgeopt[cpu]`"

#: the name of a provider in a recipe → ONNX Runtime's
PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "dnnl": "DnnlExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "nnapi": "NnapiExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "dml": "DmlExecutionProvider",
    "acl": "ACLExecutionProvider",
    "cann": "CANNExecutionProvider",
    "rknpu": "RknpuExecutionProvider",
    "vitisai": "VitisAIExecutionProvider",
    "vsinpu": "VSINPUExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    CPU: "CPUExecutionProvider",
}
SHORT_NAMES = {name: short for short, name in PROVIDERS.items()}

#: would quantize what a recipe keeps in float, wherever it stands between two pairs: to 8 bits and with one scale for
#: all channels, which is coarser than the layer was before, and saturates where there is no integer dot product
TURNED_OFF = ("WeightBiasQuantization",)

#: a pool that goes on spinning after a run takes the core from whoever is beside it
STOP_SPINNING = {"session.force_spinning_stop": "1"}

_LEVELS = {
    "all": "ORT_ENABLE_ALL", "extended": "ORT_ENABLE_EXTENDED", "basic": "ORT_ENABLE_BASIC", "none": "ORT_DISABLE_ALL",
}  # fmt: skip

Options = TypeVar("Options", bound=Value)


@dataclass(frozen=True)
class Opening:
    """How a session is opened.

    Attributes:
        threads: of the CPU, inside one operator.
        providers: name in a recipe → its options, the first choice first; without `cpu` nothing may run there.
        level: how far the graph is optimized.
        entries: configuration entries of `SessionOptions`.
        attributes: further attributes of `SessionOptions`.
        dimensions: symbols of axes that are fixed, with their size.
        turned_off: names of optimizers.
    """

    threads: int = 1
    providers: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: {CPU: {}})
    level: Level = "all"
    entries: Mapping[str, str] = field(default_factory=lambda: STOP_SPINNING)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    dimensions: Mapping[str, int] = field(default_factory=dict)
    turned_off: tuple[str, ...] = TURNED_OFF


def open_session(graph: str | bytes, opening: Opening) -> onnxruntime.InferenceSession:
    """ONNX Runtime's own session; `graph` is a path or the bytes of one.

    Raises:
        BackendError: ONNX Runtime refuses the graph, lacks a provider or has left one out.
        MissingError: it is not installed.
    """
    runtime = import_runtime()
    require_providers(opening.providers)
    try:
        session = runtime.InferenceSession(
            graph,
            _session_options(runtime, opening),
            providers=[(PROVIDERS[name], dict(options)) for name, options in opening.providers.items()],
            disabled_optimizers=list(opening.turned_off),
            enable_fallback=0,
        )
    except Exception as error:  # the runtime's own exceptions have no base but Exception
        named = f"`{graph}`" if isinstance(graph, str) else "the graph"
        raise BackendError(f"ONNX Runtime cannot run {named}: {first_line(error)}") from error
    left_out = [name for name in opening.providers if PROVIDERS[name] not in session.get_providers()]
    if left_out:
        hint = "its libraries were not found or do not fit: `edgeopt doctor` says what is missing"
        raise BackendError(f"ONNX Runtime has left out {', '.join(f'`{name}`' for name in left_out)}", hint)
    return session


def require_providers(names: Sequence[str] | Mapping[str, Any]) -> None:
    """Return if this ONNX Runtime was built with all of these providers.

    Raises:
        MissingError: it lacks one; names those that it has.
    """
    available = known_providers()
    missing = [name for name in names if name not in available]
    if missing:
        told = ", ".join(f"`{name}`" for name in missing)
        hint = f"it has {', '.join(available)}; `pip install` a wheel of it that was built with {told}"
        raise MissingError(f"this ONNX Runtime has no provider {told}", hint)


def known_providers() -> list[str]:
    """The providers that this ONNX Runtime was built with, by their names in a recipe."""
    return [SHORT_NAMES[name] for name in import_runtime().get_available_providers() if name in SHORT_NAMES]


def run_on_host(session: onnxruntime.InferenceSession, outputs: Sequence[str]) -> Callable[[dict[str, Any]], Any]:
    """What runs one batch, from arrays to fresh arrays by name."""
    names = list(outputs)
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def recorded(kind: type[Options], artifact: Artifact) -> Options:
    """The options that an artifact was built with; the default for those that its settings do not hold."""
    known = {name: artifact.settings[name] for name in kind.model_fields if name in artifact.settings}
    return kind.model_validate(known)


def graph_path(artifact: Artifact) -> str:
    """The one file of an artifact that a session opens."""
    return str(artifact.folder / next(file.path for file in artifact.files if file.path.startswith("model.")))


def batch_symbols(specs: Sequence[TensorSpec], batch: int) -> dict[str, int]:
    """The symbolic axes of inputs, all of them of one size."""
    return {axis: batch for spec in specs for axis in spec.shape if isinstance(axis, str)}


def fix_axes(specs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> tuple[TensorSpec, ...]:
    """The specs with sizes for symbols, where they are known."""
    shapes = [tuple(sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in one.shape) for one in specs]
    return tuple(spec.model_copy(update={"shape": shape}) for spec, shape in zip(specs, shapes, strict=True))


def import_runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingError("ONNX Runtime is not installed", INSTALL) from error
    return onnxruntime


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _session_options(runtime: Any, opening: Opening) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = opening.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, _LEVELS[opening.level])
    options.log_severity_level = 4  # what goes wrong is raised; the log would say it twice
    if CPU not in opening.providers:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    for key, value in opening.entries.items():
        options.add_session_config_entry(key, value)
    for symbol, size in opening.dimensions.items():
        options.add_free_dimension_override_by_name(symbol, size)
    for name, value in opening.attributes.items():
        setattr(options, name, value)
    return options
