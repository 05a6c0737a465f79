"""Sign a bundle: say that its manifest, under this counter, may go to the devices of a channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from edgeopt import files
from edgeopt.bundle import Bundle
from edgeopt.bundle.manifest import MANIFEST_FILE, RELEASE_FILE, Manifest
from edgeopt.bundle.pack import pack_file
from edgeopt.bundle.release import PAYLOAD_TYPE, Release
from edgeopt.bundle.signing import sign
from edgeopt.bundle.unpack import unpack_bundle
from edgeopt.bundle.verify import load_bundle
from edgeopt.errors import TrustError, UsageError
from edgeopt.model import canonical_json

if TYPE_CHECKING:
    from securesystemslib.signer import Signer


@dataclass(frozen=True)
class Terms:
    """Under what a bundle is signed: fields as in `Release`, and verdicts beside `pass` that may be signed."""

    counter: int
    channel: str = "stable"
    not_after: str | None = None
    allow: tuple[str, ...] = ()


def sign_bundle(path: Path, out: Path, terms: Terms, signers: Sequence[Signer]) -> Release:
    """Sign the bundle at `path`, a file or a folder, and leave it at `out`, which may be the same, as a whole.

    Where it is signed already under the same terms, those signatures stay beside the new ones; else they go.

    Raises:
        UsageError: the terms are no terms, or there is no bundle.
        TrustError: the bundle is not what its manifest says, or has a verdict that is not allowed.
    """
    files.sweep(out.absolute().parent)
    with files.scratch(out.absolute().parent) as scratch:
        folder = scratch / "bundle"
        bundle = _copy(path, folder) if path.is_dir() else unpack_bundle(path, folder)
        manifest = _allowed(bundle.manifest, terms.allow)
        release = _release(manifest, terms)
        payload = canonical_json(release.model_dump(mode="json"))
        files.write_bytes(folder / MANIFEST_FILE, manifest.to_bytes())
        files.write_bytes(folder / RELEASE_FILE, sign(payload, PAYLOAD_TYPE, signers, bundle.release))
        if path.is_dir():
            files.publish(folder, out.absolute())
        else:
            pack_file(folder, out)
    return release


def _copy(path: Path, folder: Path) -> Bundle:
    bundle = load_bundle(path)
    for file in bundle.manifest.files:
        files.copy(path / file.path, folder / file.path)
    return Bundle(folder, bundle.manifest, bundle.release)


def _allowed(manifest: Manifest, allow: Sequence[str]) -> Manifest:
    """The manifest, which says which verdicts were let through, if any."""
    missed = manifest.missed()
    refused = next((verdict for verdict in missed if verdict not in allow), None)
    if refused is not None:
        judged = f"a verdict of it is `{refused}`" if manifest.verdicts else "it was judged by no budget"
        hint = f"`--allow {refused}` signs it all the same, and says so in its manifest"
        raise TrustError(f"`{manifest.candidate}` for `{manifest.target}` is not signed: {judged}", hint)
    return manifest if manifest.allowed == missed else manifest.model_copy(update={"allowed": missed})


def _release(manifest: Manifest, terms: Terms) -> Release:
    try:
        return Release(
            name=manifest.name, target=manifest.target, manifest_sha256=manifest.digest(), counter=terms.counter,
            channel=terms.channel, not_after=terms.not_after,
        )  # fmt: skip
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"`{first['loc'][0]}`: {first['msg']}", "`edgeopt bundle sign --help` shows how") from error
