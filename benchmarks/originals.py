"""INT8 beside the peers' on the 224×224 originals of the families in recipes/cifar10: speed only, with random weights.

Peers run in the Python that `EDGEOPT_PEERS` names (see peers.py), and are left out where there is none. All start from
the same float ONNX file and the same 16 images. With the peers, it takes more than an hour.

    python benchmarks/originals.py [--only mobilenetv2,resnet50] [--sets 6]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import imagenet
import numpy as np
import torch
from comparing import BACKENDS, OURS, SPEED_COLUMNS, Made, make_peers, speed_rows
from networks import export, quantize
from safetensors.torch import save_file
from tables import ROOT, describe_machine, show
from torch import Tensor, nn

from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.model import Model, TensorSpec
from edgeopt.sources import SourceRequest

NETWORKS = ("mobilenetv2", "mobilenetv3", "efficientnet", "densenet", "resnet50")
PEERS = ("quantize_static", "nncf")
SEED = 0
SIDE = 224  # pixels
BATCH = 16
#: pixels at a side of the noise that images are blown up from
COARSE = 14


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=lambda text: text.split(","), default=NETWORKS, help=",".join(NETWORKS))
    parser.add_argument(
        "--sets", type=int, default=6, help="sets of workers of each comparison; fewer give no interval"
    )
    options = parser.parse_args()
    rows: list[list[object]] = []
    for name in options.only:
        with tempfile.TemporaryDirectory() as scratch:
            rows += ([name, *row] for row in _rows(name, Path(scratch), options.sets))
    title = f"p50, one image of {SIDE}×{SIDE}, one thread, in turns · {describe_machine()}"
    show(title, ["network", *SPEED_COLUMNS], rows)


def _rows(name: str, scratch: Path, sets: int) -> Iterator[list[object]]:
    model, samples = prepare(name, scratch)
    ours = [Made(OURS, quantize(model, samples, scratch / backend, backend).path, backend) for backend in BACKENDS]
    yield from speed_rows(model, [*ours, *make_peers(model, samples.path, scratch, PEERS)], sets)


def prepare(name: str, folder: Path) -> tuple[Model, Samples]:
    """A network of imagenet.py in its ONNX form, with weights like learned ones, and the images to calibrate on."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    model, images = _export(name, folder), folder / "images.npz"
    np.savez(images, image=_smooth_images().numpy())
    return model, Samples(format="npz", path=images, inputs=("image",), preprocess=Preprocess())


def _export(name: str, folder: Path) -> Model:
    network = getattr(imagenet, name)()
    _settle(network)
    weights = folder / "weights.safetensors"
    save_file(network.state_dict(), weights)
    spec = TensorSpec(name="image", shape=(3, SIDE, SIDE))
    root = ROOT / "benchmarks"
    request = SourceRequest(root=root, factory=f"imagenet.py:{name}", weights=weights, inputs=(spec,))
    return export(request, folder / "float")


@torch.no_grad()
def _settle(network: nn.Module) -> None:
    """Make random weights like learned ones: each channel has a mean, a width and factors of its own.

    Fresh normalization would leave channels alike, and let values grow or vanish with the depth. It sees noise as well,
    with which an export is compared: what was never seen can grow a thousandfold from block to block.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.momentum = None  # running statistics are then the average over all batches
    network.train()
    for _ in range(4):
        network(torch.cat([_smooth_images(), torch.randn(BATCH, 3, SIDE, SIDE)]))
    network.eval()


def _smooth_images() -> Tensor:
    """(BATCH, 3, SIDE, SIDE) random images in which neighbours are alike, as in those of cameras."""
    coarse = torch.randn(BATCH, 3, COARSE, COARSE)
    return nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic")


if __name__ == "__main__":
    main()
