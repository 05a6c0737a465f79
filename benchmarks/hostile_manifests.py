"""Manifests that no packer makes, signed by the right key, as if whoever signs had been fooled.

The signature holds, and the members are just those that are listed: only the manifest itself can be refused.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.shipments import Publisher
from edgeopt.bundle.archive import open_archive, pack_members
from edgeopt.bundle.manifest import MANIFEST_FILE, RELEASE_FILE
from edgeopt.bundle.release import PAYLOAD_TYPE, Release
from edgeopt.bundle.signing import load_signer, sign
from edgeopt.model import canonical_json

Members = list[tuple[str, bytes]]
#: writes the file
Write = Callable[[Path], object]

OUTSIDE = (
    "../escaped",
    "model/../../escaped",
    "./x",
    "a\\..\\b",
    "",
    ".",
    "..",
    "~/x",
    "model//x",
    "x/",
    "x\n",
    "x\0y",
)


def make_signed(publisher: Publisher, counter: int = 2) -> Iterator[tuple[str, Write]]:
    """One of each kind: names that lead elsewhere or meet another, sizes and digests that cannot be, other fields."""
    _, members = members_of(publisher.publish(counter))
    manifest: dict[str, Any] = json.loads(members[0][1])

    def publish(what: str, listed: list[dict[str, Any]], **fields: Any) -> tuple[str, Write]:
        return what, as_file(sign_manifest(publisher, members, counter, files=listed, **fields))

    files: list[dict[str, Any]] = manifest["files"]
    extra = {"path": "", "sha256": hashlib.sha256(b"x").hexdigest(), "size_bytes": 1}

    def among(name: str) -> list[dict[str, Any]]:
        return sorted([*files, extra | {"path": name}], key=lambda one: one["path"])

    absolute = str(publisher.folder / "escaped")
    taken = ("manifest.json", "release.json", "RELEASE.JSON", "GOLDEN.NPZ", "model", "golden.npz/inside")
    for name in (*OUTSIDE, absolute, *taken, "x" * 300, "/".join("abcdefgh"), "\u202ex", ".hidden", "-x"):
        yield publish(f"a file `{name[:40]!r}`", among(name))
    yield publish("a file twice", sorted([*files, files[0]], key=lambda one: one["path"]))
    yield publish("files in another order", files[::-1])
    yield publish("one file less", files[1:])
    for field_name, value in (
        ("size_bytes", -1), ("size_bytes", 1 << 40), ("size_bytes", 0), ("size_bytes", True), ("sha256", "0" * 64),
        ("sha256", "x"), ("sha256", ""), ("path", None), ("mode", 0o4755),
    ):  # fmt: skip
        yield publish(f"`{field_name}: {value}`", [files[0] | {field_name: value}, *files[1:]])
    yield publish("2,000 files", [extra | {"path": f"f{number:04}"} for number in range(2_000)])
    yield publish("another format", files, edgeopt_bundle=2)
    yield publish("a field that is not known", files, run="rm -rf /")


def sign_manifest(publisher: Publisher, members: Members, counter: int, **fields: Any) -> bytes:
    """The bundle whose manifest has these fields in place of its own, signed, with a member for each file listed."""
    manifest, contents = json.loads(members[0][1]) | fields, dict(members[1:])
    data = canonical_json(manifest)
    release = Release(
        name=manifest["name"], target=manifest["target"], manifest_sha256=hashlib.sha256(data).hexdigest(),
        counter=counter,
    )  # fmt: skip
    payload = canonical_json(release.model_dump(mode="json", exclude_unset=True))
    envelope = sign(payload, PAYLOAD_TYPE, [load_signer(publisher.keys[0])])
    given = [(str(one["path"]), contents.get(one["path"], b"x")) for one in manifest["files"]]
    return pack_members([(RELEASE_FILE, envelope), (MANIFEST_FILE, data), *given])


def members_of(bundle: Path) -> tuple[tuple[str, bytes], Members]:
    """The release, and the manifest with all that it lists."""
    with open_archive(bundle) as archive:
        assert archive.release is not None
        manifest = archive.manifest
        release = (RELEASE_FILE, archive.release)
    with zipfile.ZipFile(bundle) as opened:
        listed = [(file.path, opened.read(file.path)) for file in manifest.files]
    return release, [(MANIFEST_FILE, manifest.to_bytes()), *listed]


def as_file(data: bytes) -> Write:
    """What writes these bytes."""
    return lambda path: path.write_bytes(data)
