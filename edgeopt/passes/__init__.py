"""Transformations of the model: one file per pass, thin; the machinery lies in folders of its own, such as `pruning`.

A pass is one frozen pydantic model whose fields are its options in the recipe. To add one, write `passes/<name>.py`
with a class of that name in CamelCase: its fields become the schema and the docs, and the contract tests find it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

from pydantic import Field

from edgeopt import registry
from edgeopt.context import Context
from edgeopt.errors import PassError, unforeseen
from edgeopt.model import Facts, Form, Model, QuantizationProfile, Value


@dataclass(frozen=True)
class PassResult:
    """The new model, whether it differs from the given one, and facts for the report.

    The fact `summary`, if there is one, is the short text that `compile` shows beside the step.
    """

    model: Model
    changed: bool
    facts: Facts = field(default_factory=dict)


class Pass(Value):
    """One transformation. Subclasses declare options as fields with a range, a default and a description each."""

    accepts: ClassVar[Form]
    produces: ClassVar[Form]
    #: what of the target the pass must know: it then runs once per candidate instead of once for all
    needs_profile: ClassVar[bool] = False
    #: whether it makes float16 of floats
    halves: ClassVar[bool] = False
    #: splits and values of the context that the pass reads: they go into its key
    reads: ClassVar[tuple[str, ...]] = ()
    #: the same, for what it can do without: no fault where it is missing
    may_read: ClassVar[tuple[str, ...]] = ()
    #: whether it trains the network, so that it finds back what passes before took from it
    wins_back: ClassVar[bool] = False
    #: what it does to a network that has then to be trained, as a sentence; empty: nothing has to be won back
    takes: ClassVar[str] = ""

    def lent(self) -> frozenset[str]:
        """What of the context these options look at: it is lent that, and its key covers it."""
        return frozenset((*self.reads, *self.may_read))

    def required(self) -> tuple[str, ...]:
        """What of the context these options cannot do without."""
        return self.reads

    def named(self) -> tuple[tuple[str, str], ...]:
        """What these options name in the registry, as (kind, name): its code goes into the key."""
        return ()

    def clocked_by(self) -> str | None:
        """The candidate whose clock these options go by, `backend/variant`; empty: the first; None: no clock at all,
        or that of whatever candidate the pass is run for."""
        return None

    def owes(self) -> str:
        """What these options take from the network and leave to a later pass to win back; empty where nothing."""
        return f"{self.takes}, and no pass wins back what that costs: add `fine_tune`" if self.takes else ""

    def misfit(self, profile: QuantizationProfile) -> str:
        """What of these options the profile of a target cannot express, in a sentence; empty where nothing."""
        return ""

    @abstractmethod
    def apply(self, model: Model, context: Context) -> PassResult:
        """Return a new model written into `context.folder`; the given one is left as it was."""

    @final
    def __call__(self, model: Model, context: Context) -> PassResult:
        """Check what the pass requires, apply it, and check what it promised."""
        name = type(self).__name__
        if model.form != self.accepts:
            raise PassError(f"`{name}` takes a model in {self.accepts} form, this one is in {model.form} form")
        missing = [part for part in self.required() if getattr(context, part) is None]
        if missing:
            raise PassError(f"`{name}` needs {', '.join(missing)}", "add the split to `data:` in the recipe")
        before = model.digest()
        result = self.apply(model, context)
        if model.digest() != before:
            raise PassError(f"`{name}` changed the model that it was given")
        if result.model.form != self.produces or result.model.folder != context.folder:
            raise PassError(f"`{name}` did not leave a model in {self.produces} form in its folder")
        return result


class ClockedPass(Pass):
    """A pass that asks the target's clock whether it gained anything, where `on` names a candidate to ask about."""

    on: str | None = Field(
        default=None, description="the candidate on whose clock there must be a gain, as onnxruntime_cpu/int8"
    )
    keep_without_gain: bool = Field(default=False, description="keep the change even where it gains nothing")

    def clocked_by(self) -> str | None:
        return self.on

    def lent(self) -> frozenset[str]:
        return super().lent() | (frozenset() if self.clocked_by() is None else frozenset({"timer"}))


def find_debt(passes: Iterable[Pass]) -> str:
    """What passes in this order take from a network and none behind them wins back; empty where nothing."""
    debt = ""
    for each in passes:
        debt = "" if each.wins_back else each.owes() or debt
    return debt


def run_pass(name: str, options: dict[str, Any], model: Model, context: Context) -> PassResult:
    """What a worker runs: the pass of that name with those options.

    Raises:
        PassError: the pass failed, whatever it raised.
        MissingError: a library is not installed, or the disk is full.
    """
    step: Pass = registry.resolve("passes", name)(**options)
    with unforeseen(f"`{name}` failed", PassError):
        return step(model, context)
