"""TensorRT on NVIDIA GPUs: an engine, built on the GPU that runs it, in the precision that the graph says.

Networks are strongly typed: int8 is where the graph has pairs, float16 where `cast_fp16` put it, and nowhere else, so
that one graph builds on TensorRT 10 and 11. Where there is no GPU, everything is made that a device needs to build the
engine itself, and accuracy is simulated by the same graph, pair by pair, on ONNX Runtime. Speed stays unmeasured.

Nothing here was measured on a GPU yet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgeopt import files
from edgeopt.backends import Arrays, Backend, Session, check_inputs
from edgeopt.context import Context
from edgeopt.engines import library
from edgeopt.engines.binding import describe_machine
from edgeopt.engines.build import build_engine
from edgeopt.engines.comparison import compare_outputs, write_expected
from edgeopt.engines.engine import Engine, check_files
from edgeopt.engines.inspection import Precisions
from edgeopt.engines.plan import (
    ENGINE_FILE,
    EXPECTED_FILE,
    GRAPH_FILE,
    PLAN_FILE,
    BuildPlan,
    EngineOptions,
    Precision,
    load_plan,
    settings,
    write_plan,
)
from edgeopt.errors import BackendError, MissingError
from edgeopt.model import Artifact, Form, Model, QuantizationProfile, list_files
from edgeopt.quantization.profiles import TENSORRT

if TYPE_CHECKING:
    import onnx

FALLEN_BACK = "the accelerator does not take {} layers, which run on the GPU: {}"

#: of the inputs that engine and graph are compared on
SEED = 0


class Tensorrt(EngineOptions, Backend):
    """Builds and runs TensorRT engines; without a GPU, plans them for a device."""

    accepts: ClassVar[Form] = "onnx"
    on_nvidia: ClassVar[bool] = True

    def available(self) -> None:
        library.import_tensorrt()
        library.import_polygraphy()
        library.import_cuda()

    def profile(self, isa: Collection[str] | None = None) -> QuantizationProfile:
        """Symmetric s8 before what computes in integers, per-channel weights, no pair on a bias: see `TENSORRT`."""
        return TENSORRT

    def machine(self) -> dict[str, str]:
        return library.versions()

    def build(self, model: Model, context: Context, folder: Path) -> Artifact:
        plan = self._prepare(model, context, folder)
        return _finish(plan, folder, context, folder)

    def finish(self, planned: Artifact, context: Context, folder: Path) -> Artifact:
        check_files(planned)
        return _finish(load_plan(planned.folder), planned.folder, context, folder)

    def prepare(self, model: Model, context: Context, folder: Path, missing: MissingError) -> Artifact:
        plan = self._prepare(model, context, folder)
        return Artifact(
            target=context.target,
            backend="tensorrt",
            files=list_files(folder, [GRAPH_FILE, PLAN_FILE, EXPECTED_FILE]),
            inputs=plan.inputs,
            outputs=plan.outputs,
            settings=settings(plan),
            facts={"summary": f"planned only: {missing.message}"},
            unbuilt=missing.message,
            folder=folder,
        )

    def open(self, artifact: Artifact) -> Session:
        return TensorrtSession(artifact)

    def simulate(self, artifact: Artifact) -> Session:
        return SimulatedSession(artifact)

    def _prepare(self, model: Model, context: Context, folder: Path) -> BuildPlan:
        """Write graph, plan and expected outputs into `folder`.

        Raises:
            BackendError: nothing says how large an axis may be.
            PassError: the graph has pairs that TensorRT would refuse, or compute otherwise.
        """
        from edgeopt import onnx_graph
        from edgeopt.quantization.lint import require_legal

        graph = onnx_graph.load_graph(model.path)
        require_legal(graph, TENSORRT)
        plan = BuildPlan(
            target=context.target, inputs=model.inputs, outputs=model.outputs, threads=context.threads,
            batch=context.batch, asked=_asked(graph),
            options=self._options(graph),
        )  # fmt: skip
        inputs = onnx_graph.random_inputs(plan.usual_inputs(), context.batch, SEED)
        session = _simulating(graph, context.threads)
        files.copy(model.path, folder / GRAPH_FILE)
        write_plan(plan, folder)
        write_expected(inputs, onnx_graph.run_session(session, inputs), folder)
        return plan

    def _options(self, graph: onnx.ModelProto) -> EngineOptions:
        """These options, with what hangs on the graph decided."""
        from edgeopt.sparsity.pattern import has_sparse

        options = EngineOptions(**self.model_dump(include=set(EngineOptions.model_fields)))
        return options if options.sparse is not None else options.model_copy(update={"sparse": has_sparse(graph)})


class TensorrtSession(Session):
    """Runs an engine."""

    def __init__(self, artifact: Artifact) -> None:
        self._inputs = artifact.inputs
        self._engine = Engine(artifact)

    def run(self, inputs: Arrays) -> Arrays:
        check_inputs(self._inputs, inputs)
        return self._engine.run(inputs)

    def device_ms(self, inputs: Arrays) -> float | None:
        check_inputs(self._inputs, inputs)
        return self._engine.device_ms(inputs)

    def close(self) -> None:
        self._engine.close()


class SimulatedSession(Session):
    """Runs the graph that an engine is to be built from, pair by pair, on ONNX Runtime."""

    def __init__(self, artifact: Artifact) -> None:
        from edgeopt import onnx_graph

        self._inputs = artifact.inputs
        graph = onnx_graph.load_graph(artifact.folder / GRAPH_FILE)
        self._session: Any = _simulating(graph, int(artifact.settings["threads"]))

    def run(self, inputs: Arrays) -> Arrays:
        from edgeopt import onnx_graph

        check_inputs(self._inputs, inputs)
        if self._session is None:
            raise BackendError("the session is closed")
        return onnx_graph.run_session(self._session, inputs)

    def close(self) -> None:
        self._session = None


def _simulating(graph: onnx.ModelProto, threads: int) -> Any:
    """An ONNX Runtime session in which pairs and float16 round as they do on a GPU."""
    from edgeopt import onnx_graph
    from edgeopt.quantization.half_simulation import simulate

    rounded = simulate(graph) if "float16" in _asked(graph).values() else graph
    return onnx_graph.make_session(rounded, threads, as_written=True)


def _finish(plan: BuildPlan, origin: Path, context: Context, folder: Path) -> Artifact:
    """Build what a plan in `origin` says into `folder`, and look at what came out.

    Raises:
        BackendError: the engine cannot be built, or its outputs are not those of the graph.
        MissingError: a library, or a GPU, is not there.
    """
    built = build_engine(origin / GRAPH_FILE, plan, context.memo, context.progress)
    files.write_bytes(folder / ENGINE_FILE, built.engine)
    if plan.options.strip_weights and origin != folder:
        files.copy(origin / GRAPH_FILE, folder / GRAPH_FILE)
    kept = [ENGINE_FILE, *([GRAPH_FILE] if plan.options.strip_weights else [])]
    bound = describe_machine() | ({"timing_cache": built.timing_cache} if built.timing_cache else {})
    artifact = Artifact(
        target=plan.target, backend="tensorrt", files=list_files(folder, kept), inputs=plan.inputs,
        outputs=plan.outputs, requires=bound, settings=settings(plan), folder=folder,
    )  # fmt: skip
    with contextlib.closing(Engine(artifact)) as engine:
        error = compare_outputs(engine.run, plan, origin)
        facts = Precisions(plan.asked, engine.layers()).facts()
    for name in (GRAPH_FILE, PLAN_FILE, EXPECTED_FILE):
        if origin == folder and name not in kept:
            files.remove(folder / name)
    if built.fallen_back:
        count, first = len(built.fallen_back), built.fallen_back[0]
        facts["note"] = "; ".join(filter(None, [str(facts.get("note", "")), FALLEN_BACK.format(count, first)]))
    summary = f"{facts['precision']}; {error:.1%} from ONNX Runtime"
    return artifact.model_copy(update={"facts": {**facts, "error": error, "summary": summary}})


def _asked(graph: onnx.ModelProto) -> dict[str, Precision]:
    """The precision that the graph asks of each node with a weight."""
    import onnx

    made = {name: node.op_type for node in graph.graph.node for name in node.output}
    halves = {one.name for one in graph.graph.initializer if one.data_type == onnx.TensorProto.FLOAT16}
    asked: dict[str, Precision] = {}
    for node in graph.graph.node:
        if node.op_type in TENSORRT.weight_axes:
            read = node.input[:2]
            integers = all(made.get(name) == "DequantizeLinear" for name in read)
            # the name that TensorRT's parser gives to a node without one
            name = node.name or f"node_of_{node.output[0]}"
            asked[name] = "int8" if integers else "float16" if halves.intersection(read) else "float32"
    return asked
