"""An OCI registry: a shelf that bundles are put on, and that devices fetch from by themselves.

    registry://host[:port]/repository[:tag]

Over HTTPS; over HTTP only on this very machine. A bundle is pushed first, its image manifest after it, and the tag,
which is its channel unless the address names one, moves last: so whoever follows the tag finds all that it names.
Registries are not trusted: each digest is checked here, and the signature by whoever installs.
"""

from __future__ import annotations

import io
from pathlib import Path
from types import TracebackType

from edgeopt import files
from edgeopt.bundle.archive import is_compressed, open_archive
from edgeopt.bundle.manifest import Manifest
from edgeopt.bundle.release import Release, read_release
from edgeopt.bundle.verify import verify_bundle
from edgeopt.errors import DeviceError, TrustError
from edgeopt.transports import Pins, Progress, Transport
from edgeopt.transports.oci import (
    BUNDLE_TYPE,
    COMPRESSED_TYPE,
    IMAGE_LIMIT_BYTES,
    IMAGE_TYPE,
    Blob,
    Image,
    Reference,
    digest_of,
    make_image,
    parse_image,
)
from edgeopt.transports.oci.client import Client
from edgeopt.transports.oci.download import fetch_blob
from edgeopt.transports.oci.upload import push_blob

SUFFIX = ".edgeopt"


class Registry(Transport):
    """A repository of a registry."""

    def __init__(self, address: str, pins: Pins | None = None) -> None:
        super().__init__(address, pins or Pins())
        self._place = Reference.parse(address)
        self._client = Client(self._place.host)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def send(self, bundle: Path, progress: Progress | None = None) -> str:
        """Push a signed bundle, and move the tag to it.

        Returns:
            Its address by digest, which no tag changes.

        Raises:
            DeviceError: the registry cannot be reached, or will not have it.
            TrustError: the bundle is not signed, or not what its manifest says.
        """
        manifest, release = _read(bundle)
        kind = COMPRESSED_TYPE if is_compressed(bundle) else BUNDLE_TYPE
        file = Blob(media_type=kind, digest=f"sha256:{files.hash_file(bundle)}", size=bundle.stat().st_size)
        image = make_image(manifest, release, file)
        with bundle.open("rb") as stream:
            push_blob(self._client, self._place.url, image.bundle, stream, progress)
        push_blob(self._client, self._place.url, image.config, io.BytesIO(manifest.to_bytes()))
        content = image.to_bytes()
        for name in (digest_of(content), self._place.tag or release.channel):
            self._put_image(name, content)
        return self._place.at(digest_of(content))

    def look(self, tag: str) -> Image:
        """What the address names now, or under `tag` where it names neither tag nor digest.

        Raises:
            DeviceError: the registry cannot be reached, or has no such thing.
            TrustError: it gives other bytes than the digest that was asked for.
        """
        name = self._place.digest or self._place.tag or tag
        answer = self._client.call("GET", self._url(name), (200, 404), headers={"Accept": IMAGE_TYPE})
        if answer.status == 404:
            what = f"there is no `{name}` in `{self._place.repository}` at `{self._place.host}`"
            raise DeviceError(what, "`edgeopt ship BUNDLE registry://…` puts one there, under its channel")
        found, told = digest_of(answer.content), answer.headers.get("docker-content-digest", "")
        if found != (self._place.digest or found) or (told.startswith("sha256:") and told != found):
            what = f"`{self._place.host}` gave another manifest than {self._place.digest or told}"
            raise TrustError(what, "ship the bundle there again; if that does not help, do not trust the registry")
        if len(answer.content) > IMAGE_LIMIT_BYTES:
            what = f"`{self._place.host}` gave a manifest of {len(answer.content)} bytes"
            raise TrustError(what, f"at most {IMAGE_LIMIT_BYTES} are read")
        return parse_image(answer.content, f"{self._place.repository}:{name}")

    def fetch(self, image: Image, folder: Path, progress: Progress | None = None) -> Path:
        """Fetch the bundle of an image manifest into `folder`, whole or not at all.

        Returns:
            The file, which is called by its digest: whether it is signed is not known yet.
        """
        path = folder / f"{image.bundle.sha256}{SUFFIX}"
        if not (path.is_file() and files.hash_file(path) == image.bundle.sha256):
            fetch_blob(self._client, self._place.url, image.bundle, path, progress)
        return path

    def pull(self, folder: Path, tag: str = "stable", progress: Progress | None = None) -> Path:
        """`look`, then `fetch`."""
        return self.fetch(self.look(tag), folder, progress)

    def _put_image(self, name: str, content: bytes) -> None:
        self._client.call("PUT", self._url(name), (201,), content=content, headers={"Content-Type": IMAGE_TYPE})

    def _url(self, name: str) -> str:
        return f"{self._place.url}/manifests/{name}"


def _read(bundle: Path) -> tuple[Manifest, Release]:
    """What is to be pushed, every file of it hashed.

    Raises:
        TrustError: it is not signed, or not what its manifest says.
    """
    manifest = verify_bundle(bundle).manifest
    with open_archive(bundle) as archive:
        if archive.release is None:
            raise TrustError(f"`{bundle}` is not signed", "`edgeopt bundle sign` signs it; no device takes it before")
        return manifest, read_release(archive.release)
