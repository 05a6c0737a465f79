"""Quantize an ONNX graph to 8 bits: static ranges from calibration samples, written as QDQ pairs.

What the graph should look like depends on the runtime (one QDQ file is fast here and slower than float there), so the
pass follows the quantization profile of the target's backend and runs once per candidate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from edgeopt import environment, files, registry
from edgeopt.context import AccuracyGoal, Context
from edgeopt.data import Samples
from edgeopt.errors import PassError
from edgeopt.model import Facts, Form, Model, OnnxValue, write_model
from edgeopt.passes import Pass, PassResult
from edgeopt.quantization.calibrators import KIND
from edgeopt.quantization.technique import Technique

if TYPE_CHECKING:
    import onnx

    from edgeopt.quantization.calibration import Arrays
    from edgeopt.quantization.ladder import Ladder
    from edgeopt.quantization.quantize import Quantized, Quantizing
    from edgeopt.quantization.sensitivity import Clock

#: below this many samples the ranges depend on which images were taken
FEWEST_SAMPLES = 100

#: samples on which the quantized graph is compared with the float one
COMPARED_SAMPLES = 32

#: samples of the tuning split that techniques are tried on: each rung takes seconds then, and a drop where few answers
#: change is known to about 0.2 pp
TRIED_SAMPLES = 5000

#: most worthwhile layers in float, of which the report tells what each takes away
TOLD_LAYERS = 5

#: percentiles and MSE cut off less
MOST_CLIPPED = 0.01


class QuantizeInt8(Technique, Pass):
    """Quantize weights and activations to 8-bit integers, as the target's backend wants them."""

    accepts: ClassVar[Form] = "onnx"
    produces: ClassVar[Form] = "onnx"
    needs_profile: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ("calibration", "profile")
    may_read: ClassVar[tuple[str, ...]] = ("tuning",)

    effort: Literal["fast", "auto", "best"] = Field(
        default="fast",
        description="just what the other options say; or climb from there, technique by technique, until the accuracy "
        "budget is met on the tuning split (auto), or to the end (best)",
    )

    def lent(self) -> frozenset[str]:
        return super().lent() | (frozenset() if self.effort == "fast" else {"accuracy", "timer"})

    def named(self) -> tuple[tuple[str, str], ...]:
        """A climb may come to any of the calibrators."""
        names = (self.calibrator,) if self.effort == "fast" else registry.names(KIND)
        return tuple((KIND, name) for name in names)

    def apply(self, model: Model, context: Context) -> PassResult:
        from edgeopt.onnx_graph import load_graph, save_graph
        from edgeopt.quantization.fold import fold
        from edgeopt.quantization.lint import require_legal

        assert context.profile is not None
        assert context.calibration is not None
        quantizing = _prepare(fold(load_graph(model.path)), model, context)
        climbed: Facts = {}
        if self.effort == "fast":
            technique: Technique = self._technique()
            made = quantizing.run(technique)
        else:
            technique, made, climbed = self._climb(quantizing, model, context)
        require_legal(made.graph, context.profile)
        some = context.calibration.spread(COMPARED_SAMPLES)
        fidelity = _compare(made, model, some, as_written=quantizing.as_written)
        value = OnnxValue()
        save_graph(made.graph, context.folder / value.file)
        known = {"value": value, "ranges": made.scheme.activation_ranges(), "folder": context.folder}
        result = write_model(model.model_copy(update=known), context.folder)
        facts = {**_describe(made, technique, quantizing.images), **climbed, "sqnr_db": round(fidelity, 2)}
        facts |= _describe_images(made, model, context)
        return PassResult(result, True, facts)

    def _technique(self) -> Technique:
        return Technique(**{name: getattr(self, name) for name in Technique.model_fields})

    def _climb(self, quantizing: Quantizing, model: Model, context: Context) -> tuple[Technique, Quantized, Facts]:
        from edgeopt.quantization.evaluation import Evaluation
        from edgeopt.quantization.ladder import Ladder

        if context.tuning is None:
            hint = "give `data.tuning` or `data.training`, or more calibration images than its `samples`"
            raise PassError(f"`effort: {self.effort}` chooses on a tuning split, and there is none", hint)
        goal = context.accuracy or AccuracyGoal()
        samples, threads, as_written = context.tuning.spread(TRIED_SAMPLES), quantizing.threads, quantizing.as_written
        evaluation = Evaluation(quantizing.graph, samples, model.inputs, goal, threads, as_written=as_written)
        most = goal.max_drop_pp if self.effort == "auto" else None
        clock = _clock(model, context)
        ladder = Ladder(quantizing, evaluation, most, clock, context.checkpoints, context.progress)
        best = ladder.climb(self._technique())
        return best.technique, ladder.result(best), _describe_climb(ladder, goal)


def _clock(model: Model, context: Context) -> Clock | None:
    """What times graphs on the target; they go into its worker as models in files."""
    from edgeopt.onnx_graph import save_graph

    timer = context.timer
    if timer is None:
        return None

    def time(graphs: Sequence[onnx.ModelProto]) -> list[float]:
        with files.scratch(context.folder) as scratch:
            models = []
            for number, graph in enumerate(graphs):
                value = OnnxValue(file=f"{number}.onnx")
                save_graph(graph, scratch / value.file)
                models.append(model.model_copy(update={"value": value, "folder": scratch}))
            return timer.time(models, context.progress)

    return time


