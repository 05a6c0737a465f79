"""Makes the three splits of the digits recipe from the images that scikit-learn carries.

`python recipes/digits/data.py` writes `training.npz`, `calibration.npz`, `validation.npz` and `SHA256SUMS`. The splits
depend on the images alone: an image's place follows from a hash of its content, so no random generator, and no change
of one between library versions, can move an image from one split to another.
"""

import argparse
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Split = tuple[Images, Labels]

DESTINATION = Path(__file__).resolve().parents[2] / "calibration_data" / "digits"
SEED = b"digits-0"
SIDE = 32
VALIDATION_IMAGES = 720
CALIBRATION_IMAGES = 260
LARGEST_VALUE = 16
GREY_STEP = 4  # 64 grey levels: more than the 17 of the source, and the files are a third smaller than with 256


def load_images() -> Split:
    """All images of `load_digits` as uint8 of shape (N, 1, 32, 32), and their labels."""
    digits = load_digits()
    grey = np.rint(digits.images * (255 / LARGEST_VALUE)).astype(np.uint8)
    resized = [np.asarray(Image.fromarray(g).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for g in grey]
    stepped = np.stack(resized)[:, None] // GREY_STEP * GREY_STEP
    return stepped, digits.target.astype(np.int64)


def drop_duplicates(images: Images, labels: Labels) -> Split:
    """The first of each set of images with the same content: a copy in two splits would be seen before it is judged."""
    first: dict[bytes, int] = {}
    for index, image in enumerate(images):
        first.setdefault(hashlib.sha256(image.tobytes()).digest(), index)
    kept = list(first.values())
    return images[kept], labels[kept]


def stratified_order(images: Images, labels: Labels) -> list[int]:
    """All indices, in an order of which every stretch holds the classes in nearly their true proportion."""

    def draw(index: int) -> bytes:
        return hashlib.sha256(SEED + images[index].tobytes()).digest()

    place: dict[int, float] = {}
    for label in np.unique(labels):
        members = sorted(np.flatnonzero(labels == label).tolist(), key=draw)
        place.update({index: (rank + 0.5) / len(members) for rank, index in enumerate(members)})
    return sorted(place, key=lambda index: (place[index], draw(index)))


def make_splits(images: Images, labels: Labels) -> dict[str, Split]:
    """The three splits; no image is in two of them."""
    order = stratified_order(images, labels)
    calibration_end = VALIDATION_IMAGES + CALIBRATION_IMAGES
    parts = {
        "training": order[calibration_end:],
        "calibration": order[VALIDATION_IMAGES:calibration_end],
        "validation": order[:VALIDATION_IMAGES],
    }
    return {name: (images[part], labels[part]) for name, part in parts.items()}


def write_splits(splits: Mapping[str, Split], folder: Path) -> list[Path]:
    """One npz per split. The bytes are the same every time: numpy writes a fixed date into the archive."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, (images, labels) in splits.items():
        path = folder / f"{name}.npz"
        np.savez_compressed(path, image=images, labels=labels)
        paths.append(path)
    return paths


def write_sums(paths: Iterable[Path], sums: Path) -> None:
    """The list that `sha256sum -c` reads, names relative to the folder of the list."""
    ordered = sorted(paths)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in ordered]
    sums.write_text("".join(lines), encoding="ascii")


def main() -> None:
    parser = argparse.ArgumentParser(description="make the splits of the digits recipe")
    parser.add_argument("--out", type=Path, default=DESTINATION, help="folder to write to")
    out: Path = parser.parse_args().out

    images, labels = load_images()
    unique_images, unique_labels = drop_duplicates(images, labels)
    splits = make_splits(unique_images, unique_labels)
    write_sums(write_splits(splits, out), out / "SHA256SUMS")

    print(f"{len(images)} images, {len(images) - len(unique_images)} duplicates dropped")
    for name, (_, split_labels) in splits.items():
        counts = Counter(split_labels.tolist())
        print(f"{name}: {len(split_labels)} images, by class {[counts[label] for label in sorted(counts)]}")


if __name__ == "__main__":
    main()
