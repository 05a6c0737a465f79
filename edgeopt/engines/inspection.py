"""In what precision the layers of a built engine run, as TensorRT's engine inspector tells it.

An engine of an int8 graph may hold layers in float: for an operator that has no integer kernel, or silently, where a
quantization was not understood. So each node with a weight is looked for in the layers, which are named after the nodes
that were fused in them; so are the copies before and after, which tell nothing of how a node computes.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgeopt.engines.plan import ORDER, Precision
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

#: what stands between the names of nodes in that of a layer, and how its metadata names one
BETWEEN = re.compile(r"\s*(?:\+|\|\|)\s*|[\[\]{},]|\.\.\.")
NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")

#: what TensorRT hands over to another compiler, or to an accelerator, as a whole
FOREIGN = "ForeignNode["

SHOWN = 5


@dataclass(frozen=True)
class Layer:
    """One layer of an engine.

    Attributes:
        nodes: the nodes of the graph that were fused into it, and other words of its name.
        precision: that of the tensor that it reads first; None where that is not told.
    """

    name: str
    kind: str
    nodes: frozenset[str]
    precision: Precision | None

    @property
    def moving(self) -> bool:
        return bool(MOVING.search(self.kind))

    @property
    def weighted(self) -> bool:
        return bool(WEIGHTED.search(self.kind) or WEIGHTED.search(self.name)) and not self.moving


def inspect_engine(tensorrt: Any, engine: Any, context: Any) -> tuple[Layer, ...]:
    """The layers of an engine that was built with detailed verbosity.

    Args:
        context: one of the engine's whose inputs have shapes: with symbolic ones, formats are not told.

    Raises:
        BackendError: the inspector tells nothing that could be read.
    """
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
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
    # one text in TensorRT 10, two in 11
    formats = [str(tensor.get("Datatype") or tensor.get("Format/Datatype", "")) for tensor in told.get("Inputs", ())]
    name = str(told["Name"])
    nodes = {*BETWEEN.split(name), *NODE.findall(str(told.get("Metadata", "")))} - {""}
    inside = FOREIGN in name  # many layers behind one name: what goes in tells nothing of them
    return Layer(name, kind, frozenset(nodes), None if inside else next(_precisions(formats), None))


def _precisions(formats: list[str]) -> Iterator[Precision]:
    for text in formats:
        lowered = text.lower()
        yield from (precision for word, precision in WORDS if word in lowered)


@dataclass(frozen=True)
class Precisions:
    """What the graph asks of its nodes with weights, and what became of them in the layers of an engine."""

    asked: Mapping[str, Precision]
    layers: tuple[Layer, ...]

    def computing(self, node: str) -> list[Layer]:
        """The layers that a node with a weight is computed in: those of a kind that multiplies, where there are any."""
        found = [layer for layer in self.layers if node in layer.nodes and not layer.moving]
        return [layer for layer in found if WEIGHTED.search(layer.kind)] or found

    def above(self) -> list[str]:
        """The layers that run in more bits than a node in them was asked to."""
        wrong = {
            layer.name for node, asked in self.asked.items() for layer in self.computing(node)
            if layer.precision is not None and ORDER.index(layer.precision) < ORDER.index(asked)
        }  # fmt: skip
        return [layer.name for layer in self.layers if layer.name in wrong]

    def facts(self) -> dict[str, str | int]:
        """For the report: how many layers run in which precision, and a note where it is not what was asked for."""
        asked = {layer.name for node in self.asked for layer in self.computing(node)}
        weighted = [layer for layer in self.layers if layer.weighted or layer.name in asked]
        counts = Counter(layer.precision or "unknown" for layer in weighted)
        summary = ", ".join(f"{count} in {name}" for name, count in sorted(counts.items()))
        facts: dict[str, str | int] = {"precision": summary or "no layers with weights", "layers": len(self.layers)}
        above, lowest = self.above(), max(self.asked.values(), key=ORDER.index, default="float32")
        if above:
            named = ", ".join(f"`{name}`" for name in above[:SHOWN])
            more = f" and {len(above) - SHOWN} more" if len(above) > SHOWN else ""
            what = f"{len(above)} of {len(weighted)} layers with weights run in more bits than asked: {named}{more}"
            facts |= {"above": len(above), "note": f"this is no {lowest} engine: {what}"}
        elif counts.get("unknown"):
            untold = f"{counts['unknown']} of {len(weighted)}"
            facts["note"] = f"TensorRT does not tell in what precision {untold} layers with weights run"
        lost = [node for node in self.asked if not self.computing(node)]
        if lost and "note" not in facts:
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            facts["note"] = f"TensorRT names no layer that computes `{lost[0]}`{more}: in what precision is not known"
        return facts
