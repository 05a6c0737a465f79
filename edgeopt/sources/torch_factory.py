"""A torch network: a callable of the user's that makes it, and a checkpoint with its tensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt import user_code
from edgeopt.errors import EdgeoptError, SourceError
from edgeopt.model import Facts, Model, TensorSpec, TorchValue
from edgeopt.sources import Source, SourceRequest

if TYPE_CHECKING:
    import torch
    from torch import nn

BATCH = 2


class TorchFactory(Source):
    """Loads `factory:` with `weights:`."""

    def load(self, request: SourceRequest, folder: Path) -> tuple[Model, Facts]:
        """Load the network into `folder`; inputs are fed in the order of the recipe, in a batch of zeros."""
        from edgeopt import checkpoint, network

        if request.factory is None or request.weights is None or not request.inputs:
            raise SourceError("a torch network needs `factory:`, `weights:` and `inputs:`", "add them to `model:`")
        # The checkpoint is read before any code of the user's runs, which could widen what a pickle may do.
        tensors = checkpoint.read_tensors(request.weights, request.key, request.strip_prefix)
        module = network.call_factory(request.root, request.factory, request.options).eval()
        network.load_tensors(module, tensors, str(request.weights))
        inputs = tuple(spec.model_copy(update={"shape": ("batch", *spec.shape)}) for spec in request.inputs)
        value = TorchValue(factory=request.factory, options=request.options)
        outputs = _run(module, inputs, request)
        model = Model(value=value, inputs=inputs, outputs=outputs, folder=folder, sources=request.root)
        return network.write_network(module, model, folder), _describe(module, inputs)


def find_prefix(request: SourceRequest) -> str:
    """What a worker runs: what the tensor names of the checkpoint begin with and those of the network do not.

    Raises:
        SourceError: the factory fails, or the checkpoint holds no tensors.
        TrustError: the checkpoint is a pickle that wants to run code.
    """
    from edgeopt import checkpoint, network

    assert request.factory is not None
    assert request.weights is not None
    tensors = checkpoint.read_tensors(request.weights, request.key)  # before any code of the user's runs
    module = network.call_factory(request.root, request.factory, request.options)
    return network.find_prefix(module.state_dict(), tensors)


def _run(module: nn.Module, inputs: tuple[TensorSpec, ...], request: SourceRequest) -> tuple[TensorSpec, ...]:
    """Run the network once, and describe what comes out."""
    import torch

    from edgeopt.network import name_outputs

    path, _ = user_code.locate(request.root, request.factory or "")
    try:
        with torch.no_grad():
            outputs = name_outputs(module(*_zeros(inputs, BATCH)))
    except EdgeoptError:
        raise
    except Exception as error:  # the user's code may raise anything
        shapes = ", ".join(f"{spec.name} {list(spec.shape[1:])}" for spec in inputs)
        message = f"`{request.factory}` cannot run on inputs of shape {shapes}: {user_code.where(error, path.parent)}"
        raise SourceError(message, "check `inputs:` of the model; shapes are without the batch axis") from error
    return tuple(_spec(name, tensor) for name, tensor in outputs.items())


def _spec(name: str, tensor: torch.Tensor) -> TensorSpec:
    if tensor.dim() == 0 or tensor.shape[0] != BATCH:
        message = f"the output `{name}` has shape {list(tensor.shape)} for a batch of {BATCH}"
        raise SourceError(message, "the first axis of each output must be the batch")
    return TensorSpec(name=name, dtype=str(tensor.dtype).removeprefix("torch."), shape=("batch", *tensor.shape[1:]))


def _zeros(inputs: tuple[TensorSpec, ...], batch: int) -> list[torch.Tensor]:
    import torch

    return [torch.zeros(spec.with_batch(batch), dtype=getattr(torch, spec.dtype)) for spec in inputs]


def _describe(module: nn.Module, inputs: tuple[TensorSpec, ...]) -> Facts:
    from edgeopt.network import count_macs

    parameters = sum(parameter.numel() for parameter in module.parameters())
    macs = count_macs(module, _zeros(inputs, 1))
    summary = f"{macs / 1e6:.1f} MMACs, {parameters / 1e6:.2f} M parameters"
    return {"parameters": parameters, "macs": macs, "summary": summary}
