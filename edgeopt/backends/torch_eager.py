"""The network as its author runs it: torch, evaluation mode, no compiler.

This is the original that everything is compared with. Its artifact holds its code, too, so that it opens anywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from edgeopt import environment, files, user_code
from edgeopt.backends import Arrays, Backend, Session, check_inputs
from edgeopt.context import Context
from edgeopt.errors import BackendError, MissingError
from edgeopt.keys import local_closure
from edgeopt.model import MODEL_FILE, Artifact, Form, Model, TorchValue, list_files, load_model, write_model

if TYPE_CHECKING:
    from torch import nn

CODE = "code"
INSTALL = "`pip install edgeopt[compile]`"


class TorchEager(Backend):
    """Runs the network itself; an artifact is its description, its tensors and its code."""

    accepts: ClassVar[Form] = "torch"

    device: Literal["cpu", "cuda"] = Field(default="cpu", description="where the network runs")

    def available(self) -> None:
        try:
            import torch
        except ImportError as error:
            raise MissingError("`torch_eager` needs torch, which is not installed", INSTALL) from error
        if self.device == "cuda" and not torch.cuda.is_available():
            built = "finds no NVIDIA GPU" if torch.version.cuda else "is built without CUDA"
            raise MissingError(
                f"torch {torch.__version__} {built}", "install the build of torch for your GPU and driver"
            )

    def machine(self) -> dict[str, str]:
        return {} if self.device == "cpu" else {f"gpu {at}": str(gpu) for at, gpu in enumerate(environment.gpus())}

    def build(self, model: Model, context: Context, folder: Path) -> Artifact:
        assert isinstance(model.value, TorchValue)
        code, attribute = user_code.locate(model.sources, model.value.factory)
        names = [str(Path(CODE, path.relative_to(code.parent))) for path in local_closure(code)]
        for name in names:
            files.copy(code.parent / Path(name).relative_to(CODE), folder / name)
        value = model.value.model_copy(update={"factory": f"{CODE}/{code.name}:{attribute}"})
        write_model(model.model_copy(update={"value": value}), folder)
        return Artifact(
            target=context.target,
            backend="torch_eager",
            files=list_files(folder, [MODEL_FILE, value.weights, *names]),
            inputs=model.inputs,
            outputs=model.outputs,
            requires={"torch": environment.library_version("torch") or "unknown"},
            settings={"threads": context.threads, "batch": context.batch, "device": self.device},
            folder=folder,
        )

    def open(self, artifact: Artifact) -> Session:
        """Open it; the number of threads is torch's own and holds for the whole process."""
        self.available()
        import torch

        from edgeopt.network import make_network

        torch.set_num_threads(int(artifact.settings["threads"]))
        network = make_network(load_model(artifact.folder))
        return TorchSession(network.to(artifact.settings.get("device", "cpu")), artifact)


class TorchSession(Session):
    """A network in evaluation mode that records no gradients."""

    def __init__(self, network: nn.Module, artifact: Artifact) -> None:
        self._network: nn.Module | None = network
        self._device = str(artifact.settings.get("device", "cpu"))
        self._artifact = artifact

    def run(self, inputs: Arrays) -> Arrays:
        import torch

        from edgeopt.network import name_outputs

        check_inputs(self._artifact.inputs, inputs)
        if self._network is None:
            raise BackendError("the session is closed")
        # Shared with torch where torch can share it, which is as fair to it as the runtimes that copy nothing.
        arrays = [np.require(inputs[spec.name], requirements=["C", "W"]) for spec in self._artifact.inputs]
        try:
            with torch.inference_mode():
                given = [torch.from_numpy(array).to(self._device) for array in arrays]
                outputs = name_outputs(self._network(*given))
        except RuntimeError as error:
            raise BackendError(f"the network failed: {error}") from error
        # Copied, because a network may return what it was given or what it keeps.
        return {spec.name: outputs[spec.name].cpu().numpy().copy() for spec in self._artifact.outputs}

    def close(self) -> None:
        self._network = None
