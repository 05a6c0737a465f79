"""Small signed bundles and devices to try them on: what the tables of `shipping.py`, and tests, are made with.

    publisher = Publisher.make(Path("keys"))
    bundle = publisher.publish(counter=7)
    home = publisher.make_device(Path("device"))

The network is `null`'s, so that smoke tests run wherever edgeopt does: what is looked at here is everything else.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeopt import files
from edgeopt.bundle.golden import Golden
from edgeopt.bundle.pack import Contents, pack_bundle, pack_file
from edgeopt.bundle.sign import Terms, sign_bundle
from edgeopt.bundle.signing import load_public_key, load_signer, make_key
from edgeopt.bundle.trust import Root, make_role, write_root
from edgeopt.data.preprocess import Preprocess
from edgeopt.device.home import Device, Home, make_home
from edgeopt.model import Artifact, TensorSpec, list_files

APP = "digits"
IMAGE = TensorSpec(name="image", shape=("batch", 1, 4, 4))
LOGITS = TensorSpec(name="logits", shape=("batch", 10))

_fresh = itertools.count()


@dataclass(frozen=True)
class Publisher:
    """Who signs: a folder for what is made, private keys, the root that names them."""

    folder: Path
    keys: tuple[Path, ...]
    root: Path

    @classmethod
    def make(cls, folder: Path, *, keys: int = 1, threshold: int = 1) -> Publisher:
        """Fresh keys, and a first root in which so many of them sign bundles and roots."""
        made = tuple(make_signing_key(folder, f"{number}.key") for number in range(keys))
        make_root(folder / "root.json", made, made, threshold=threshold)
        return cls(folder, made, folder / "root.json")

    def publish(self, counter: int, *, keys: Sequence[Path] | None = None, **how: Any) -> Path:
        """A signed bundle file: fields of `Terms`, and those of `make_contents`."""
        terms = {name: how.pop(name) for name in ("channel", "not_after", "allow") if name in how}
        bundle = self.pack(weights=how.pop("weights", f"weights of {counter}".encode() * 99), **how)
        signers = [load_signer(key) for key in (self.keys if keys is None else keys)]
        sign_bundle(bundle, bundle, Terms(counter=counter, **terms), signers)
        return bundle

    def pack(self, weights: bytes = b"weights", **fields: Any) -> Path:
        """A bundle file that nobody has signed yet."""
        place = self.folder / f"bundle-{next(_fresh)}"
        pack_bundle(make_contents(place / "built", weights, **fields), place / "bundle")
        pack_file(place / "bundle", place / f"{APP}.edgeopt")
        return place / f"{APP}.edgeopt"

    def make_device(self, folder: Path, **fields: Any) -> Home:
        """A device that trusts the root; fields as in `Device`."""
        make_home(folder, self.root.read_bytes(), Device(**fields))
        return Home(folder)


@contextlib.contextmanager
def in_memory() -> Iterator[Path]:
    """A folder of which nothing is kept, in memory where the system has such a place: fsync takes no time there."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


def make_signing_key(folder: Path, name: str) -> Path:
    files.make_folder(folder)
    make_key(folder / name)
    return folder / name


def make_root(
    path: Path, releases: Sequence[Path], roots: Sequence[Path], *, threshold: int = 1, version: int = 1,
    signed_by: Sequence[Path] | None = None,
) -> Path:  # fmt: skip
    """A root in which these keys sign bundles, and those the next root, signed by `roots` unless others are named."""
    signing, ruling = (
        make_role([load_public_key(Path(f"{key}.pub")) for key in keys], threshold) for keys in (releases, roots)
    )
    signers = [load_signer(key) for key in (roots if signed_by is None else signed_by)]
    write_root(path, Root(version=version, root=ruling, releases=signing), signers)
    return path


def make_contents(folder: Path, weights: bytes, **fields: Any) -> Contents:
    """What goes into a bundle; its artifact has two files, one of them in a folder of its own."""
    for name, content in {"model.onnx": weights, "parts/second.bin": weights[::-1]}.items():
        files.write_bytes(folder / name, content)
    artifact = Artifact(
        target="x86", backend="null", files=list_files(folder, ["model.onnx", "parts/second.bin"]), inputs=(IMAGE,),
        outputs=(LOGITS,), settings={"threads": 1, "batch": 1}, folder=folder,
    )  # fmt: skip
    sample = Golden({"image": np.ones((1, 4, 4), np.float32)}, {"logits": np.zeros(10, np.float32)})
    contents = Contents(
        name=APP, target="x86", candidate="null/fp32", artifact=artifact, preprocess=Preprocess(), classes=None,
        compatible={}, recipe=b"edgeopt: 1\nname: digits\n", golden=(sample,), measurements=(),
        verdicts=({"budget": "size.max_mb", "verdict": "pass", "margin": 0.1, "sentence": "small"},),
    )  # fmt: skip
    return replace(contents, **fields)
