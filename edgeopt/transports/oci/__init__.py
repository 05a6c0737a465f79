"""What an OCI registry keeps of a bundle, and what it is called there.

A bundle's file is one blob; a small image manifest names it, with the bundle's own manifest as its config, so that a
registry can show what it holds. Blobs and image manifests are called by their SHA-256; a tag is a name that moves. The
formats are those of the OCI image and distribution specifications 1.1 (https://github.com/opencontainers).

    patience    how often something is tried
    client      HTTP: tries again, signs in, follows; knows nothing of what goes back and forth
    signing_in  who we are, and whom we tell
    upload      a blob out, resumed where the registry says it was cut
    download    a blob in, resumed where it was cut, believed once its digest is right

Nothing here is trust in a bundle: a registry is a shelf. Whoever installs what came from it asks for its signature.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from edgeopt.bundle.manifest import BUNDLE_LIMIT_BYTES, Manifest
from edgeopt.bundle.release import Release
from edgeopt.errors import TrustError, UsageError
from edgeopt.model import Value, canonical_json

IMAGE_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
BUNDLE_TYPE: Final = "application/vnd.edgeopt.bundle.v1+zip"
COMPRESSED_TYPE: Final = "application/vnd.edgeopt.bundle.v1+xz"
CONFIG_TYPE: Final = "application/vnd.edgeopt.manifest.v1+json"

IMAGE_LIMIT_BYTES = 100_000
#: a bundle's files, and room for its manifest, its release and zip's headers
BLOB_LIMIT_BYTES = BUNDLE_LIMIT_BYTES + 10_000_000

TITLE = "org.opencontainers.image.title"
NAME, TARGET, COUNTER, CHANNEL, MANIFEST = (
    f"vnd.edgeopt.{name}" for name in ("name", "target", "counter", "channel", "manifest-sha256")
)

DIGEST = r"sha256:[0-9a-f]{64}"
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|\[[0-9A-Fa-f:]{2,39}\])(?::[0-9]{1,5})?"
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"registry://(?P<host>{_HOST})/(?P<repository>{_PART}(?:/{_PART})*)"
    rf"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}))?(?:@(?P<digest>{DIGEST}))?"
)


class Reference(Value):
    """Where something lies in a registry: `registry://host[:port]/repository[:tag][@sha256:…]`."""

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, address: str) -> Reference:
        """The reference that `address` is.

        Raises:
            UsageError: it is none.
        """
        found = _REFERENCE.fullmatch(address)
        if found is not None and len(found["repository"]) <= 255:
            return cls(**found.groupdict() | {"host": found["host"].lower()})
        if "@" in address.partition("://")[2].partition("/")[0]:  # not shown: it may hold a password
            hint = "put them into EDGEOPT_REGISTRY_USER and EDGEOPT_REGISTRY_PASSWORD"
            raise UsageError("a name or password in an address is not taken", hint)
        raise UsageError(
            f"`{address}` names no place in a registry", "write it as registry://host/team/digits, in small letters"
        )

    @property
    def url(self) -> str:
        """Where the registry's interface for this repository begins; unencrypted only on this very machine."""
        return f"{'http' if is_loopback(self.host) else 'https'}://{self.host}/v2/{self.repository}"

    def at(self, digest: str) -> str:
        """The address of exactly these bytes, whatever becomes of tags."""
        return f"registry://{self.host}/{self.repository}@{digest}"


def is_loopback(host: str) -> bool:
    """Whether a host, with or without a port, is this machine by its very name."""
    if host.startswith("["):
        name = host[1:].partition("]")[0]
    else:  # one of several colons is an IPv6 address, as it stands
        name = host if host.count(":") > 1 else host.partition(":")[0]
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class _Foreign(BaseModel):
    """What others may have written: fields that are not known here are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class Blob(_Foreign):
    """Bytes by their digest and size."""

    media_type: str
    digest: str = Field(pattern=f"^{DIGEST}$")
    size: int = Field(ge=0, le=BLOB_LIMIT_BYTES)
    annotations: dict[str, str] = {}

    @property
    def sha256(self) -> str:
        return self.digest.partition(":")[2]


class Image(_Foreign):
    """An image manifest whose one layer is a bundle's file. What its annotations say is proven by nobody."""

    schema_version: Literal[2] = 2
    media_type: Literal["application/vnd.oci.image.manifest.v1+json"] = IMAGE_TYPE
    artifact_type: str = BUNDLE_TYPE
    config: Blob
    layers: tuple[Blob, ...]
    annotations: dict[str, str] = {}

    @property
    def bundle(self) -> Blob:
        return self.layers[0]

    def to_bytes(self) -> bytes:
        return canonical_json(self.model_dump(mode="json", by_alias=True))


def make_image(manifest: Manifest, release: Release, file: Blob) -> Image:
    """The image manifest of a bundle's file."""
    ending = "edgeopt.xz" if file.media_type == COMPRESSED_TYPE else "edgeopt"
    title = {TITLE: f"{manifest.name}.{ending}"}
    told = {
        NAME: manifest.name, TARGET: manifest.target, COUNTER: str(release.counter), CHANNEL: release.channel,
        MANIFEST: manifest.digest(),
    }  # fmt: skip
    config = make_blob(manifest.to_bytes(), CONFIG_TYPE)
    return Image(config=config, layers=(file.model_copy(update={"annotations": title}),), annotations=told)


def make_blob(content: bytes, media_type: str) -> Blob:
    return Blob(media_type=media_type, digest=digest_of(content), size=len(content))


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def parse_image(content: bytes, place: str) -> Image:
    """The image manifest in `content`, if it is one of a bundle.

    Raises:
        UsageError: it is something else.
        TrustError: it is not sound.
    """
    try:
        image = Image.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise TrustError(f"`{place}` holds no sound image manifest: `{where}`: {first['msg']}", _HINT) from error
    if [layer.media_type for layer in image.layers] not in ([BUNDLE_TYPE], [COMPRESSED_TYPE]):
        raise UsageError(f"`{place}` holds something else than a bundle", "`edgeopt ship` puts bundles there")
    return image


_HINT = "ship the bundle there again"
