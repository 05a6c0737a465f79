"""Structured pruning: whole channels go, so that the network is smaller and faster on any runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from edgeopt import files, registry
from edgeopt.context import Context
from edgeopt.errors import PassError, did_you_mean
from edgeopt.model import Form, Model, Value
from edgeopt.passes import Pass, PassResult
from edgeopt.passes.fine_tune import FineTune
from edgeopt.pruning.importance import KIND

if TYPE_CHECKING:
    from torch import nn

    from edgeopt.pruning.course import Aims, Course, Round

Share = Annotated[float, Field(gt=0, lt=1)]

#: goals that go by what ships for one target
OF_A_TARGET = ("latency", "latency_ms", "bytes")


class Goal(Value):
    """What is left of the network, as a share of what it costs: of one of its costs."""

    latency: Share | None = Field(default=None, description="time on the target that `on` names, at its precision")
    latency_ms: float | None = Field(default=None, gt=0, description="the same in milliseconds of one run")
    macs: Share | None = Field(default=None, description="multiply-accumulates")
    parameters: Share | None = Field(default=None, description="weights and biases")
    bytes: Share | None = Field(default=None, description="size of the file for the target, at its precision")

    @model_validator(mode="after")
    def _check_one(self) -> Goal:
        if sum(value is not None for value in self.model_dump().values()) != 1:
            known = ", ".join(type(self).model_fields)
            raise ValueError(f"should be one of {known}, such as `{{latency: 0.5}}`")
        return self

    @property
    def asked(self) -> tuple[str, float]:
        """The cost that is limited, and to what."""
        return next((name, value) for name, value in self.model_dump().items() if value is not None)


class PruneChannels(Pass):
    """Remove the channels that matter least, in whole groups of coupled layers, and prove the result by running it.

    With `goal` the groups share out what may be lost: each is tried with ever fewer channels, which tells what it costs
    the answers, and the counts are chosen that lose least at the cost that is asked for. A residual block may lose its
    whole branch: where layers are narrow already, fewer channels hardly save time. A goal of latency goes by the
    target's clock: layers are timed there at the counts that matter, and the pruned network beside the whole one.

    What is lost must be won back: by `fine_tune` behind this pass, or by `tune` between its rounds, on training data;
    or in part by `reestimate_bn`, which needs no labels.
    """

    accepts: ClassVar[Form] = "torch"
    produces: ClassVar[Form] = "torch"
    may_read: ClassVar[tuple[str, ...]] = ("training", "calibration")
    takes: ClassVar[str] = "it is pruned"
    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["ratio"]}, {"required": ["goal"]}]})

    ratio: float | None = Field(default=None, gt=0, lt=1, description="share of the channels to remove", examples=[0.5])
    goal: Goal | None = Field(default=None, description="in place of `ratio`: what the network may cost afterwards")
    on: str | None = Field(
        default=None, description="the candidate that a goal of latency or bytes goes by, as onnxruntime_cpu/int8"
    )
    rounds: int = Field(default=1, ge=1, le=20, description="the goal is approached in so many steps, each looks anew")
    tune: FineTune | None = Field(default=None, description="options of `fine_tune`, which then runs between rounds")
    importance: str = Field(
        default="taylor", description="what makes a channel matter; taylor and fisher need labels",
        json_schema_extra=lambda schema: schema.update(enum=list(registry.names(KIND))),
    )  # fmt: skip
    scope: Literal["local", "global"] = Field(
        default="local",
        description="with `ratio`: rank the channels within each group, or those of all groups together",
    )
    drop_blocks: bool = Field(
        default=True, description="with `goal`: a residual block may lose its branch as a whole, where that loses less"
    )
    retrain: int = Field(
        default=0, ge=0,
        description="with `goal`: steps of training, by the network's own answers, before a group's loss is judged",
    )  # fmt: skip
    round_to: int = Field(default=8, ge=1, description="numbers of channels are rounded up to a multiple of this")
    min_channels: int = Field(default=8, ge=1, description="no group gets narrower than this")
    max_ratio: Share | dict[str, Share] = Field(
        default=0.9,
        description="no group loses more of its channels; or {module: ratio, default: ratio}; named ones keep branches",
    )
    ignore: tuple[str, ...] = Field(default=(), description="modules that keep their channels, with all below them")
    reestimate_bn: bool = Field(
        default=False,
        description="find the statistics of normalizations again, on samples; without training data a must",
    )

    @field_validator("importance")
    @classmethod
    def _check_importance(cls, name: str) -> str:
        known = registry.names(KIND)
        if name not in known:
            raise ValueError(f"should be a kind of importance: {did_you_mean(name, known)}")
        return name

    @model_validator(mode="after")
    def _check_aim(self) -> PruneChannels:
        if (self.ratio is None) == (self.goal is None):
            raise ValueError("should have one of `ratio` and `goal`")
        if self.retrain and self.goal is None:
            raise ValueError("should have `retrain` beside a `goal` alone: a ratio tries no group")
        if self.on is not None and self.clocked_by() is None:
            raise ValueError("should have `on` beside a goal of latency or bytes alone")
        if self.tune is not None and self.rounds == 1:
            raise ValueError("should have `rounds` of 2 or more beside `tune`: it runs between them")
        if self.ratio is not None and isinstance(self.max_ratio, float) and self.ratio > self.max_ratio:
            raise ValueError(f"should have a `max_ratio` of `ratio` or more, which is {self.ratio:g}")
        return self

    def clocked_by(self) -> str | None:
        return (self.on or "") if self.goal is not None and self.goal.asked[0] in OF_A_TARGET else None

    def owes(self) -> str:
        return "" if self.reestimate_bn else f"{super().owes()}, or set `reestimate_bn: true`"

    def required(self) -> tuple[str, ...]:
        frugal = self.reestimate_bn and self.tune is None and not self.retrain
        return () if frugal else ("training",)

    def lent(self) -> frozenset[str]:
        timer = {"timer"} if self.goal is not None and self.goal.asked[0] in ("latency", "latency_ms") else set[str]()
        return super().lent() | timer | (frozenset() if self.tune is None else self.tune.lent())

    def named(self) -> tuple[tuple[str, str], ...]:
        return ((KIND, self.importance),)

    def apply(self, model: Model, context: Context) -> PassResult:
        from edgeopt.network import make_network, write_network
        from edgeopt.pruning.course import Course
        from edgeopt.pruning.telling import tell_rounds

        course, rounds, current = Course(self._aims(), model, context), list["Round"](), model
        with files.scratch(context.folder) as scratch:
            for number in range(1, self.rounds + 1):
                part, last = self._part(context, number), number == self.rounds
                network, folder = make_network(current), context.folder if last else scratch / f"round-{number}"
                rounds.append(_prune(course, network, number, part))
                self._edit(network, rounds[-1], context)
                current = write_network(network, current, folder, rounds[-1].edits)
                if self.tune is not None and not last:
                    own = replace(part, folder=folder / "tuned", checkpoints=context.checkpoints.part(f"tune-{number}"))
                    current = self.tune(current, own).model
        facts = tell_rounds(course, rounds, _size(model), _size(current)) | self._warn(rounds, context)
        return PassResult(current, any(each.edits for each in rounds), facts)

    def _aims(self) -> Aims:
        from edgeopt.pruning.course import Aims

        asked = None if self.goal is None else self.goal.asked
        given = {name: getattr(self, name) for name in Aims.__annotations__ if name != "goal"}
        return Aims(goal=asked, **given)

    def _part(self, context: Context, number: int) -> Context:
        """The context of one round: its part of the progress."""
        title = f"round {number} of {self.rounds}: " if self.rounds > 1 else ""

        def tell(text: str, fraction: float | None) -> None:
            context.progress(title + text, None if fraction is None else (number - 1 + fraction) / self.rounds)

        return replace(context, progress=tell)

    def _edit(self, network: nn.Module, made: Round, context: Context) -> None:
        """Take the channels away, in place, and find the statistics of what is left where that is asked for."""
        from edgeopt.edits import apply_edit
        from edgeopt.training.statistics import reestimate_normalization

        for edit in made.edits:
            apply_edit(network, edit)
        samples = context.calibration if context.training is None else context.training
        if self.reestimate_bn and samples is None:
            hint = "add `data.calibration`, or set `reestimate_bn: false`"
            raise PassError("`reestimate_bn` needs samples, and the recipe has none", hint)
        if self.reestimate_bn and samples is not None and made.edits:
            context.progress("finding statistics again", None)
            reestimate_normalization(network, samples)

    def _warn(self, rounds: Sequence[Round], context: Context) -> dict[str, str | int | float]:
        if not any(each.edits for each in rounds):
            name, reason = next(iter(rounds[-1].left_whole.items()), ("the network", "it has no groups"))
            return {"warning": f"nothing was pruned: `{name}`: {reason}"} if self.goal is None else {}
        if context.training is not None:
            return {}
        what = "pruned without training data: only the statistics of normalizations were found again"
        return {"warning": f"{what}, which wins back a part of what is lost"}


def _prune(course: Course, network: nn.Module, number: int, context: Context) -> Round:
    """One round, or what was kept of it when the step was killed: weights that were trained since fit no other one."""
    from edgeopt.pruning.course import Round

    kept = context.checkpoints.part(f"round-{number}")
    latest = kept.latest(context.progress)
    if latest is not None:
        return Round.model_validate_json(latest[1])
    made = course.prune(network, number, context)
    kept.put(1, made.model_dump_json().encode())
    return made


def _size(model: Model) -> tuple[int, int]:
    """Multiply-accumulates of one sample, and parameters."""
    from edgeopt.network import count_macs, make_network
    from edgeopt.pruning.soundness import make_inputs

    network = make_network(model)
    return count_macs(network, make_inputs(model.inputs, 1)), sum(part.numel() for part in network.parameters())
