"""A graph and a plan → the bytes of an engine, by TensorRT's builder, which times its kernels on this GPU.

What fails is named as far as TensorRT tells it: the operator and its node, or the last error that it logged.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeopt.context import Memo
from edgeopt.engines.library import (
    VERBOSE,
    Told,
    import_cuda,
    import_polygraphy,
    import_tensorrt,
    listening,
    versions,
)
from edgeopt.engines.plan import BuildPlan
from edgeopt.errors import BackendError

MEGABYTE = 1_000_000

#: told of each layer that the accelerator does not take
FALLEN_BACK = re.compile(r"falling back to GPU|device type to GPU")

Progress = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Built:
    """The engine, the digest of what its build was timed with (empty where nothing was kept), and what TensorRT told
    of layers that the GPU runs in the accelerator's place."""

    engine: bytes
    timing_cache: str
    fallen_back: tuple[str, ...] = ()


def build_engine(graph: Path, plan: BuildPlan, memo: Memo | None = None, progress: Progress | None = None) -> Built:
    """Build the graph as the plan says; what was timed is taken from `memo` and kept there.

    Raises:
        MissingError: a library, or a GPU, is not there.
        BackendError: TensorRT does not take the graph, or could not build it.
    """
    tensorrt, polygraphy = import_tensorrt(), import_polygraphy()
    import_cuda()
    with listening() as told, _named(told), _timing_cache(plan, memo) as cache:
        builder, network = polygraphy.create_network(strongly_typed=True)
        parser = _parse(tensorrt, network, graph, plan)
        options = _config_options(tensorrt, plan)
        if progress is not None:
            options["progress_monitor"] = _monitor(tensorrt, progress)
        config = polygraphy.create_config(builder, network, load_timing_cache=cache, **options)
        _choose_device(tensorrt, builder, config, plan)
        # with the parser, which holds weights that the network refers to
        made = polygraphy.engine_bytes_from_network((builder, network, parser), config, save_timing_cache=cache)
        engine = bytes(made)
        timed = b"" if cache is None else Path(cache).read_bytes()
    fallen_back = tuple(line for line in told.warnings if FALLEN_BACK.search(line))
    return Built(engine, hashlib.sha256(timed).hexdigest() if timed else "", fallen_back)


def _parse(tensorrt: Any, network: Any, graph: Path, plan: BuildPlan) -> Any:
    """Fill the network from the graph, and return the parser; the first operator that TensorRT refuses is named."""
    from polygraphy.backend.trt.util import get_trt_logger

    logger = get_trt_logger()
    tensorrt.init_libnvinfer_plugins(logger, "")
    parser = tensorrt.OnnxParser(network, logger)
    if plan.options.dla_core is not None and hasattr(tensorrt.OnnxParserFlag, "ADJUST_FOR_DLA"):
        parser.set_flag(tensorrt.OnnxParserFlag.ADJUST_FOR_DLA)  # not in every 10
    sound = parser.parse_from_file(str(graph))
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if errors:
        first = errors[0]
        operator, name = first.node_operator(), first.node_name()
        where = f" `{name}` ({operator})" if name or operator else ""
        others = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
        advice = "put another operator in its place, or run the network by a backend that takes it"
        raise BackendError(f"TensorRT does not take{where}: {first.desc()}{others}", advice)
    if not sound:
        raise BackendError("TensorRT does not take the graph, and does not say why", VERBOSE)
    return parser


def _config_options(tensorrt: Any, plan: BuildPlan) -> dict[str, Any]:
    """What Polygraphy's `create_config` takes for the options of a plan."""
    asked = plan.options
    chosen: dict[str, Any] = {
        "builder_optimization_level": asked.optimization_level,
        "profiling_verbosity": tensorrt.ProfilingVerbosity.DETAILED,  # what the inspector tells hangs on it
        "tf32": asked.tf32,
        "sparse_weights": bool(asked.sparse),
        "version_compatible": asked.version_compatible,
        "strip_plan": asked.strip_weights,
        "refittable": asked.strip_weights,
    }
    if asked.workspace_mb is not None:
        chosen["memory_pool_limits"] = {tensorrt.MemoryPoolType.WORKSPACE: asked.workspace_mb * MEGABYTE}
    if asked.hardware_compatible != "none":
        level = getattr(tensorrt.HardwareCompatibilityLevel, asked.hardware_compatible.upper())
        chosen["hardware_compatibility_level"] = level
    shapes = plan.profile()
    if shapes:
        chosen["profiles"] = [_profile(shapes)]
    return chosen


def _choose_device(tensorrt: Any, builder: Any, config: Any, plan: BuildPlan) -> None:
    """Let a deep learning accelerator run what it can, where the plan asks for it.

    Not by Polygraphy's `use_dla`: on TensorRT 10 it sets flags that no strongly typed network may have.

    Raises:
        BackendError: there is none of that number.
    """
    core = plan.options.dla_core
    if core is None:
        return
    if core >= builder.num_DLA_cores:
        what = f"there is no deep learning accelerator {core} here, of {builder.num_DLA_cores}"
        raise BackendError(what, "take `dla_core` away, or name one that is there")
    config.default_device_type = tensorrt.DeviceType.DLA
    config.DLA_core = core
    if plan.options.gpu_fallback:
        config.set_flag(tensorrt.BuilderFlag.GPU_FALLBACK)


def _monitor(tensorrt: Any, progress: Progress) -> Any:
    """What TensorRT tells how far it is, from several threads; the outermost phases are passed on."""

    class Monitor(tensorrt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            tensorrt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._lock = threading.Lock()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._steps[phase_name] = num_steps
                self._tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._steps:
                self._tell(phase_name, step + 1)
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

        def _tell(self, phase: str, done: int) -> None:
            with self._lock:
                progress(phase[:1].lower() + phase[1:], min(1.0, done / max(1, self._steps.get(phase, 1))))

    return Monitor()


def _profile(shapes: dict[str, list[tuple[int, ...]]]) -> Any:
    from polygraphy.backend.trt import Profile

    profile = Profile()
    for name, (least, usual, most) in shapes.items():
        profile.add(name, min=least, opt=usual, max=most)
    return profile


@contextmanager
def _timing_cache(plan: BuildPlan, memo: Memo | None) -> Iterator[str | None]:
    """A file with what was timed before by the same TensorRT on the same GPU; what it holds at the end is kept.

    A cache of another version or GPU would be refused, or believed wrongly, so both are part of its name.
    """
    if not plan.options.timing_cache:
        yield None
        return
    parts = ["timing cache", versions()]
    with tempfile.TemporaryDirectory(prefix="edgeopt-timing-") as scratch:
        path = Path(scratch) / "timing.cache"
        path.write_bytes((memo.get(parts) if memo is not None else None) or b"")
        yield str(path)
        if memo is not None and path.stat().st_size:
            memo.put(parts, path.read_bytes())


@contextmanager
def _named(told: Told) -> Iterator[None]:
    """What Polygraphy or the bindings raise, with the last thing that TensorRT said went wrong."""
    from polygraphy.exception import PolygraphyException

    try:
        yield
    except (PolygraphyException, TypeError, RuntimeError) as error:
        what = "TensorRT could not build the engine"
        raise told.error(what if told.cause else f"{what}: {error}", VERBOSE) from error
