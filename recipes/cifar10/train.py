"""Trains one of the CIFAR-10 networks in this folder and writes its weights.

`python recipes/cifar10/train.py mobilenetv2 --data DIR` learns from `DIR/train` only. The number of epochs is fixed and
the last state is the one that is kept, so the images in `DIR/test`, read once at the end, choose nothing.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from densenet import DenseNet
from efficientnet import EfficientNet
from mobilenetv2 import MobileNetV2
from mobilenetv3 import MobileNetV3
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from vgg import Vgg

HERE = Path(__file__).resolve().parent
NETWORKS = {kind.__module__: kind for kind in (MobileNetV2, MobileNetV3, EfficientNet, DenseNet, Vgg)}

SIDE = 32
SCALE, MEAN, STD = 0.00392157, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # as in the recipes' `preprocess`
BATCH = 128
LEARNING_RATE = 4e-3
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.05
MAX_SHIFT = 4  # pixels


def load_split(folder: Path) -> tuple[Tensor, Tensor]:
    """Images as uint8, which all fit into 150 MB, and labels: the place of the class in the alphabet."""
    images, labels = [], []
    for label, class_folder in enumerate(sorted(folder.iterdir())):
        for file in sorted(class_folder.glob("*.jpg")):
            with Image.open(file) as image:
                images.append(np.asarray(image.convert("RGB")))
            labels.append(label)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def normalize(images: Tensor) -> Tensor:
    """The recipes' `preprocess`, and the layout in which convolutions on a CPU are half as fast again."""
    mean, std = (images.new_tensor(value, dtype=torch.float32).view(3, 1, 1) for value in (MEAN, STD))
    return ((images.float() * SCALE - mean) / std).contiguous(memory_format=torch.channels_last)


def augment(images: Tensor) -> Tensor:
    """Each image shifted by up to `MAX_SHIFT` pixels, with black coming in, and every second one mirrored."""
    count = len(images)
    windows = functional.pad(images, (MAX_SHIFT,) * 4).unfold(2, SIDE, 1).unfold(3, SIDE, 1)
    down, right = torch.randint(2 * MAX_SHIFT + 1, (2, count), device=images.device)
    shifted = windows[torch.arange(count, device=images.device), :, down, right]
    mirrored = torch.rand(count, 1, 1, 1, device=images.device) < 0.5
    return torch.where(mirrored, shifted.flip(3), shifted)


def train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """One cycle of the learning rate over all epochs, in place."""
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = math.ceil(len(images) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, epochs=epochs, steps_per_epoch=steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=LABEL_SMOOTHING)
    network.train()
    for epoch in range(1, epochs + 1):
        started = time.monotonic()
        total, correct = torch.zeros(
            2, device=images.device
        )  # no .item() below: a GPU would be waited for at each step
        for chosen in torch.split(torch.randperm(len(images), device=images.device), BATCH):
            logits = network(normalize(augment(images[chosen])))
            loss = loss_of(logits, labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(chosen)
            correct += (logits.argmax(1) == labels[chosen]).sum()
        found = f"loss {float(total) / len(images):.4f}, {100 * int(correct) / len(images):.2f} % right"
        print(f"epoch {epoch}/{epochs}: {found}, {time.monotonic() - started:.0f} s", flush=True)


@torch.no_grad()
def count_correct(network: nn.Module, images: Tensor, labels: Tensor) -> int:
    """How many images the network names rightly, with its batch normalization in evaluation mode."""
    network.eval()
    guesses = [network(normalize(batch)).argmax(1) for batch in torch.split(images, BATCH)]
    return int((torch.cat(guesses) == labels).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description="train one of the CIFAR-10 networks")
    parser.add_argument("name", choices=NETWORKS, help="network to train")
    parser.add_argument("--data", type=Path, required=True, help="folder with `train` and `test`")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--threads", type=int, help="default: one for each core")
    parser.add_argument("--device", default="cpu", help="as torch names it, e.g. cuda")
    parser.add_argument("--half", action="store_true", help="keep the weights as float16, which halves the file")
    parser.add_argument("--out", type=Path, help="file to write; default: NAME.safetensors beside this script")
    options = parser.parse_args()

    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    network = NETWORKS[options.name]().to(options.device, memory_format=torch.channels_last)
    images, labels = (tensor.to(options.device) for tensor in load_split(options.data / "train"))
    started = time.monotonic()
    train(network, images, labels, options.epochs)
    print(f"trained on {len(images)} images in {time.monotonic() - started:.0f} s")
    if options.half:
        network.half()
    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, options.out or HERE / f"{options.name}.safetensors")
    network.float()  # what is judged below has the weights as they were kept

    images, labels = (tensor.to(options.device) for tensor in load_split(options.data / "test"))
    correct = count_correct(network, images, labels)
    print(f"test: {correct} of {len(images)} right, {100 * correct / len(images):.2f} %")


if __name__ == "__main__":
    main()
