"""How the range of an activation follows from what was seen of it: one file per calibrator.

All that a calibrator looks at was streamed (`calibration.observe`), so none of them needs the samples, and none takes
more memory for more of them. Its fields are its options: `method: mse`, or `method: {percentile: {share: 99.9}}`.

To add one, write `calibrators/<name>.py` with a class of that name in CamelCase; a third party adds one by an entry
point in group `edgeopt.quantization.calibrators`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import ValidationError

from edgeopt import registry
from edgeopt.errors import UsageError
from edgeopt.model import QuantizationProfile, Value
from edgeopt.quantization.arithmetic import Quantizer, Range, activation_quantizer
from edgeopt.quantization.seen import Seen

KIND = "quantization.calibrators"

#: of a histogram: 8 for each of the 256 steps, so that a bin is as good as its middle
BINS = 2048


class Calibrator(Value):
    """Finds the range that a tensor is quantized for; values beyond it are cut off."""

    #: whether `Seen.counts` is looked at
    needs_histogram: ClassVar[bool] = False

    @abstractmethod
    def find_range(self, seen: Seen, profile: QuantizationProfile) -> Range:
        """The range of a tensor of which `seen` was seen, within its extremes, on a target of that profile."""


def make_calibrator(method: str | Mapping[str, Mapping[str, Any]]) -> Calibrator:
    """The calibrator that a recipe names, with its options.

    Raises:
        UsageError: there is none of that name, or it has no such option.
    """
    name, options = (method, {}) if isinstance(method, str) else next(iter(method.items()))
    kind = registry.resolve(KIND, name)
    try:
        found: Calibrator = kind(**options)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        known = ", ".join(kind.model_fields) or "none"
        raise UsageError(f"`{name}`: `{place}`: {first['msg'].lower()}", f"its options: {known}") from error
    return found


def quantizer_of(values: Range, profile: QuantizationProfile) -> Quantizer:
    """How an activation with that range becomes integers on a target of that profile."""
    return activation_quantizer(values, profile.activation_dtype, profile.activation_symmetric)
