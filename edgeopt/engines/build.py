"""A graph and a plan → the bytes of an engine, by TensorRT's builder, which times its kernels on this GPU.

What fails is named as far as TensorRT tells it: the operator and its node, or the last error that it logged.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeopt.context import Memo
from edgeopt.engines.library import import_cuda, import_polygraphy, import_tensorrt, told_errors, versions
from edgeopt.engines.plan import BuildPlan
from edgeopt.errors import BackendError

MEGABYTE = 1_000_000

HINT = "see its messages with `edgeopt compile --verbose`"


@dataclass(frozen=True)
class Built:
    """The engine, and the digest of what its build was timed with; empty where nothing was kept."""

    engine: bytes
    timing_cache: str


def build_engine(graph: Path, plan: BuildPlan, memo: Memo | None = None) -> Built:
    """Build the graph as the plan says; what was timed is taken from `memo` and kept there.

    Raises:
        MissingError: a library, or a GPU, is not there.
        BackendError: TensorRT does not take the graph, or could not build it.
    """
    tensorrt, polygraphy = import_tensorrt(), import_polygraphy()
    import_cuda()
    with told_errors() as told, _named(told), _timing_cache(plan, memo) as cache:
        builder, network = polygraphy.create_network(strongly_typed=True)
        parser = _parse(tensorrt, network, graph)
        options = _config_options(tensorrt, plan, builder)
        config = polygraphy.create_config(builder, network, load_timing_cache=cache, **options)
        if plan.options.dla_core is not None:
            config.DLA_core = plan.options.dla_core
        # with the parser, which holds weights that the network refers to
        made = polygraphy.engine_bytes_from_network((builder, network, parser), config, save_timing_cache=cache)
        engine = bytes(made)
        timed = b"" if cache is None else Path(cache).read_bytes()
    return Built(engine, hashlib.sha256(timed).hexdigest() if timed else "")


def _parse(tensorrt: Any, network: Any, graph: Path) -> Any:
    """Fill the network from the graph, and return the parser; the first operator that TensorRT refuses is named."""
    from polygraphy.backend.trt.util import get_trt_logger

    logger = get_trt_logger()
    tensorrt.init_libnvinfer_plugins(logger, "")
    parser = tensorrt.OnnxParser(network, logger)
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
        raise BackendError("TensorRT does not take the graph, and does not say why", HINT)
    return parser


def _config_options(tensorrt: Any, plan: BuildPlan, builder: Any) -> dict[str, Any]:
    """What Polygraphy's `create_config` takes for the options of a plan."""
    asked = plan.options
    chosen: dict[str, Any] = {
        "builder_optimization_level": asked.optimization_level,
        "profiling_verbosity": tensorrt.ProfilingVerbosity.DETAILED,  # what the inspector tells hangs on it
        "tf32": asked.tf32,
        "sparse_weights": asked.sparse,
        "version_compatible": asked.version_compatible,
        "strip_plan": asked.strip_weights,
        "refittable": asked.strip_weights,
    }
    if asked.workspace_mb is not None:
        chosen["memory_pool_limits"] = {tensorrt.MemoryPoolType.WORKSPACE: asked.workspace_mb * MEGABYTE}
    if asked.hardware_compatible != "none":
        level = getattr(tensorrt.HardwareCompatibilityLevel, asked.hardware_compatible.upper())
        chosen["hardware_compatibility_level"] = level
    if asked.dla_core is not None:
        if asked.dla_core >= builder.num_DLA_cores:
            what = f"there is no deep learning accelerator {asked.dla_core} here, of {builder.num_DLA_cores}"
            raise BackendError(what, "take `dla_core` away, or name one that is there")
        chosen |= {"use_dla": True, "allow_gpu_fallback": asked.gpu_fallback}
    shapes = plan.profile()
    if shapes:
        chosen["profiles"] = [_profile(shapes)]
    return chosen


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
def _named(told: list[str]) -> Iterator[None]:
    """What Polygraphy raises, with the last thing that TensorRT said went wrong."""
    from polygraphy.exception import PolygraphyException

    try:
        yield
    except PolygraphyException as error:
        causes = [line for line in told if line and "Invalid Engine" not in line]
        raise BackendError(f"TensorRT could not build the engine: {causes[-1] if causes else error}", HINT) from error
