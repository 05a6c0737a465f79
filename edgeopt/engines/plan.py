"""What an engine is to be built from and how, as plain data: all that a device needs beside the graph.

`edgeopt compile` writes it wherever it runs; `build` follows it where the GPU is.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, ValidationError

from edgeopt import files
from edgeopt.errors import BackendError, UsageError
from edgeopt.model import TensorSpec, Value, canonical_json

FORMAT: Final = 1
PLAN_FILE, GRAPH_FILE, EXPECTED_FILE, ENGINE_FILE = "build.json", "model.onnx", "expected.npz", "engine.plan"

#: how far outputs may be from those of ONNX Runtime on the same graph, as a share of their norm: rounding to 8 bits
#: falls one step to either side of a tie, and float16 has 11 bits
TOLERANCES = {"float32": 1e-3, "float16": 2e-2, "int8": 1e-1}

Precision = Literal["float32", "float16", "int8"]
#: fewer and fewer bits
ORDER: tuple[Precision, ...] = ("float32", "float16", "int8")
Size = Annotated[int, Field(ge=1)]


def _rising(sizes: list[int]) -> list[int]:
    if sizes != sorted(sizes):
        raise ValueError("should rise: the smallest, the usual and the largest size")
    return sizes


Range = Annotated[list[Size], Field(min_length=3, max_length=3), AfterValidator(_rising)]


class EngineOptions(Value):
    """How TensorRT is asked to build, and a session to run."""

    workspace_mb: int | None = Field(default=None, ge=1, description="most scratch memory of one layer; all there is")
    optimization_level: int = Field(default=3, ge=0, le=5, description="how long TensorRT looks for fast kernels")
    tf32: bool = Field(default=False, description="round float32 to 19 bits in convolutions")
    sparse: bool | None = Field(
        default=None, description="try kernels for weights of which two in four are zero; where the graph has such"
    )
    batches: Range | None = Field(default=None, description="smallest, usual and largest batch; the target's alone")
    axes: dict[str, Range] = Field(default={}, description="symbol of another axis → its smallest, usual, largest size")
    version_compatible: bool = Field(default=False, description="runs on newer TensorRT versions, too; slower")
    hardware_compatible: Literal["none", "ampere_plus", "same_compute_capability"] = Field(
        default="none", description="runs on other GPUs, too; slower"
    )
    strip_weights: bool = Field(default=False, description="weights stay in the graph, and are put in on opening")
    dla_core: int | None = Field(default=None, ge=0, description="run on this deep learning accelerator")
    gpu_fallback: bool = Field(default=True, description="what the accelerator cannot run, the GPU does")
    timing_cache: bool = Field(default=True, description="keep what was timed for the next build")
    cuda_graph: bool = Field(default=True, description="launch the whole network at once")
    streams: int = Field(default=1, ge=1, le=64, description="runs that go on side by side on the GPU")
    tolerance: float | None = Field(
        default=None, gt=0, description="how far outputs may be from ONNX Runtime's; by precision"
    )


class BuildPlan(Value):
    """What `edgeopt device build` follows.

    `asked` is the precision that the graph asks of each node with a weight; `precision` is the lowest of these.
    """

    edgeopt_build: Literal[1] = FORMAT
    target: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    threads: int
    batch: int
    asked: dict[str, Precision]
    options: EngineOptions = EngineOptions()

    @property
    def precision(self) -> Precision:
        return max(self.asked.values(), key=ORDER.index, default="float32")

    def tolerance(self) -> float:
        return self.options.tolerance or TOLERANCES[self.precision]

    def sizes(self) -> dict[str, tuple[int, int, int]]:
        """Symbol of an axis → its smallest, usual and largest size.

        Raises:
            BackendError: nothing says how large an axis may be.
        """
        sizes: dict[str, tuple[int, int, int]] = {}
        for spec in self.inputs:
            for position, axis in enumerate(spec.shape):
                if isinstance(axis, str) and axis not in sizes:
                    sizes[axis] = self._size(spec, position, axis)
        unknown = sorted(self.options.axes.keys() - sizes.keys())
        if unknown:
            raise BackendError(f"no input has an axis `{unknown[0]}`", f"known: {', '.join(sizes) or 'none'}")
        return sizes

    def _size(self, spec: TensorSpec, position: int, axis: str) -> tuple[int, int, int]:
        given = self.options.axes.get(axis)
        if given is None and position == 0:
            given = self.options.batches or [self.batch] * 3
        if given is None:
            what = f"input `{spec.name}` has an axis `{axis}` of no fixed size, and no range is given for it"
            raise BackendError(what, f"add `axes: {{{axis}: [smallest, usual, largest]}}` to the backend")
        least, usual, most = given
        if self.options.dla_core is not None and least != most:
            what = f"a deep learning accelerator takes one size only, and axis `{axis}` has {list(given)}"
            raise BackendError(what, "give that axis one size, or take `dla_core` away")
        return least, usual, most

    def profile(self) -> dict[str, list[tuple[int, ...]]]:
        """Input → its smallest, usual and largest shape; none where all sizes are fixed."""
        sizes = self.sizes()
        if not sizes:
            return {}
        return {spec.name: [resolve(spec, sizes, at) for at in range(3)] for spec in self.inputs}

    def usual_inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs with their usual sizes."""
        sizes = self.sizes()
        return tuple(spec.model_copy(update={"shape": resolve(spec, sizes, 1)}) for spec in self.inputs)


def resolve(spec: TensorSpec, sizes: dict[str, tuple[int, int, int]], at: int) -> tuple[int, ...]:
    """The shape with the smallest (0), usual (1) or largest (2) size in place of each symbol."""
    return tuple(axis if isinstance(axis, int) else sizes[axis][at] for axis in spec.shape)


def write_plan(plan: BuildPlan, folder: Path) -> None:
    files.write_bytes(folder / PLAN_FILE, canonical_json(plan.model_dump(mode="json")))


def load_plan(folder: Path) -> BuildPlan:
    """The plan that `write_plan` left in `folder`.

    Raises:
        UsageError: there is none, or it is not sound.
    """
    path = folder / PLAN_FILE
    try:
        return BuildPlan.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise UsageError(
            f"there is no `{path}`", "name the folder of a candidate that `edgeopt compile` left"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(f"`{path}` is no build plan: `{place}`: {first['msg']}", "compile again") from error


def settings(plan: BuildPlan) -> dict[str, Any]:
    """What opening an engine needs to know of its plan."""
    chosen = plan.options.model_dump(mode="json", include=set(_OPENING))
    return {"threads": plan.threads, "batch": plan.batch, **chosen}


_OPENING: Iterable[str] = (
    "version_compatible", "hardware_compatible", "strip_weights", "dla_core", "cuda_graph", "streams",
)  # fmt: skip
