"""What may be done to lose less by quantizing, as options of a pass: plain data, which a plan reads without onnx."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from edgeopt.errors import EdgeoptError
from edgeopt.model import QuantizationProfile, Value
from edgeopt.quantization.calibrators import make_calibrator

Correction = Literal["none", "fast", "full"]


class Technique(Value):
    """One way to quantize."""

    method: str | dict[str, dict[str, Any]] = Field(
        default="minmax", description="calibrator of activations, or {calibrator: {option: value}}"
    )
    weight_method: Literal["minmax", "mse"] = Field(default="minmax", description="how scales of weights are found")
    per_channel: bool = Field(default=True, description="a scale for each output channel of a weight, or one for all")
    keep_float: tuple[str, ...] = Field(default=(), description="names of nodes, or operators, that stay in float")
    equalize: bool = Field(default=False, description="bring channels of successive layers to one size first")
    zero_shift: bool = Field(
        default=False, description="move one-sided activations around zero, for targets without zero points"
    )
    bias_correction: Correction = Field(
        default="none", description="put means back that rounding moved: each layer alone, or layer after layer"
    )
    adaround: int = Field(
        default=0, ge=0, le=100_000, description="iterations per layer that choose how each weight is rounded"
    )

    @field_validator("method")
    @classmethod
    def _check_method(cls, method: str | Mapping[str, Mapping[str, Any]]) -> str | Mapping[str, Mapping[str, Any]]:
        if not isinstance(method, str) and len(method) != 1:
            raise ValueError("should name one calibrator")
        try:
            make_calibrator(method)
        except EdgeoptError as error:
            raise ValueError(f"{error.message}; {error.hint}") from error
        return method

    def misfit(self, profile: QuantizationProfile) -> str:
        """What of it the profile of a target cannot express, in a sentence; empty where nothing."""
        shifts = not self.zero_shift or profile.zero_shift
        return "" if shifts else f"`zero_shift` is for targets without zero points, and `{profile.name}` has them"

    @property
    def calibrator(self) -> str:
        """The calibrator's name."""
        return self.method if isinstance(self.method, str) else next(iter(self.method))

    def describe(self) -> str:
        """`mse, equalized, full bias correction`: what is not as usual, in the order in which it is done."""
        parts = ["equalized"] if self.equalize else []
        parts += ["zeros shifted"] if self.zero_shift else []
        parts.append({"minmax": "min-max"}.get(self.calibrator, self.calibrator.replace("_", " ")))
        parts += ["MSE weights"] if self.weight_method == "mse" else []
        parts += [f"AdaRound × {self.adaround}"] if self.adaround else []
        parts += [f"{self.bias_correction} bias correction"] if self.bias_correction != "none" else []
        parts += [f"{len(self.keep_float)} kept in float"] if self.keep_float else []
        return ", ".join(parts)
