"""In what precision the layers of a built engine run, as TensorRT's engine inspector tells it.

An engine of an int8 graph may hold layers in float: for an operator that has no integer kernel, or silently, where a
quantization was not understood. Each layer that has weights is told apart by what it reads.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgeopt.engines.plan import Precision
from edgeopt.errors import BackendError

#: words in the description of a tensor's format → precision; the first that is found counts
WORDS: tuple[tuple[str, Precision], ...] = (
    ("int8", "int8"), ("i8", "int8"), ("fp16", "float16"), ("half", "float16"), ("f16", "float16"),
    ("fp32", "float32"), ("float", "float32"), ("f32", "float32"),
)  # fmt: skip

#: kinds of layers that multiply by weights, in the words of several versions
WEIGHTED = re.compile(r"conv|gemm|matmul|matrix|fully|dot", re.IGNORECASE)

#: kinds that only bring tensors into another format, or nothing at all
MOVING = re.compile(r"reformat|noop|shuffle|constant|cast|quantize|scale", re.IGNORECASE)

ORDER: tuple[Precision, ...] = ("float32", "float16", "int8")
SHOWN = 5


@dataclass(frozen=True)
class Layer:
    """One layer of an engine; `precision` is that of the tensor that it reads first, None where that is not told."""

    name: str
    kind: str
    precision: Precision | None

    @property
    def weighted(self) -> bool:
        return bool(WEIGHTED.search(self.kind) or WEIGHTED.search(self.name)) and not MOVING.search(self.kind)


def inspect_engine(tensorrt: Any, engine: Any) -> tuple[Layer, ...]:
    """The layers of an engine that was built with detailed verbosity.

    Raises:
        BackendError: the inspector tells nothing that could be read.
    """
    inspector = engine.create_engine_inspector()
    return read_layers(inspector.get_engine_information(tensorrt.LayerInformationFormat.JSON))


def read_layers(text: str) -> tuple[Layer, ...]:
    """The layers in what the inspector tells as JSON.

    Raises:
        BackendError: it is not JSON, or lists no layers with their tensors.
    """
    try:
        told = json.loads(text)
        layers = tuple(_layer(one) for one in told["Layers"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackendError("what TensorRT tells of the engine's layers cannot be read", "report it") from error
    if not layers:
        raise BackendError("TensorRT tells no layers of the engine", "report it")
    return layers


def _layer(told: Mapping[str, Any]) -> Layer:
    kind = str(told.get("LayerType") or told.get("ParameterType") or "")
    formats = [str(tensor.get("Format/Datatype", "")) for tensor in told.get("Inputs", ())]
    return Layer(str(told["Name"]), kind, next(_precisions(formats), None))


def _precisions(formats: list[str]) -> Iterator[Precision]:
    for text in formats:
        lowered = text.lower()
        yield from (precision for word, precision in WORDS if word in lowered)


@dataclass(frozen=True)
class Precisions:
    """What was asked of the layers with weights, and what became of them."""

    asked: Precision
    layers: tuple[Layer, ...]

    def above(self) -> list[str]:
        """The names of layers that run in more bits than were asked for."""
        most = ORDER.index(self.asked)
        known = [layer for layer in self._weighted() if layer.precision is not None]
        return [layer.name for layer in known if ORDER.index(layer.precision or "float32") < most]

    def facts(self) -> dict[str, str | int]:
        """For the report: how many layers run in which precision, and a note where it is not what was asked for."""
        counts = Counter(layer.precision or "unknown" for layer in self._weighted())
        summary = ", ".join(f"{count} in {name}" for name, count in sorted(counts.items()))
        facts: dict[str, str | int] = {"precision": summary or "no layers with weights", "layers": len(self.layers)}
        above, weighted = self.above(), len(self._weighted())
        if above:
            named = ", ".join(f"`{name}`" for name in above[:SHOWN])
            more = f" and {len(above) - SHOWN} more" if len(above) > SHOWN else ""
            what = f"{len(above)} of {weighted} layers with weights run in more bits: {named}{more}"
            facts |= {"above": len(above), "note": f"this is no {self.asked} engine: {what}"}
        elif counts.get("unknown"):
            facts["note"] = f"TensorRT does not tell in what precision {counts['unknown']} of {weighted} layers run"
        return facts

    def _weighted(self) -> list[Layer]:
        return [layer for layer in self.layers if layer.weighted]