def _prepare(graph: onnx.ModelProto, model: Model, context: Context) -> Quantizing:
    from edgeopt.quantization.calibration import stream_batches
    from edgeopt.quantization.quantize import Quantizing

    samples, profile = context.calibration, context.profile
    assert samples is not None
    assert profile is not None

    def draw(count: int) -> Iterable[Arrays]:
        return stream_batches(samples.spread(count), model.inputs)

    return Quantizing(
        graph, profile, draw, len(samples), environment.cpu_cores(), context.seed, context.memo, context.progress
    )


def _describe(made: Quantized, technique: Technique, images: int) -> Facts:
    placement, nodes = made.placement, made.exact.graph.node
    weighted = {each.node for each in placement.weighted}
    convolutions = [node.name for node in nodes if node.op_type in ("Conv", "ConvTranspose")]
    done = sum(name in weighted for name in convolutions)
    method = technique.describe()
    facts: dict[str, str | int | float] = {
        "summary": f"{images} images; {method}; {done} of {len(convolutions)} convolutions",
        "images": images,
        "method": method,
        "convolutions": f"{done} of {len(convolutions)}",
        "integer_nodes": len(placement.integer_nodes),
        "float_nodes": len(placement.float_nodes),
    }
    if placement.float_nodes:
        operators = {node.name: node.op_type for node in nodes}
        facts["left_in_float"] = ", ".join(f"{operators[name]} `{name}`" for name in placement.float_nodes)
    if technique.equalize:
        facts["equalized"] = f"{made.equalized} pairs of layers"
    if technique.zero_shift:
        facts["zeros_shifted"] = f"{made.shifted} tensors"
    return facts


def _describe_images(made: Quantized, model: Model, context: Context) -> Facts:
    """Whether the calibration images are as they should be: enough, of several classes, like the tuning images."""
    assert context.calibration is not None
    images, labels = len(context.calibration), context.calibration.labels()
    facts: dict[str, str | int | float] = {}
    doubts = []
    if images < FEWEST_SAMPLES:
        apart = f"{100 * _instability(made):.0f} %"
        few = f"{images} calibration images; ranges are steady from about {FEWEST_SAMPLES}"
        doubts.append(f"{few}, and those of two halves of these differ by {apart}")
    if images > 1 and labels is not None and labels.ndim == 1 and len(set(labels.tolist())) == 1:
        doubts.append(f"all calibration images are of one class, {labels[0]}: ranges fit the others by chance")
    if context.tuning is not None:
        some = context.tuning.spread(COMPARED_SAMPLES)
        share = _clipped_share(made, some, model)
        facts["clipped"] = f"{100 * share:.2g} % of the values of {len(some)} tuning images"
        if share > MOST_CLIPPED:
            doubts.append(f"{facts['clipped']} are cut off: are they like the calibration images?")
    return {**facts, "warning": "; ".join(doubts)} if doubts else facts


def _clipped_share(made: Quantized, samples: Samples, model: Model) -> float:
    from edgeopt.quantization.calibration import clipped_share, stream_batches

    batches = stream_batches(samples, model.inputs)
    return clipped_share(made.exact, made.scheme.activations, batches, environment.cpu_cores())


def _instability(made: Quantized) -> float:
    """By how much of its width the range of the median tensor differs between two halves of the samples."""
    import numpy as np

    shares = []
    for seen in made.seen.values():
        first, second = seen.halves
        moved = abs(first.low - second.low) + abs(first.high - second.high)
        shares.append(moved / max(seen.high - seen.low, 1e-30) if moved else 0.0)
    return float(np.median(shares))


def _describe_climb(ladder: Ladder, goal: AccuracyGoal) -> Facts:
    evaluation = ladder.evaluation
    judged = f"`{goal.metric}`" if evaluation.labelled else "agreement with float"
    facts: dict[str, str | int | float] = {
        f"rung {number}: {rung.technique.describe()}": rung.describe() for number, rung in enumerate(ladder.rungs, 1)
    }
    most = "no budget" if ladder.most_pp is None else f"half of {ladder.most_pp:g} pp"
    facts |= {f"`{one.node}` in float": one.describe() for one in ladder.sensitive[:TOLD_LAYERS]}
    for rung, ratio in ladder.curve():
        facts[f"{len(rung.technique.keep_float)} in float"] = f"{rung.loss.score:.2f} % at {ratio:.3f}× the time"
    facts["tuning"] = f"{judged} on {evaluation.images} images, float {evaluation.score:.2f} %, {most}"
    return facts


def _compare(made: Quantized, model: Model, samples: Samples, *, as_written: bool) -> float:
    """SQNR of the worst output in dB.

    Raises:
        PassError: the quantized graph yields values that are not finite.
    """
    import numpy as np

    from edgeopt.onnx_graph import make_session, run_session
    from edgeopt.quantization.arithmetic import sqnr_db
    from edgeopt.quantization.calibration import stream_batches

    cores = environment.cpu_cores()
    sessions = [make_session(each, cores, as_written=as_written) for each in (made.exact, made.graph)]
    batches = list(stream_batches(samples, model.inputs))
    exact, coarse = (
        {
            name: np.concatenate([run_session(session, batch)[name].ravel() for batch in batches])
            for name in (spec.name for spec in model.outputs)
        }
        for session in sessions
    )
    for name, values in coarse.items():
        if not np.isfinite(values).all():
            raise PassError(f"the quantized network yields values that are not finite in `{name}`")
    return sqnr_db(exact, coarse)
