"""Linear layers as one convolution: branches that are summed, or convolutions behind one another.

What a module computes is written in its code, which an edit cannot change. So the module becomes what torch.fx traces
of it, in which the one convolution stands where the layers stood. Only the module in which they meet is traced, and
those that it calls; all others keep their code.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.fx.node import Argument

from edgeopt.errors import SourceError
from edgeopt.model import Edit

SUMS = {operator.add, operator.iadd, torch.add}


@dataclass(frozen=True)
class Fold:
    """Layers that together are linear in what `source` gives.

    Attributes:
        terms: of what is summed, each a chain of convolutions and normalizations by name; empty: the source itself.
        source: what all of them read.
        end: what makes their sum; beside them it may add `rest`.
    """

    terms: tuple[tuple[str, ...], ...]
    source: fx.Node
    end: fx.Node
    rest: tuple[Argument, ...] = ()

    @property
    def modules(self) -> list[str]:
        return [name for term in self.terms for name in term]


class Tracer(fx.Tracer):
    """Goes into all modules but torch's own and those that are known not to be traceable."""

    def __init__(self, leaves: Collection[str] = ()) -> None:
        super().__init__()
        self._leaves = leaves

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self._leaves or super().is_leaf_module(m, module_qualified_name)


def trace(module: nn.Module, leaves: Collection[str] = ()) -> fx.GraphModule:
    """What a module computes in evaluation mode, as a graph; the module is left in the mode that it was in.

    Args:
        leaves: names of modules in it that are called and not looked into.

    Raises:
        Exception: whatever the module's code raises where it cannot be traced.
    """
    training = module.training
    module.eval()
    try:
        graph = Tracer(leaves).trace(module)
    finally:
        module.train(training)
    made = fx.GraphModule(module, graph)
    made.train(training)
    return made


def find_folds(traced: fx.GraphModule) -> Iterator[Fold]:
    """All layers that could be folded, by how they are connected: what they hold is not looked at."""
    calls = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")
    single = {
        node for node in traced.graph.nodes
        if node.op == "call_module" and calls[node.target] == 1 and len(node.args) == 1 and not node.kwargs
        and type(traced.get_submodule(str(node.target))) in (nn.Conv2d, nn.BatchNorm2d)
    }  # fmt: skip
    for node in traced.graph.nodes:
        if _is_sum(node) and not (len(node.users) == 1 and all(map(_is_sum, node.users))):
            yield from _folds_of_sum(node, single)
        elif node in single and not (len(node.users) == 1 and set(node.users) <= single):
            yield from _folds_of_chain(_walk(node, single), traced)


def _folds_of_sum(end: fx.Node, single: Collection[fx.Node]) -> Iterator[Fold]:
    """The parts of a sum that come from the same source, with something between."""
    leaves = [leaf for leaf in _leaves(end) if isinstance(leaf, fx.Node) or leaf != 0]
    walked = [_walk(leaf, single) if isinstance(leaf, fx.Node) and len(leaf.users) == 1 else [] for leaf in leaves]
    sources = [chain[0].args[0] if chain else leaf for leaf, chain in zip(leaves, walked, strict=True)]
    for source in dict.fromkeys(source for source in sources if isinstance(source, fx.Node)):
        terms = tuple(_names(chain) for chain, found in zip(walked, sources, strict=True) if found is source)
        if len(terms) > 1 and any(terms):
            rest = tuple(leaf for leaf, found in zip(leaves, sources, strict=True) if found is not source)
            yield Fold(terms, source, end, rest)


def _folds_of_chain(chain: list[fx.Node], traced: fx.GraphModule) -> Iterator[Fold]:
    """Each two convolutions behind one another, with the normalizations between and behind them."""
    at = [
        number for number, node in enumerate(chain)
        if isinstance(traced.get_submodule(str(node.target)), nn.Conv2d)
    ]  # fmt: skip
    for first, last in zip(at, [*at[2:], len(chain)], strict=False):
        part, source = chain[first:last], chain[first].args[0]
        assert isinstance(source, fx.Node)
        if len(at) > 1:
            yield Fold((_names(part),), source, part[-1])


def _names(chain: list[fx.Node]) -> tuple[str, ...]:
    return tuple(str(node.target) for node in chain)


def _is_sum(node: fx.Node) -> bool:
    called = node.op == "call_function" and node.target in SUMS
    return (called or (node.op == "call_method" and node.target in ("add", "add_"))) and not node.kwargs


def _leaves(node: Argument, *, top: bool = True) -> Iterator[Argument]:
    """What a sum of sums adds up, as far as nothing else reads the sums between."""
    if isinstance(node, fx.Node) and _is_sum(node) and (top or len(node.users) == 1):
        for part in node.args:
            yield from _leaves(part, top=False)
    else:
        yield node


def _walk(node: fx.Node, single: Collection[fx.Node]) -> list[fx.Node]:
    """The layers that lead to a node, itself the last of them, with nothing between and no other reader."""
    chain = list[fx.Node]()
    while node in single and (not chain or len(node.users) == 1):
        chain.insert(0, node)
        (given,) = node.args
        assert isinstance(given, fx.Node)
        node = given
    return chain


def install(traced: fx.GraphModule, fold: Fold, conv: nn.Conv2d, name: str) -> None:
    """Put a convolution, under that name, in the place of the layers of a fold."""
    graph = traced.graph
    with graph.inserting_before(fold.end):
        made = graph.call_module(name, (fold.source,))
        for other in fold.rest:
            made = graph.call_function(operator.add, (made, other))
    fold.end.replace_all_uses_with(made)
    for node in reversed(graph.nodes):
        if not node.users and (_is_sum(node) or (node.op == "call_module" and node.target in fold.modules)):
            graph.erase_node(node)
    traced.add_submodule(name, conv.train(traced.training))
    traced.delete_all_unused_submodules()
    traced.recompile()


def become(module: nn.Module, traced: fx.GraphModule) -> None:
    """Turn a module into what was traced of it, in place: whoever holds it has the folded one."""
    module.__class__ = traced.__class__
    module.__dict__ = traced.__dict__


def apply(module: nn.Module, edit: Edit) -> None:
    """Put a convolution in the place of the listed modules, which are below the named one."""
    wanted = edit.arguments["modules"]
    try:
        traced = trace(module, edit.arguments["leaves"])
    except Exception as error:  # it is the user's code that runs, and may raise anything
        raise SourceError(f"`{edit.module}` cannot be traced: {type(error).__name__}: {error}") from error
    found = next((fold for fold in find_folds(traced) if fold.modules == wanted), None)
    if found is None:
        raise SourceError(f"`{edit.module}` has no layers to fold together as {', '.join(wanted)}")
    install(traced, found, nn.Conv2d(**edit.arguments["conv"]), edit.arguments["name"])
    become(module, traced)
