"""The manifest: what a bundle is, and every other file of it with digest and size.

Its bytes are canonical JSON, so one content has one digest, and that digest is what a signature will bind. `parse`
trusts nothing: it takes canonical bytes of a known format only, and no name that could lead out of the bundle's folder.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any, Final, Literal

from pydantic import ValidationError, model_validator

from edgeopt.bundle.fingerprint import Reference
from edgeopt.data.preprocess import Preprocess
from edgeopt.errors import TrustError, legible
from edgeopt.model import Artifact, ArtifactFile, Value, canonical_json

FORMAT: Final = 1

MANIFEST_FILE = "manifest.json"
MODEL_FOLDER = "model"
GOLDEN_FILE = "golden.npz"
RECIPE_FILE = "recipe.yaml"

RELEASE_FILE = "release.json"
#: what stands in a bundle beside what its manifest lists
UNLISTED = (MANIFEST_FILE, RELEASE_FILE)

MANIFEST_LIMIT_BYTES = 1_000_000
RELEASE_LIMIT_BYTES = 100_000
BUNDLE_LIMIT_BYTES = 4_000_000_000
FILES_LIMIT = 1_000

#: plain parts between slashes: nothing absolute, hidden, dotted, spaced or foreign to some file system
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}){0,5}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Smoke(Value):
    """What a device holds its own outputs of the golden samples against, before it uses a bundle.

    `tolerance` is the share of an output's span by which it may differ: kernels of another CPU round otherwise.
    `p90_ms` is the budget of the target, where it has one that is no ratio.
    """

    tolerance: float = 0.05
    p90_ms: float | None = None


class Manifest(Value):
    """What a bundle is.

    `candidate` is the winner's backend and variant. `artifact` names its files relative to the folder `model`, its
    inputs, its outputs and what it requires. `compatible` is what a device must be for the verdicts to hold there (name
    → value). `measurements` and `verdicts` are plain data as in the report: a new field must not stop an older reader.
    `libraries` are the versions that made it. `allowed` are verdicts other than `pass` that whoever signed it let pass.
    `fingerprint` is what was usual at calibration (signal → counts), which a device holds against what it sees.
    """

    edgeopt_bundle: Literal[1] = FORMAT
    name: str
    target: str
    candidate: str
    artifact: Artifact
    files: tuple[ArtifactFile, ...]
    preprocess: Preprocess
    classes: tuple[str, ...] | None = None
    compatible: dict[str, str] = {}
    measurements: tuple[dict[str, Any], ...] = ()
    verdicts: tuple[dict[str, Any], ...] = ()
    libraries: dict[str, str] = {}
    allowed: tuple[str, ...] = ()
    smoke: Smoke = Smoke()
    fingerprint: dict[str, Reference] = {}

    @model_validator(mode="after")
    def _check_files(self) -> Manifest:
        faults = [*_name_faults([file.path for file in self.files]), *self._size_faults(), *self._artifact_faults()]
        if faults:
            raise ValueError(faults[0])
        return self

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """The manifest that `data` holds.

        Raises:
            TrustError: these are not the canonical bytes of a sound manifest of a known format.
        """
        _check_format(data)
        try:
            manifest = cls.model_validate_json(data, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "files"
            raise TrustError(f"the manifest is not sound: `{legible(place)}`: {first['msg']}", _HINT) from error
        if manifest.to_bytes() != data:
            raise TrustError("the manifest is not in its canonical form", _HINT)
        return manifest

    def to_bytes(self) -> bytes:
        """The canonical bytes; `complete` a manifest that was not parsed first."""
        return canonical_json(self.model_dump(mode="json", exclude_unset=True))

    def complete(self) -> Manifest:
        """The same manifest with every default written out, as `parse` will read it."""
        return Manifest.parse(canonical_json(self.model_dump(mode="json")))

    def digest(self) -> str:
        """SHA-256 of the bytes: the name of this bundle's content."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def missed(self) -> tuple[str, ...]:
        """The verdicts other than `pass`, each once; what has none at all is unmeasured."""
        found = {str(verdict.get("verdict")) for verdict in self.verdicts} or {"unmeasured"}
        return tuple(sorted(found - {"pass"}))

    @property
    def size_bytes(self) -> int:
        """All files together, without the manifest."""
        return sum(file.size_bytes for file in self.files)

    def _size_faults(self) -> Iterable[str]:
        if len(self.files) > FILES_LIMIT:
            yield f"{len(self.files)} files, at most {FILES_LIMIT} are allowed"
        yield from (f"`{file.path}` has no SHA-256" for file in self.files if not _DIGEST.fullmatch(file.sha256))
        yield from (f"`{file.path}` has a negative size" for file in self.files if file.size_bytes < 0)
        if self.size_bytes > BUNDLE_LIMIT_BYTES:
            yield f"{self.size_bytes} bytes, at most {BUNDLE_LIMIT_BYTES} are allowed"

    def _artifact_faults(self) -> Iterable[str]:
        listed = {file.path: file for file in self.files}
        yield from (f"`{name}` is missing" for name in (GOLDEN_FILE, RECIPE_FILE) if name not in listed)
        for file in self.artifact.files:
            path = f"{MODEL_FOLDER}/{file.path}"
            if listed.get(path) != file.model_copy(update={"path": path}):
                yield f"`{path}` is not listed as the artifact lists it"


_HINT = "get the bundle again from where it was made"


def _check_format(data: bytes) -> None:
    """Refuse another format before its fields are looked at, so that the message says what to do."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TrustError("the manifest is not JSON", _HINT) from error
    version = found.get("edgeopt_bundle") if isinstance(found, dict) else None
    if version != FORMAT:
        raise TrustError(
            f"the manifest has bundle format `{legible(str(version))}`, this edgeopt reads `{FORMAT}`",
            "read it with the edgeopt that made it, or a newer one",
        )


def _name_faults(names: list[str]) -> Iterable[str]:
    yield from (f"`{legible(name)}` is not a plain relative name" for name in names if not _NAME.fullmatch(name))
    if names != sorted(set(names)):
        yield "the files are not sorted, each named once"
    # Some file systems fold case, and there two such names would be one file.
    folded = {name.casefold() for name in names} | set(UNLISTED)
    if len(folded) != len(names) + len(UNLISTED):
        yield "two files differ in case only, or one is named as the manifest or the release is"
    folders = {str(parent) for name in folded for parent in PurePosixPath(name).parents}
    yield from (f"`{name}` is both a file and a folder" for name in sorted(folders & folded))
