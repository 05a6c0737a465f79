"""A profile, the layers behind it and the machine → the causes of time; pure, so that every rule can be tested alone.

What is known of ONNX Runtime on x86, each measured with version 1.31 or 1.32:

- u8 × u8 has a kernel of its own, 2.1 times as slow as u8 × s8 with AVX2 and 3 times with VNNI.
- s8 activations: a convolution before a Relu is not fused and stays in float, between conversions; where one is fused
  by force, its kernel is 7 to 10 times as slow as that of u8 × s8.
- Float convolutions run in blocks of channels, 8 with AVX2 and 16 with AVX-512: what is left over is padded, and input
  channels that are no multiple of 4 leave the blocked layout (2 times the time). Integer ones pad their outputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from edgeopt.backends.onnxruntime_cpu import OnnxruntimeCpu
from edgeopt.explain import Cause, LayerShare
from edgeopt.explain.edits import keep_float
from edgeopt.explain.layers import CONVERSIONS, Layer, Source
from edgeopt.explain.machine import Machine
from edgeopt.explain.profile import Node, Profile

#: what takes less than this is no cause: one pair that is not fused takes about twice as much of a small network
LEAST_SHARE = 0.02

#: from this share on, the cost of starting nodes is one
LEAST_FIXED_SHARE = 0.5

#: layers off the vector width are one where their time per product is so much above that of the others
LEAST_EXCESS = 1.05

LAYOUTS = ("Transpose", "ReorderInput", "ReorderOutput")

#: names that a sentence lists
LISTED = 3

AGAIN = "made again for this backend, whose profile asks for"

#: float ships where it is as fast
RACE, RACING = "fp32: []", "among `variants:`, if it is not there, keeps float in the race"


#: what to write into the recipe, or nothing, and a word on it
Edit = tuple[str, str]


@dataclass(frozen=True)
class Evidence:
    """All that a rule may look at. `origins`: node of the session → node of the source, `passes`: of the candidate."""

    profile: Profile
    source: Source
    machine: Machine
    passes: tuple[str, ...]
    origins: dict[str, str]

    def nodes(self, wanted: Callable[[Node], bool]) -> list[Node]:
        return [node for node in self.profile.nodes if wanted(node)]

    def activation_dtype(self, node: Node) -> str:
        return self.source.activation_dtype(self.origins[node.name])

    def label(self, node: Node) -> str:
        """What to call a node: the name that it has in the source, where that is known."""
        return self.origins[node.name] or node.name

    def cause(self, name: str, nodes: Sequence[Node], sentence: str, edit: Edit) -> Cause | None:
        """The cause with the share of its nodes; None where that is too small to be one."""
        share = self.profile.share(nodes)
        if share < LEAST_SHARE:
            return None
        slowest = sorted(nodes, key=lambda node: -node.time_us)
        layers = tuple(LayerShare(layer=self.label(node), share=self.profile.share([node])) for node in slowest)
        return Cause(name=name, share=share, sentence=sentence, edit=edit[0], advice=edit[1], layers=layers)


def find_causes(
    profile: Profile, source: Source, machine: Machine, passes: Sequence[str], not_faster: bool
) -> tuple[Cause, ...]:
    """The causes of time, the largest share first.

    Args:
        passes: names of the passes that the candidate went through.
        not_faster: whether it was not shown to be faster than float; then a cause that is not known is named as such.
    """
    origins = source.origins({node.name: node.operator for node in profile.nodes})
    evidence = Evidence(profile, source, machine, tuple(passes), origins)
    found = [cause for rule in RULES if (cause := rule(evidence)) is not None]
    if not found and not_faster:
        sentence = f"not known: nothing that is known to cost time takes {LEAST_SHARE:.0%} of it"
        found.append(Cause(name="unknown", sentence=sentence, edit=RACE, advice=RACING))
    return tuple(sorted(found, key=lambda cause: -(cause.share or 0.0)))


def _no_dot_product(evidence: Evidence) -> Cause | None:
    machine = evidence.machine
    if machine.sums_exactly:
        return None
    nodes = evidence.nodes(lambda node: node.weight_dtype == "int8" and node.input_dtype in ("uint8", "int8"))
    lacks = "VNNI" if machine.is_x86 else "dot products of int8"
    return evidence.cause(
        "no_integer_dot_product", nodes,
        f"{_count(nodes, 'integer layer')} run without {lacks}: this CPU takes several instructions where one would do",
        (RACE, f"{RACING}; a CPU with {lacks} would help"),
    )  # fmt: skip


def _u8_weights(evidence: Evidence) -> Cause | None:
    if not evidence.machine.is_x86:
        return None
    nodes = evidence.nodes(lambda node: node.weight_dtype == "uint8" and node.input_dtype == "uint8")
    return evidence.cause(
        "u8_weights", nodes,
        f"the weights of {_count(nodes, 'integer layer')} are u8: x86 has a fast kernel for u8 × s8 only",
        ("quantize_int8: {}", f"{AGAIN} s8 weights"),
    )  # fmt: skip


def _s8_activations(evidence: Evidence) -> Cause | None:
    if not evidence.machine.is_x86:
        return None
    slow = evidence.nodes(lambda node: bool(node.weight_dtype) and node.input_dtype == "int8")
    unfused = [node for node in _unfused(evidence) if evidence.activation_dtype(node) == "int8"]
    fallen = [node for node in _in_float(evidence) if evidence.activation_dtype(node) == "int8"]
    told = [f"{_count(slow, 'integer layer')} run a slow kernel"] if slow else []
    if fallen or unfused:
        told.append(f"{_count(fallen, 'operator')} stay in float with {_count(unfused, 'conversion')} around")
    return evidence.cause(
        "s8_activations", [*slow, *fallen, *unfused],
        f"activations are s8, which x86 has no fast kernel for: {', '.join(told)}",
        ("quantize_int8: {}", f"{AGAIN} u8 activations"),
    )  # fmt: skip


def _unfused_pairs(evidence: Evidence) -> Cause | None:
    nodes = [node for node in _unfused(evidence) if evidence.activation_dtype(node) != "int8"]
    integer = {evidence.origins[node.name] for node in evidence.nodes(_is_integer)}
    around = {
        each.name: each.op_type
        for node in nodes
        for each in evidence.source.neighbours(evidence.origins[node.name])
        if each.name not in integer
    }
    counts = Counter(node.operator for node in nodes)
    told = " and ".join(f"{counts[name]} {name}" for name in CONVERSIONS if counts[name])
    beside = f", around {_list(f'{operator} `{name}`' for name, operator in around.items())}" if around else ""
    sentence = f"{told} were not fused into a neighbour{beside}"
    return evidence.cause("unfused_pairs", nodes, sentence, _edit_of(around, evidence))


def _float_operators(evidence: Evidence) -> Cause | None:
    nodes = [node for node in _in_float(evidence) if evidence.activation_dtype(node) != "int8"]
    named = {evidence.label(node): node.operator for node in nodes}
    listed = _list(f"{operator} `{name}`" for name, operator in named.items())
    sentence = f"{_count(nodes, 'operator')} of a quantized graph run in float: {listed}"
    return evidence.cause("float_operators", nodes, sentence, _edit_of(named, evidence))


def _layout_conversions(evidence: Evidence) -> Cause | None:
    nodes = _inside(evidence, lambda node: node.operator in LAYOUTS)
    counts = Counter(node.operator for node in nodes)
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    edit = "", "see which operators stand beside them"
    if _off_width(evidence):
        edit = _round_channels(evidence)
    elif _in_float(evidence):
        edit = _edit_of({evidence.label(node): node.operator for node in _in_float(evidence)}, evidence)
    elif "simplify_onnx" not in evidence.passes:
        edit = "simplify_onnx: {}", "joins and removes what it can"
    return evidence.cause("layout_conversions", nodes, f"{told} only change the layout of a tensor", edit)


def _odd_channels(evidence: Evidence) -> Cause | None:
    off = _off_width(evidence)
    excess = _excess(off, evidence)
    if not off or (excess is not None and excess < LEAST_EXCESS):
        return None
    layer = max(off, key=lambda pair: pair[0].time_us)[1]
    sentence = (
        f"{_count(off, 'convolution')} have channels that are no multiple of {evidence.machine.vector_channels}, "
        f"as `{layer.name}` with {layer.channels_in} → {layer.channels_out}"
    )
    if excess is None:
        sentence += ": what that costs is not measured, as none of their kind fits"
    else:
        sentence += f": {excess:.1f} times the time per product of those that fit"
    return evidence.cause("odd_channels", [node for node, _ in off], sentence, _round_channels(evidence))


def _more_threads_than_cores(evidence: Evidence) -> Cause | None:
    profile, cores = evidence.profile, evidence.machine.cores
    if profile.threads <= cores or profile.fewer_us is None:
        return None
    sentence = (
        f"{profile.threads} threads have {cores} core{'s' * (cores != 1)} between them: a run takes "
        f"{profile.run_us / 1e3:.3g} ms, with {cores} thread{'s' * (cores != 1)} {profile.fewer_us / 1e3:.3g} ms"
    )
    share = max(0.0, 1.0 - profile.fewer_us / profile.run_us)
    advice = "for the target, or allow the process more cores"
    return Cause(
        name="more_threads_than_cores", share=share, sentence=sentence, edit=f"threads: {cores}", advice=advice
    )


def _fixed_cost(evidence: Evidence) -> Cause | None:
    share, count = evidence.profile.fixed_share, len(evidence.profile.nodes)
    if share < LEAST_FIXED_SHARE:
        return None
    sentence = f"the network is too small: this share of a run of {count} operators does not grow with the batch"
    advice = "for the target, if inputs may wait for each other; else a network of fewer, wider layers"
    return Cause(name="fixed_cost", share=share, sentence=sentence, edit="batch: 4", advice=advice)


#: where two causes have equal shares, the one that an edit can help comes first
RULES = (
    _u8_weights, _s8_activations, _unfused_pairs, _float_operators, _odd_channels, _layout_conversions,
    _more_threads_than_cores, _fixed_cost, _no_dot_product,
)  # fmt: skip


def _unfused(evidence: Evidence) -> list[Node]:
    """Conversions inside the graph; at its ends they must be."""
    return evidence.nodes(
        lambda node: node.operator in CONVERSIONS and not evidence.source.is_border(evidence.origins[node.name])
    )


def _is_integer(node: Node) -> bool:
    return node.input_dtype in ("uint8", "int8") and node.operator not in (*CONVERSIONS, *LAYOUTS)


def _inside(evidence: Evidence, wanted: Callable[[Node], bool]) -> list[Node]:
    """Nodes between the first and the last convolution: at its ends, a layout of its own must be entered and left."""
    nodes = evidence.profile.nodes
    places = [index for index, node in enumerate(nodes) if node.operator.endswith("Conv")]
    return [node for node in nodes[min(places) : max(places)] if wanted(node)] if places else []


def _in_float(evidence: Evidence) -> list[Node]:
    """What computes in float in a quantized graph."""
    if not evidence.source.quantized:
        return []
    return evidence.nodes(lambda node: node.input_dtype == "float" and node.operator not in (*CONVERSIONS, *LAYOUTS))


def _off_width(evidence: Evidence) -> list[tuple[Node, Layer]]:
    """Convolutions whose channels leave vectors half empty. Integer ones take any number of inputs."""
    width, off = evidence.machine.vector_channels, []
    for node, layer in _convolutions(evidence):
        depthwise = layer.groups == layer.channels_in
        each = 1 if depthwise else layer.groups
        odd_in = bool(layer.channels_in // each % width) and not node.weight_dtype and not layer.from_input
        if layer.channels_out // each % width or odd_in:
            off.append((node, layer))
    return off


def _convolutions(evidence: Evidence) -> list[tuple[Node, Layer]]:
    found = ((node, evidence.source.layers.get(evidence.origins[node.name])) for node in evidence.profile.nodes)
    return [(node, layer) for node, layer in found if layer is not None and node.operator.endswith("Conv")]


def _excess(off: Sequence[tuple[Node, Layer]], evidence: Evidence) -> float | None:
    """How many times the time per product of the layers that fit those take that do not; None where none is alike."""
    names = {layer.name for _, layer in off}
    kinds = {_kind(node, layer) for node, layer in off}
    fit = [(node, layer) for node, layer in _convolutions(evidence) if layer.name not in names]
    fit_time = _time_per_product([pair for pair in fit if _kind(*pair) in kinds])
    kinds = {_kind(*pair) for pair in fit}
    off_time = _time_per_product([pair for pair in off if _kind(*pair) in kinds])
    return off_time / fit_time if off_time and fit_time else None


def _kind(node: Node, layer: Layer) -> tuple[object, ...]:
    """Layers of one kind take alike per product; the first one, with its few channels, is of no kind but its own."""
    return layer.kernel, layer.groups == 1, layer.from_input, bool(node.weight_dtype)


def _time_per_product(pairs: Sequence[tuple[Node, Layer]]) -> float | None:
    known = [(node.time_us, layer.macs) for node, layer in pairs if layer.macs]
    return sum(time for time, _ in known) / sum(macs for _, macs in known) if known else None


def _round_channels(evidence: Evidence) -> Edit:
    width = evidence.machine.vector_channels
    if "prune_channels" in evidence.passes:
        return f"prune_channels: {{round_to: {width}}}", "so that pruning leaves whole vectors"
    return "", f"no pass widens a layer: give the network itself multiples of {width}"


def _edit_of(operators: dict[str, str], evidence: Evidence) -> Edit:
    """What to do about nodes (name → operator) that run in float between integers."""
    profile, source = OnnxruntimeCpu().profile(), evidence.source
    able = {*profile.quantized_ops, *profile.passthrough_ops}
    foreign = sorted({operator for operator in operators.values() if operator.removeprefix("Fused") not in able})
    ours = [name for name, operator in operators.items() if operator not in foreign]
    chosen = [name for name in ours if source.has_float_weight(name)]
    refused = [name for name in ours if name not in chosen and source.reads_integers(name)]
    if chosen:
        return "quantize_int8: {}", f"with {_list(f'`{name}`' for name in chosen)} no longer in its `keep_float`"
    if any(source.has_weight(name) for name in refused) and "simplify_onnx" not in evidence.passes:
        return "simplify_onnx: {}", "before quantize_int8, so that weights and biases are plain constants"
    if refused:
        return keep_float(refused), "which takes the pairs around them away"
    if foreign:
        return "", f"{', '.join(foreign)} has no integer kernel here: use another operator in the network"
    return "", "see which operators stand beside them"


def _count(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}{'s' * (len(things) != 1)}"


def _list(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
    return f"{', '.join(listed[:LISTED])}{more}"
