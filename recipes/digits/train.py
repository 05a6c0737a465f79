"""Trains the network of the digits recipe and writes its weights.

`python recipes/digits/train.py` sees `training.npz` only. The number of epochs is fixed and the last state is the one
that is kept, so the validation images, read once at the end, choose nothing.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from network import DigitsNet
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "calibration_data" / "digits"

SCALE, MEAN, STD = 0.00392157, 0.5, 0.25  # as in the recipe's `preprocess`
BATCH = 64
LEARNING_RATE = 4e-3
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.05
MAX_ROTATION = math.radians(12)
MAX_SHIFT = 0.12  # of half the image's side, which is what `affine_grid` counts in
MAX_SCALE = 0.12


def load_split(name: str) -> tuple[Tensor, Tensor]:
    """Images as float32 in 0..1, so that what augmentation moves in from outside is background, and labels."""
    with np.load(DATA / f"{name}.npz") as arrays:
        images, labels = torch.from_numpy(arrays["image"]), torch.from_numpy(arrays["labels"])
    return images.float() * SCALE, labels


def normalize(images: Tensor) -> Tensor:
    """The rest of the recipe's `preprocess`."""
    return (images - MEAN) / STD


def jitter(count: int, largest: float) -> Tensor:
    """Uniform numbers in -largest..largest."""
    return (torch.rand(count) * 2 - 1) * largest


def augment(images: Tensor) -> Tensor:
    """Each image turned, scaled and shifted by a little of its own."""
    count = len(images)
    angle, scale = jitter(count, MAX_ROTATION), 1 + jitter(count, MAX_SCALE)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    rows = [cosine, -sine, jitter(count, MAX_SHIFT), sine, cosine, jitter(count, MAX_SHIFT)]
    affine = torch.stack(rows, dim=1).view(count, 2, 3)
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """One cycle of the learning rate over all epochs, in place."""
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = math.ceil(len(images) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, epochs=epochs, steps_per_epoch=steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=LABEL_SMOOTHING)
    network.train()
    for epoch in range(1, epochs + 1):
        total = 0.0
        for chosen in torch.split(torch.randperm(len(images)), BATCH):
            loss = loss_of(network(normalize(augment(images[chosen]))), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        print(f"epoch {epoch}/{epochs}: loss {total / len(images):.4f}", flush=True)


@torch.no_grad()
def count_correct(network: nn.Module, images: Tensor, labels: Tensor) -> int:
    """How many images the network names rightly, with its batch normalization in evaluation mode."""
    network.eval()
    guesses = [network(normalize(batch)).argmax(1) for batch in torch.split(images, BATCH)]
    return int((torch.cat(guesses) == labels).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description="train the network of the digits recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--out", type=Path, default=HERE / "digits.safetensors", help="file to write")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    network = DigitsNet()
    images, labels = load_split("training")
    started = time.monotonic()
    train(network, images, labels, options.epochs)
    print(f"trained on {len(images)} images in {time.monotonic() - started:.0f} s")
    save_file(network.state_dict(), options.out)

    images, labels = load_split("validation")
    correct = count_correct(network, images, labels)
    print(f"validation: {correct} of {len(images)} right, {100 * correct / len(images):.2f} %")


if __name__ == "__main__":
    main()
