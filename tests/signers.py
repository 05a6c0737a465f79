"""People who hold keys, and what they sign: real keys, roots and bundles, made where a test asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key, Signer

from edgeopt.bundle.sign import Terms, sign_bundle
from edgeopt.bundle.signing import load_public_key, load_signer, make_key
from edgeopt.bundle.trust import Role, Root, make_role, write_root


@dataclass(frozen=True)
class Holders:
    """People with one key each, which is made when they are first named."""

    folder: Path

    def key(self, name: str) -> Path:
        path = self.folder / f"{name}.key"
        if not path.exists():
            make_key(path)
        return path

    def signer(self, name: str) -> Signer:
        return load_signer(self.key(name))

    def public(self, name: str) -> Key:
        return load_public_key(self.key(name).with_name(f"{name}.key.pub"))

    def role(self, *names: str, threshold: int = 1) -> Role:
        return make_role([self.public(name) for name in names], threshold)

    def write_root(self, path: Path, root: Root, *names: str) -> bytes:
        """The root as these people sign it, beside who has signed it before."""
        write_root(path, root, [self.signer(name) for name in names])
        return path.read_bytes()

    def sign(self, bundle: Path, out: Path, *names: str, counter: int = 1, **terms: Any) -> Path:
        """The bundle as these people sign it."""
        sign_bundle(bundle, out, Terms(counter, **terms), [self.signer(name) for name in names])
        return out
