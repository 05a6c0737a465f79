"""The torch network of a `Model`: a fresh module from its factory, the structure edits replayed, its tensors loaded.

from edgeopt.network import load_network
network = load_network("build/digits/x86/network")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from edgeopt import files, user_code
from edgeopt.checkpoint import read_tensors
from edgeopt.edits import apply_edit
from edgeopt.errors import SourceError
from edgeopt.model import Edit, Model, TorchValue, load_model, write_model

#: the ending of the only tensors that a checkpoint may lack: old ones do, and no inference reads them
OPTIONAL = "num_batches_tracked"
LISTED = 5
RETURNS = "return a tensor, a tuple of tensors, or a dict of them"


def load_network(folder: str | Path, sources: str | Path | None = None) -> nn.Module:
    """The network that a run left in `folder`, in evaluation mode."""
    return make_network(load_model(Path(folder), None if sources is None else Path(sources)))


def make_network(model: Model) -> nn.Module:
    """A fresh module of a torch `model`: factory, edits, tensors; evaluation mode, float32, on the CPU.

    Raises:
        SourceError: the factory fails, or the tensors do not fit what it returns.
    """
    if not isinstance(model.value, TorchValue):
        raise SourceError("this model is an ONNX graph, not a torch network", "start from `factory:` and `weights:`")
    network = call_factory(model.sources, model.value.factory, model.value.options)
    for edit in model.value.edits:
        apply_edit(network, edit)
    load_tensors(network, read_tensors(model.path), str(model.path))
    return network.eval()


def write_network(network: nn.Module, model: Model, folder: Path, edits: tuple[Edit, ...] = ()) -> Model:
    """Write the tensors of `network` as a successor of `model` with `edits` added, and return it as it lies there."""
    assert isinstance(model.value, TorchValue)
    # Cloned, because a safetensors file has no place for tensors that share their storage, as tied weights do.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    value = model.value.model_copy(update={"edits": model.value.edits + edits, "weights": "weights.safetensors"})
    files.write_bytes(folder / value.weights, safetensors.torch.save(tensors))
    return write_model(model.model_copy(update={"value": value, "folder": folder}), folder)


def call_factory(root: Path, factory: str, options: Mapping[str, Any]) -> nn.Module:
    """Import `path/to/file.py:callable`, relative to `root`, and call it with the options.

    Raises:
        SourceError: there is no such file or callable, it raises, or it returns no module.
    """
    network = user_code.call(root, factory, options, SourceError)
    if not isinstance(network, nn.Module):
        raise SourceError(f"`{factory}` returned {type(network).__name__}, not a torch.nn.Module")
    return network


def load_tensors(network: nn.Module, tensors: Mapping[str, torch.Tensor], origin: str) -> None:
    """Load tensors strictly: all that the network has but for `OPTIONAL` ones, nothing else, in its shapes.

    Raises:
        SourceError: names the tensors that are missing, left over or misshapen.
    """
    wanted = network.state_dict()
    missing = [f"`{name}`" for name in wanted if name not in tensors and not name.endswith(OPTIONAL)]
    unexpected = [f"`{name}`" for name in tensors if name not in wanted]
    misshapen = [
        f"`{name}` is {_describe(tensors[name])}, not {_describe(tensor)}"
        for name, tensor in wanted.items()
        if name in tensors and not _fits(tensors[name], tensor)
    ]
    faults = {"missing": missing, "left over": unexpected, "misshapen": misshapen}
    if any(faults.values()):
        listed = "; ".join(f"{kind}: {_list_some(names)}" for kind, names in faults.items() if names)
        raise SourceError(f"the tensors of `{origin}` do not fit the network: {listed}", _guess_prefix(wanted, tensors))
    network.load_state_dict(dict(tensors), strict=False)


def name_outputs(result: Any) -> dict[str, torch.Tensor]:
    """What a network returned, by name: `output` for one tensor, the keys of a dict, `output_0` … of a tuple or list.

    Raises:
        SourceError: it is something else.
    """
    if isinstance(result, torch.Tensor):
        return {"output": result}
    if isinstance(result, (tuple, list)):
        result = {f"output_{number}": tensor for number, tensor in enumerate(result)}
    if not isinstance(result, Mapping) or not result:
        raise SourceError(f"the network returned {type(result).__name__}", RETURNS)
    for name, tensor in result.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise SourceError(f"the network returned {type(tensor).__name__} as `{name}`", RETURNS)
    return dict(result)


def count_macs(network: nn.Module, inputs: Sequence[torch.Tensor]) -> int:
    """Multiply-accumulates of one forward pass on `inputs`, in the network's convolution and linear modules.

    The network is run as it stands: in evaluation mode, if its running averages are to stay.
    """
    macs = 0

    def add(module: nn.Module, arguments: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
        nonlocal macs
        # One row of the weight is used per output element, or per input element where the convolution is transposed.
        elements = arguments[0] if getattr(module, "transposed", False) else result
        weight: Any = module.weight  # mostly a parameter; computed of others where it is parametrized
        macs += elements.numel() * weight[0].numel()

    counted = [module for module in network.modules() if isinstance(module, (_ConvNd, nn.Linear))]
    with ExitStack() as hooks, torch.no_grad():
        for module in counted:
            hooks.enter_context(module.register_forward_hook(add))
        network(*inputs)
    return macs


def _fits(tensor: torch.Tensor, wanted: torch.Tensor) -> bool:
    if is_lazy(wanted):  # takes the shape of what is loaded
        return True
    return tensor.shape == wanted.shape and tensor.is_floating_point() == wanted.is_floating_point()


def _describe(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _list_some(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def find_prefix(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """What stands in `found` before every name that is wanted; empty where nothing does."""
    first = next(iter(wanted), "")
    for name in found:
        prefix = name.removesuffix(first)
        if prefix.endswith(".") and all(prefix + each in found for each in wanted if not each.endswith(OPTIONAL)):
            return prefix
    return ""


def _guess_prefix(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The hint where tensors do not fit."""
    prefix = find_prefix(wanted, found)
    if prefix:
        return f"try `strip_prefix: {prefix}`"
    return "check that `factory:`, `options:` and `weights:` belong together"
