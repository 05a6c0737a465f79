"""Whether a target takes a QDQ graph, ours or a foreign one: the rules that follow from the profile of its backend.

A rule is a function over a `Subject` in `lint_weights`, `lint_pairs` or `lint_joins`; here stands what each is called
and how bad it is. Passes ask them of what they made, and `edgeopt lint` of any file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import onnx

from edgeopt.errors import PassError
from edgeopt.model import QuantizationProfile, Value
from edgeopt.quantization import lint_joins, lint_pairs, lint_weights
from edgeopt.quantization.lint_subject import Finding, Subject
from edgeopt.quantization.qdq import QdqGraph

Severity = Literal["illegal", "slow"]
Rule = Callable[[Subject], Iterable[Finding]]

#: the target refuses what breaks one of these, or computes something else
ILLEGAL: dict[str, Rule] = {
    "activation_dtype": lint_pairs.activation_dtype,
    "activation_symmetric": lint_pairs.activation_symmetric,
    "activation_per_tensor": lint_pairs.activation_per_tensor,
    "scale_constant": lint_pairs.scale_constant,
    "scale_positive": lint_pairs.scale_positive,
    "fixed_range": lint_pairs.fixed_range,
    "weight_dtype": lint_weights.weight_dtype,
    "weight_symmetric": lint_weights.weight_symmetric,
    "weight_axis": lint_weights.weight_axis,
    "weight_bits": lint_weights.weight_bits,
    "bias_dtype": lint_weights.bias_dtype,
    "bias_scale": lint_weights.bias_scale,
    "bias_overflow": lint_weights.bias_overflow,
    "bias_pair": lint_weights.bias_pair,
}

#: what breaks one of these runs in float there, or with conversions
SLOW: dict[str, Rule] = {
    "bias_float": lint_weights.bias_float,
    "few_channels": lint_weights.few_channels,
    "float_input": lint_weights.float_input,
    "float_weight": lint_weights.float_weight,
    "float_output": lint_weights.float_output,
    "left_float": lint_joins.left_float,
    "pair_before_activation": lint_pairs.pair_before_activation,
    "pair_around_move": lint_joins.pair_around_move,
    "passthrough_scale": lint_joins.passthrough_scale,
    "sum_fusion": lint_joins.sum_fusion,
    "sum_branches": lint_joins.sum_branches,
    "sum_skip": lint_joins.sum_skip,
    "wasted_pair": lint_pairs.wasted_pair,
    "wasted_weight": lint_pairs.wasted_weight,
}


class Violation(Value):
    """What a node does that the target does not want."""

    rule: str
    node: str
    sentence: str
    severity: Severity


def lint(graph: onnx.ModelProto, profile: QuantizationProfile) -> tuple[Violation, ...]:
    """Everything in a QDQ graph that the profile does not want: the illegal first, each rule in the graph's order.

    Raises:
        SourceError: nodes of the graph are out of order, or lack inputs.
    """
    indexed = QdqGraph(graph)
    if not indexed.parameters:
        sentence = "not quantized: there is no QuantizeLinear and no DequantizeLinear in the graph"
        return (Violation(rule="not_quantized", node=graph.graph.name or "graph", sentence=sentence, severity="slow"),)
    subject = Subject(indexed, profile)
    ruled: list[tuple[Severity, dict[str, Rule]]] = [("illegal", ILLEGAL), ("slow", SLOW)]
    return tuple(
        Violation(rule=name, node=node, sentence=sentence, severity=severity)
        for severity, rules in ruled
        for name, rule in rules.items()
        for node, sentence in rule(subject)
    )


def require_legal(graph: onnx.ModelProto, profile: QuantizationProfile) -> None:
    """Refuse a graph that the target would refuse, or compute something else from.

    Raises:
        PassError: something in it is illegal; the message has a line for each.
    """
    illegal = [each for each in lint(graph, profile) if each.severity == "illegal"]
    if illegal:
        lines = "\n".join(f"`{each.node}` breaks {each.rule}: {each.sentence}" for each in illegal)
        raise PassError(lines, f"keep these nodes in float by `keep_float`; {profile.name} does not take them so")
