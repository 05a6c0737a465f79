"""What a float16 graph computes, as a float32 graph that rounds wherever float16 does.

ONNX Runtime has hardly any float16 on the CPU: it computes such graphs in float32 and takes out the casts between, so
that nothing is rounded on the way and nothing overflows. Here each result is rounded, by arithmetic that it leaves
alone; only what lies below the smallest normal number keeps more bits than float16 has.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from edgeopt.quantization.half import HALF
from edgeopt.quantization.widen import widen
from edgeopt.quantization.wiring import Wiring, fresh_name, names_of

#: what is rounded to this, or above, is infinite
BEYOND = 2.0**16

#: x · SPLIT − (x · SPLIT − x) is x with 11 of the 24 bits
SPLIT = 2.0**13 + 1

#: makes infinity of `BEYOND` in float32
OVERFLOW = 2.0**112

#: nothing is larger; a runtime takes factors in front of a matrix product into it, and there 2^-112 twice is zero
ENDLESS = float("inf")

#: an operator, and what it reads: results of steps by their numbers, 0 what is rounded; constants by their names
STEPS: tuple[tuple[str, int, int | str], ...] = (
    ("Min", 0, "high"), ("Max", 1, "low"), ("Mul", 2, "split"), ("Sub", 3, 2), ("Sub", 3, 4), ("Mul", 5, "overflow"),
    ("Mul", 6, "back"), ("Min", 7, "endless"),
)  # fmt: skip


def simulate(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A new graph in float32 with the results of one in float16; nodes have names of their own."""
    wiring = Wiring(graph)
    simulated = onnx.ModelProto()
    simulated.CopyFrom(graph)
    widen(simulated)
    taken = names_of(simulated.graph)
    values = {
        "endless": ENDLESS,
        "high": BEYOND,
        "low": -BEYOND,
        "split": SPLIT,
        "overflow": OVERFLOW,
        "back": 1 / OVERFLOW,
    }
    constants = {name: fresh_name(f"half_{name}", taken) for name in values}
    for name, value in values.items():
        simulated.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), constants[name]))
    nodes = list(simulated.graph.node)
    del simulated.graph.node[:]
    for node in nodes:
        simulated.graph.node.append(node)
        for place, name in enumerate(node.output):
            if wiring.element_type(name) == HALF:
                exact = fresh_name(f"{name}_exact", taken)
                simulated.graph.node[-1].output[place] = exact
                simulated.graph.node.extend(_round(exact, name, constants, taken))
    return simulated


def _round(exact: str, rounded: str, constants: dict[str, str], taken: set[str]) -> list[onnx.NodeProto]:
    """The nodes from a tensor to what float16 holds of it."""
    names = [exact, *(fresh_name(f"{exact}_{step}", taken) for step in range(1, len(STEPS))), rounded]
    nodes = []
    for (operator, one, other), made in zip(STEPS, names[1:], strict=True):
        inputs = [names[one], constants[other] if isinstance(other, str) else names[other]]
        nodes.append(onnx.helper.make_node(operator, inputs, [made], name=fresh_name(f"{made}_{operator}", taken)))
    return nodes
