"""A registry is a shelf: what is put there comes back, whatever is cut; what is changed there does not.

What is said of registries is tried with a real one, Debian's `docker-registry`; what no honest one does, with one that
the tests themselves serve.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import itertools
import json
import os
import platform
import random
import shutil
import signal
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

pytest.importorskip("httpx")

from edgeopt import files
from edgeopt.bundle.golden import Golden
from edgeopt.bundle.pack import Contents, compress_file, pack_bundle, pack_file
from edgeopt.bundle.sign import Terms, sign_bundle
from edgeopt.bundle.signing import load_public_key, load_signer, make_key
from edgeopt.bundle.trust import Root, make_role, write_root
from edgeopt.bundle.verify import verify_bundle
from edgeopt.cli import cli
from edgeopt.data.preprocess import Preprocess
from edgeopt.device import pull as device_pull
from edgeopt.device.home import Device, Home, make_home
from edgeopt.errors import DeviceError, DiskError, EdgeoptError, TrustError, UsageError
from edgeopt.model import Artifact, TensorSpec, list_files
from edgeopt.transports import open_transport
from edgeopt.transports.oci import (
    COMPRESSED_TYPE,
    IMAGE_TYPE,
    Reference,
    client,
    download,
    is_loopback,
    patience,
    signing_in,
    upload,
)
from edgeopt.transports.registry import Registry

USER, SECRET = "pusher", "open sesame"
#: bcrypt of SECRET: what `htpasswd -B` writes
HTPASSWD = f"{USER}:$2b$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n"

#: ten pieces in every bundle
PIECE = 40_000


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No pauses, small pieces, and none of the passwords and proxies of whoever runs this."""
    monkeypatch.setattr(patience, "FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(upload, "PIECE_BYTES", PIECE)
    for name in os.environ:
        if name.lower().endswith("_proxy") or name.startswith(("EDGEOPT_", "SSL_CERT_", "DOCKER_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@dataclass(frozen=True)
class Publisher:
    """Whoever signs: makes releases of an application, and the root that vouches for them."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "root.json"

    def release(self, counter: int) -> Path:
        """A signed bundle of 400 kB, of which no part can be guessed from another."""
        path = self.folder / f"{counter}.edgeopt"
        if path.exists():
            return path
        built = self.folder / f"built{counter}"
        built.mkdir()
        (built / "model.onnx").write_bytes(random.Random(counter).randbytes(400_000))
        artifact = Artifact(
            target="x86", backend="onnxruntime_cpu", files=list_files(built, ["model.onnx"]),
            inputs=(TensorSpec(name="image", shape=("batch", 1, 4, 4)),),
            outputs=(TensorSpec(name="logits", shape=("batch", 10)),), folder=built,
        )  # fmt: skip
        sample = Golden({"image": np.arange(16, dtype=np.uint8)}, {"logits": np.arange(10, dtype=np.float32)})
        contents = Contents(
            name="digits", target="x86", candidate="onnxruntime_cpu/int8", artifact=artifact, preprocess=Preprocess(),
            classes=None, compatible={"machine": platform.machine()}, recipe=b"edgeopt: 1\nname: digits\n",
            golden=(sample,), measurements=(), verdicts=({"budget": "size.max_mb", "verdict": "pass"},),
        )  # fmt: skip
        pack_file(pack_bundle(contents, self.folder / f"bundle{counter}").folder, self.folder / f"unsigned{counter}")
        unsigned = self.folder / f"unsigned{counter}"
        sign_bundle(unsigned, path, Terms(counter=counter), [load_signer(self.folder / "release.key")])
        return path


@pytest.fixture(scope="session")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Publisher:
    folder = tmp_path_factory.mktemp("publisher")
    make_key(folder / "release.key")
    role = make_role([load_public_key(folder / "release.key.pub")], 1)
    write_root(folder / "root.json", Root(version=1, root=role, releases=role), [load_signer(folder / "release.key")])
    return Publisher(folder)


@pytest.fixture
def bundle(publisher: Publisher) -> Path:
    return publisher.release(1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Running:
    """A `docker-registry` that runs."""

    port: int
    log: Path

    def address(self, repository: str, port: int | None = None) -> str:
        return f"registry://127.0.0.1:{port or self.port}/{repository}"

    def requests(self) -> list[tuple[str, str]]:
        """Method and path of all that it was asked, in order."""
        time.sleep(0.05)  # its log is written after its answer
        lines = [line.split('"')[1].split() for line in self.log.read_text().splitlines() if line.endswith('"')]
        return [(words[0], words[1]) for words in lines if len(words) == 3 and words[1].startswith("/v2/")]


@contextlib.contextmanager
def running(folder: Path, host: str = "127.0.0.1", tls: Any = None, **config: Any) -> Iterator[Running]:
    """Run a registry on a free port of this machine, with a store of its own."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("`docker-registry` is not installed: apt install docker-registry")
    port = free_port()
    http = {"addr": f"{host}:{port}"} | ({"tls": tls} if tls else {})
    whole = {
        "version": "0.1", "log": {"level": "error"}, "http": http, **config,
        "storage": {"filesystem": {"rootdirectory": str(folder / "store")}, "delete": {"enabled": True}},
    }  # fmt: skip
    (folder / "config.yml").write_text(json.dumps(whole))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", folder / "config.yml"], stdout=log, stderr=log, env={})
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
                break
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
        yield Running(port, folder / "log")
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One that lets everybody do everything."""
    with running(tmp_path_factory.mktemp("registry")) as found:
        yield found


class Proxy(socketserver.ThreadingTCPServer):
    """Passes bytes on to a port, and cuts connections after as many bytes, to the server or back, as `cuts` says."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, cuts: Mapping[str, Iterator[int]]) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.target, self.cuts = port, cuts
        self.made = {"up": 0, "down": 0}
        self.passed = {"up": 0, "down": 0}

    def finish_request(self, request: Any, client_address: Any) -> None:
        with socket.create_connection(("127.0.0.1", self.target)) as server:
            left = {way: next(self.cuts.get(way, iter(())), 1 << 60) for way in ("up", "down")}
            back = threading.Thread(target=self._pass_on, args=(server, request, "down", left["down"]))
            back.start()
            self._pass_on(request, server, "up", left["up"])
            back.join()

    def _pass_on(self, source: socket.socket, sink: socket.socket, way: str, left: int) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(4096):
                sink.sendall(chunk[:left])
                self.passed[way] += len(chunk[:left])
                left -= len(chunk)
                if left <= 0:
                    self.made[way] += 1
                    break
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def serving(server: socketserver.TCPServer) -> Iterator[int]:
    """Serve from another thread; gives the port."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def pull(address: str, folder: Path) -> Path:
    with open_transport(address) as transport:
        assert isinstance(transport, Registry)
        return transport.pull(folder)


def send(address: str, bundle: Path) -> str:
    with open_transport(address) as transport:
        return transport.send(bundle)


# --- a real registry ---------------------------------------------------------------------------------------------


def test_what_is_sent_comes_back_byte_for_byte_under_its_channel_and_its_digest(
    real: Running, bundle: Path, tmp_path: Path
) -> None:
    address = send(real.address("team/digits"), bundle)
    assert address.startswith(real.address("team/digits@sha256:"))
    for name in (real.address("team/digits"), real.address("team/digits:stable"), address):
        path = pull(name, tmp_path / hashlib.sha256(name.encode()).hexdigest())
        assert path.read_bytes() == bundle.read_bytes()
        assert path.name == f"{hashlib.sha256(bundle.read_bytes()).hexdigest()}.edgeopt"
        assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_compressed_bundle_comes_back_compressed_and_the_registry_says_so(
    real: Running, bundle: Path, tmp_path: Path
) -> None:
    compressed = bundle.with_name(f"{bundle.name}.xz")
    compress_file(bundle, compressed)
    address = send(real.address("team/compressed"), compressed)
    assert pull(address, tmp_path).read_bytes() == compressed.read_bytes()
    with open_transport(address) as registry:
        assert isinstance(registry, Registry)
        layer = registry.look("stable").bundle
    assert layer.media_type == COMPRESSED_TYPE
    assert layer.annotations["org.opencontainers.image.title"].endswith(".edgeopt.xz")


def test_what_the_registry_says_of_a_bundle_is_what_its_release_says(real: Running, bundle: Path) -> None:
    address = send(real.address("told/digits"), bundle)
    with Registry(address) as registry:
        image = registry.look("unused")
    manifest = verify_bundle(bundle).manifest
    told = {
        "name": "digits", "target": "x86", "counter": "1", "channel": "stable", "manifest-sha256": manifest.digest(),
    }  # fmt: skip
    assert image.annotations == {f"vnd.edgeopt.{name}": value for name, value in told.items()}
    assert image.config.digest == f"sha256:{manifest.digest()}"
    assert image.media_type == IMAGE_TYPE


def test_the_tag_moves_last_and_a_digest_goes_on_naming_what_it_named(
    real: Running, publisher: Publisher, tmp_path: Path
) -> None:
    first = send(real.address("moves/digits"), publisher.release(1))
    before = len(real.requests())
    send(real.address("moves/digits"), publisher.release(2))
    changes = [path for method, path in real.requests()[before:] if method in ("PUT", "POST", "PATCH")]
    assert changes[-1] == "/v2/moves/digits/manifests/stable"
    assert changes[-2].startswith("/v2/moves/digits/manifests/sha256:")
    assert pull(real.address("moves/digits"), tmp_path / "new").read_bytes() == publisher.release(2).read_bytes()
    assert pull(first, tmp_path / "old").read_bytes() == publisher.release(1).read_bytes()


def test_an_address_may_name_another_tag_than_the_channel(real: Running, bundle: Path, tmp_path: Path) -> None:
    send(real.address("tags/digits:trial"), bundle)
    assert pull(real.address("tags/digits:trial"), tmp_path).is_file()
    with pytest.raises(DeviceError, match="there is no `stable` in `tags/digits`"):
        pull(real.address("tags/digits"), tmp_path)


def test_what_is_there_already_is_neither_sent_nor_fetched_again(real: Running, bundle: Path, tmp_path: Path) -> None:
    send(real.address("again/digits"), bundle)
    pull(real.address("again/digits"), tmp_path)
    before = len(real.requests())
    seen: list[tuple[int, int]] = []
    with open_transport(real.address("again/digits")) as transport:
        transport.send(bundle, lambda *told: seen.append(told))
    pull(real.address("again/digits"), tmp_path)
    methods = [method for method, _ in real.requests()[before:]]
    assert methods == ["HEAD", "HEAD", "PUT", "PUT", "GET"]
    assert seen == [(bundle.stat().st_size,) * 2]


def test_a_large_bundle_goes_piece_by_piece_and_progress_tells_how_far_it_is(real: Running, bundle: Path) -> None:
    size, seen = bundle.stat().st_size, list[tuple[int, int]]()
    with open_transport(real.address("pieces/digits")) as transport:
        transport.send(bundle, lambda *told: seen.append(told))
    assert seen == [(min(size, end), size) for end in range(PIECE, size + PIECE, PIECE)]


def test_an_unsigned_or_damaged_bundle_is_not_sent(real: Running, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="is not signed"):
        send(real.address("none/digits"), bundle.with_name("unsigned1"))
    content = bytearray(bundle.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "damaged.edgeopt").write_bytes(content)
    with pytest.raises(TrustError, match="is not the one its manifest names"):
        send(real.address("none/digits"), tmp_path / "damaged.edgeopt")
    assert not [path for _, path in real.requests() if path.startswith("/v2/none/")]


def test_a_download_that_is_cut_goes_on_where_it_was(real: Running, bundle: Path, tmp_path: Path) -> None:
    send(real.address("cut/digits"), bundle)
    rng = random.Random(0)
    cuts = (rng.randrange(20_000, 90_000) for _ in range(1000))
    with serving(proxy := Proxy(real.port, {"down": cuts})) as port:
        path = pull(real.address("cut/digits", port), tmp_path)
    assert path.read_bytes() == bundle.read_bytes()
    assert proxy.made["down"] >= 4
    # beside the content: headers, and what was on its way in a socket when its connection was cut
    assert proxy.passed["down"] < bundle.stat().st_size + (proxy.made["down"] + 2) * 20_000


def test_fifty_cuts_and_runs_that_give_up_end_in_the_same_bytes(
    real: Running, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "TRIES", 2)
    send(real.address("fifty/digits"), bundle)
    rng = random.Random(1)
    runs, lengths = 0, []
    with serving(proxy := Proxy(real.port, {"down": (rng.randrange(1, 18_000) for _ in range(50))})) as port:
        while runs < 200:
            runs += 1
            with contextlib.suppress(DeviceError):
                path = pull(real.address("fifty/digits", port), tmp_path)
                break
            lengths += [one.stat().st_size for one in tmp_path.glob("*.part")]
            assert not list(tmp_path.glob("*.edgeopt"))
    assert path.read_bytes() == bundle.read_bytes()
    assert proxy.made["down"] == 50
    assert lengths == sorted(lengths)
    assert runs >= 20


def test_an_upload_that_is_cut_within_a_piece_succeeds_though_this_registry_forgets_it(
    real: Running, bundle: Path, tmp_path: Path
) -> None:
    cuts = iter([30_000, 150_000, 1, 250_000])
    with serving(proxy := Proxy(real.port, {"up": cuts})) as port:
        send(real.address("torn/digits", port), bundle)
    assert proxy.made["up"] == 4
    assert pull(real.address("torn/digits"), tmp_path).read_bytes() == bundle.read_bytes()


def test_a_name_and_a_password_are_told_to_a_registry_that_asks_for_them(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    auth = {"htpasswd": {"realm": "bundles", "path": str(tmp_path / "htpasswd")}}
    with running(tmp_path, auth=auth) as found:
        with pytest.raises(DeviceError, match="does not let us do that: 401") as raised:
            send(found.address("digits"), bundle)
        assert "EDGEOPT_REGISTRY_USER" in raised.value.hint
        monkeypatch.setenv("EDGEOPT_REGISTRY_USER", USER)
        with pytest.raises(UsageError, match="EDGEOPT_REGISTRY_USER is set without the other"):
            send(found.address("digits"), bundle)
        monkeypatch.setenv("EDGEOPT_REGISTRY_PASSWORD", "wrong")
        with pytest.raises(DeviceError, match="does not let us do that: 401"):
            send(found.address("digits"), bundle)
        monkeypatch.setenv("EDGEOPT_REGISTRY_PASSWORD", SECRET)
        send(found.address("digits"), bundle)
        for name in ("EDGEOPT_REGISTRY_USER", "EDGEOPT_REGISTRY_PASSWORD"):
            monkeypatch.delenv(name)
        (tmp_path / "docker").mkdir()
        secret = base64.b64encode(f"{USER}:{SECRET}".encode()).decode()
        entries = {f"127.0.0.1:{found.port}": {"auth": secret}, "elsewhere": {"auth": "not base64"}}
        (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": entries}))
        assert pull(found.address("digits"), tmp_path / "in").read_bytes() == bundle.read_bytes()


def make_certificate(folder: Path, name: str) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    """A key and a certificate of its own, `key.pem` and `certificate.pem`."""
    key = rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(pem))
    return key, certificate


def unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class TokenService(ThreadingHTTPServer):
    """Gives a token that `docker-registry` believes to whoever knows the password."""

    def __init__(self, key: rsa.RSAPrivateKey, certificate: x509.Certificate) -> None:
        super().__init__(("127.0.0.1", 0), TokenRequest)
        self.key, self.certificate = key, certificate
        self.scopes: list[str] = []

    def token(self, scope: str) -> str:
        kind, name, actions = scope.split(":")
        now = int(time.time())
        der = self.certificate.public_bytes(serialization.Encoding.DER)
        head = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        claims = {
            "iss": "tests", "sub": USER, "aud": "bundles", "exp": now + 60, "nbf": now - 60, "iat": now, "jti": "1",
            "access": [{"type": kind, "name": name, "actions": actions.split(",")}],
        }  # fmt: skip
        signed = ".".join(unpadded(json.dumps(part).encode()) for part in (head, claims))
        return f"{signed}.{unpadded(self.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


class TokenRequest(BaseHTTPRequestHandler):
    server: TokenService

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        expected = f"Basic {base64.b64encode(f'{USER}:{SECRET}'.encode()).decode()}"
        is_known = self.headers.get("Authorization") == expected and query["service"] == ["bundles"]
        self.server.scopes += query["scope"]
        content = json.dumps({"token": self.server.token(query["scope"][0])} if is_known else {}).encode()
        self.send_response(200 if is_known else 401)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        return


def test_a_registry_that_asks_for_a_token_gets_one_of_its_token_service(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = TokenService(*make_certificate(tmp_path, "tests"))
    with serving(service) as port:
        auth = {
            "realm": f"http://127.0.0.1:{port}/token", "service": "bundles", "issuer": "tests",
            "rootcertbundle": str(tmp_path / "certificate.pem"),
        }  # fmt: skip
        with running(tmp_path, auth={"token": auth}) as found:
            with pytest.raises(DeviceError, match="401") as raised:
                send(found.address("team/digits"), bundle)
            assert "EDGEOPT_REGISTRY_USER" in raised.value.hint
            monkeypatch.setenv("EDGEOPT_REGISTRY_USER", USER)
            monkeypatch.setenv("EDGEOPT_REGISTRY_PASSWORD", SECRET)
            send(found.address("team/digits"), bundle)
            assert pull(found.address("team/digits"), tmp_path / "in").read_bytes() == bundle.read_bytes()
    asked = {tuple(sorted(scope.split(":")[-1].split(","))) for scope in service.scopes}  # in the registry's own order
    assert asked == {("pull",), ("pull", "push")}
    assert all(scope.startswith("repository:team/digits:") for scope in service.scopes)


def test_a_certificate_that_nobody_vouches_for_is_refused(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = socket.gethostname().lower()
    try:
        host = socket.gethostbyname(name)
    except OSError:
        pytest.skip("this machine's name leads nowhere")
    make_certificate(tmp_path, name)
    paths = {"certificate": str(tmp_path / "certificate.pem"), "key": str(tmp_path / "key.pem")}
    with running(tmp_path, host, paths) as found:
        address = f"registry://{name}:{found.port}/digits"
        with pytest.raises(TrustError, match="does not prove who it is: self"):
            send(address, bundle)
        assert found.requests() == []
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        send(address, bundle)
        assert pull(address, tmp_path / "in").read_bytes() == bundle.read_bytes()
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent.pem"))
        with pytest.raises(UsageError, match="SSL_CERT_FILE"):
            pull(address, tmp_path)


# --- a device fetches by itself ----------------------------------------------------------------------------------


@pytest.fixture
def home(publisher: Publisher, tmp_path: Path) -> Path:
    make_home(tmp_path / "home", publisher.root.read_bytes(), Device())
    return tmp_path / "home"


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(cli, ["device", "pull", *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    return json.loads(result.stdout)


def test_a_device_pulls_and_installs_what_is_newer_and_fetches_nothing_else(
    real: Running, publisher: Publisher, home: Path
) -> None:
    address = real.address("device/digits")
    send(address, publisher.release(1))
    path = Path(run(address, "--home", str(home))["path"])
    assert path.parent == home / "incoming"
    assert path.read_bytes() == publisher.release(1).read_bytes()
    assert run(address, "--home", str(home), "--install")["installation"]["release"]["counter"] == 1
    assert list((home / "incoming").iterdir()) == []
    before = len(real.requests())
    assert run(address, "--home", str(home), "--install") == {"path": None, "installation": None}
    assert [method for method, _ in real.requests()[before:]] == ["GET"]
    send(address, publisher.release(2))
    assert run(address, "--home", str(home), "--install")["installation"]["is_new"]
    assert Home(home).state().counter == 2


def test_a_release_that_the_device_does_not_trust_is_not_kept(real: Running, publisher: Publisher, home: Path) -> None:
    address = real.address("old/digits")
    for counter in (2, 1):
        send(address, publisher.release(counter))
        if counter == 2:
            run(address, "--home", str(home), "--install")
    with pytest.raises(TrustError, match="counter 1, and 2 was installed before"):
        run(address, "--home", str(home), "--install")
    assert list((home / "incoming").iterdir()) == []
    assert Home(home).state().counter == 2


def test_what_is_shipped_to_a_registry_is_told_by_its_digest(real: Running, bundle: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["ship", str(bundle), real.address("shipped/digits")], catch_exceptions=False)
    assert result.exit_code == 0
    assert pull(result.stdout.strip(), tmp_path).read_bytes() == bundle.read_bytes()


def test_a_kill_at_any_change_of_a_file_leaves_a_pull_that_goes_on(
    real: Running, bundle: Path, publisher: Publisher, tmp_path: Path
) -> None:
    address = real.address("killed/digits")
    send(address, bundle)

    def pull_there(folder: Path, allowed: int) -> bool:
        """Pull and install in a child that is killed before one change more; tells whether it came to that."""
        child = os.fork()
        if child == 0:
            changes = itertools.count()

            def kill(operation: str, path: Path) -> None:
                if next(changes) >= allowed:
                    os.kill(os.getpid(), signal.SIGKILL)

            files.observe = kill
            device_pull.pull(Home(folder), address, and_install=True)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL

    for kills in itertools.count():
        folder = tmp_path / str(kills)
        make_home(folder, publisher.root.read_bytes(), Device())
        if not pull_there(folder, kills):
            break
        device_pull.pull(Home(folder), address, and_install=True)
        assert Home(folder).state().counter == 1
        Home(folder).bundle(verify_bundle(bundle).manifest.digest())
        assert [path.suffix for path in (folder / "incoming").iterdir()] in ([], [".edgeopt"])
    assert kills >= 10


def test_what_does_not_fit_is_refused_before_the_disk_is_full(
    filled: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download.os, "fstatvfs", lambda number: SimpleNamespace(f_bavail=10, f_frsize=1000))
    with pytest.raises(DiskError, match=r"0\.4 MB more are needed, 0\.0 MB are free"):
        pull(filled.address, tmp_path)
    assert filled.methods() == ["GET"]


def test_a_device_pulls_from_registries_only(home: Path) -> None:
    with pytest.raises(UsageError, match="is no registry"):
        run(f"folder://{home}", "--home", str(home))


# --- a registry that lies ----------------------------------------------------------------------------------------


class Request(BaseHTTPRequestHandler):
    """One request to a `Shelf`."""

    protocol_version = "HTTP/1.1"
    server: Shelf

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def do_any(self) -> None:
        self.server.asked.append((self.command, self.path, dict(self.headers)))
        if not self.server.misbehave(self):
            getattr(self, f"answer_{self.command.lower()}")()

    do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = do_any  # noqa: N815 -- so it calls them

    def reply(self, status: int, content: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def cut(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    @property
    def is_blob(self) -> bool:
        return "/blobs/sha256:" in self.path

    def answer_get(self) -> None:
        found = self.server.things.get(self.path.rpartition("/")[2])
        upload = self.server.uploads.get(self.path)
        if upload is not None:
            self.reply(204, Range=f"0-{max(len(upload) - 1, 0)}", Location=self.path)
        elif found is None:
            self.reply(404)
        elif asked := self.headers.get("Range"):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            self.reply(206, found[start:], Content_Range=f"bytes {start}-{len(found) - 1}/{len(found)}")
        else:
            self.reply(200, found)

    answer_head = answer_get

    def answer_post(self) -> None:
        path = f"/v2/digits/blobs/uploads/{len(self.server.uploads)}"
        self.server.uploads[path] = bytearray()
        self.reply(202, Location=path, Range="0-0")

    def answer_patch(self, most: int = 1 << 60) -> None:
        """Take a piece, or the beginning of it."""
        upload, length = self.server.uploads[self.path], int(self.headers["Content-Length"])
        start, _, end = self.headers["Content-Range"].partition("-")
        assert int(end) - int(start) + 1 == length
        if int(start) != len(upload):
            self.rfile.read(length)
            self.reply(416)
            return
        piece = self.rfile.read(min(most, length))
        upload += piece
        self.server.taken += len(piece)
        if most < length:
            self.cut()
        else:
            self.reply(202, Location=self.path, Range=f"0-{len(upload) - 1}")

    def answer_put(self) -> None:
        path, _, query = self.path.partition("?digest=")
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if query:
            content = bytes(self.server.uploads.pop(path))
            assert query == f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.server.things[query or path.rpartition("/")[2]] = content
        self.reply(201)

    def log_message(self, format: str, *args: Any) -> None:
        return


class Shelf(ThreadingHTTPServer):
    """A registry in memory that does as it should but where `misbehave` takes a request over."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.things, self.uploads = dict[str, bytes](), dict[str, bytearray]()
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.taken = 0
        self.misbehave: Callable[[Request], bool] = lambda request: False

    @property
    def address(self) -> str:
        return f"registry://127.0.0.1:{self.server_address[1]}/digits"

    def methods(self) -> list[str]:
        return [method for method, _, _ in self.asked]


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    with serving(server := Shelf()):
        yield server


@pytest.fixture
def filled(shelf: Shelf, bundle: Path) -> Shelf:
    """One that holds a bundle."""
    send(shelf.address, bundle)
    shelf.asked.clear()
    return shelf


def once(act: Callable[[Request], object], matches: Callable[[Request], bool]) -> Callable[[Request], bool]:
    """Misbehave at the first request that matches, and never again."""
    left = [True]

    def misbehave(request: Request) -> bool:
        if left and matches(request):
            left.clear()
            act(request)
            return True
        return False

    return misbehave


def always(act: Callable[[Request], object], matches: Callable[[Request], bool]) -> Callable[[Request], bool]:
    def misbehave(request: Request) -> bool:
        if matches(request):
            act(request)
            return True
        return False

    return misbehave


def is_blob(request: Request) -> bool:
    return request.command == "GET" and request.is_blob


def is_image(request: Request) -> bool:
    return request.command == "GET" and "/manifests/" in request.path


def blob_of(request: Request) -> bytes:
    return request.server.things[request.path.rpartition("/")[2]]


def nothing_kept(folder: Path) -> bool:
    """Whether nothing lies there that could be taken for a bundle, or be gone on with."""
    return not [path for path in folder.iterdir() if path.stat().st_size] if folder.exists() else True


def send_changed(request: Request) -> None:
    content = blob_of(request)
    request.reply(200, content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])


def send_longer(request: Request) -> None:
    request.reply(200, blob_of(request) + b"x")


def send_shorter(request: Request) -> None:
    request.reply(200, blob_of(request)[:-1])


def send_endless(request: Request) -> None:
    """A body without a length that never ends, until the other side has had enough."""
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    with contextlib.suppress(OSError):
        while True:
            request.wfile.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
    request.close_connection = True


def send_another_range(request: Request) -> None:
    request.reply(206, blob_of(request)[10:], Content_Range=f"bytes 10-{len(blob_of(request)) - 1}/*")


def send_bomb(request: Request) -> None:
    """What a client that unpacks bodies would make a gigabyte of."""
    import gzip

    request.reply(200, gzip.compress(bytes(1 << 24)), Content_Encoding="gzip")


@pytest.mark.parametrize("act", [send_changed, send_longer, send_shorter, send_endless, send_bomb])
def test_other_bytes_than_the_digest_names_are_refused_and_not_kept(
    act: Callable[[Request], None], filled: Shelf, tmp_path: Path
) -> None:
    filled.misbehave = always(act, is_blob)
    with pytest.raises(TrustError):
        pull(filled.address, tmp_path / "in")
    assert not list((tmp_path / "in").glob("*.edgeopt"))
    assert sum(path.stat().st_size for path in (tmp_path / "in").iterdir()) <= 410_000
    filled.misbehave = lambda request: False
    pull(filled.address, tmp_path / "in")
    assert [path.suffix for path in (tmp_path / "in").iterdir()] == [".edgeopt"]


def test_a_changed_body_leaves_nothing_to_go_on_with(filled: Shelf, tmp_path: Path) -> None:
    filled.misbehave = always(send_changed, is_blob)
    with pytest.raises(TrustError, match="gave other bytes than sha256:"):
        pull(filled.address, tmp_path)
    assert nothing_kept(tmp_path)


def test_an_answer_of_another_range_is_refused(filled: Shelf, tmp_path: Path) -> None:
    filled.misbehave = always(send_another_range, is_blob)
    with pytest.raises(DeviceError, match="another range"):
        pull(filled.address, tmp_path)


@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_a_body_that_is_cut_is_asked_for_from_there_on(ignores_ranges: bool, filled: Shelf, tmp_path: Path) -> None:
    def cut(request: Request) -> None:
        request.reply(200, blob_of(request)[:150_000], length=len(blob_of(request)))
        request.cut()

    first = once(cut, is_blob)

    def misbehave(request: Request) -> bool:
        if ignores_ranges and "Range" in request.headers:
            request.reply(200, blob_of(request))
            return True
        return first(request)

    filled.misbehave = misbehave
    path = pull(filled.address, tmp_path)
    assert f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" in filled.things
    ranges = [headers.get("Range") for method, name, headers in filled.asked if "/blobs/" in name]
    assert ranges == [None, "bytes=150000-"]


def test_a_server_that_begins_anew_each_time_is_given_up(filled: Shelf, tmp_path: Path) -> None:
    """It takes no ranges, and cuts each answer: once late, once early, so that each second one is longer."""
    lengths = itertools.cycle([300_000, 100_000])

    def cut(request: Request) -> None:
        request.reply(200, blob_of(request)[: next(lengths)], length=len(blob_of(request)))
        request.cut()

    filled.misbehave = always(cut, is_blob)
    with pytest.raises(DeviceError):
        pull(filled.address, tmp_path)
    assert len(filled.asked) == 1 + patience.TRIES


def test_a_body_that_ends_early_without_a_length_is_asked_for_until_patience_ends(
    filled: Shelf, tmp_path: Path
) -> None:
    def end_early(request: Request) -> None:
        request.send_response(200 if "Range" not in request.headers else 206)
        request.send_header("Transfer-Encoding", "chunked")
        request.send_header("Content-Range", f"bytes {request.headers.get('Range', '=0-')[6:-1]}-1/*")
        request.end_headers()
        request.wfile.write(b"3\r\nabc\r\n0\r\n\r\n")

    filled.misbehave = always(end_early, is_blob)
    with pytest.raises(DeviceError, match=r"stopped at 15 of \d+ bytes"):
        pull(filled.address, tmp_path)
    assert filled.methods() == ["GET"] * (1 + patience.TRIES)


def test_what_a_power_cut_tore_is_fetched_anew(filled: Shelf, bundle: Path, tmp_path: Path) -> None:
    whole = bundle.read_bytes()
    part = tmp_path / f"{hashlib.sha256(whole).hexdigest()}.edgeopt.part"
    for torn in (bytes(100_000), bytes(len(whole)), whole + b"more", whole, whole[:5]):
        part.write_bytes(torn)
        path = pull(filled.address, tmp_path)
        assert path.read_bytes() == whole
        assert not part.exists()
        path.unlink()


def test_a_bundle_that_lies_there_damaged_is_fetched_anew(filled: Shelf, bundle: Path, tmp_path: Path) -> None:
    path = pull(filled.address, tmp_path)
    path.write_bytes(b"damaged")
    assert pull(filled.address, tmp_path).read_bytes() == bundle.read_bytes()


def test_two_do_not_fetch_the_same_at_once(filled: Shelf, tmp_path: Path) -> None:
    def pull_too(request: Request) -> None:
        with pytest.raises(UsageError, match="another process writes"):
            pull(filled.address, tmp_path)
        request.answer_get()

    filled.misbehave = once(pull_too, is_blob)
    assert pull(filled.address, tmp_path).is_file()


def test_what_is_cleared_away_meanwhile_is_told(filled: Shelf, tmp_path: Path) -> None:
    def clear(request: Request) -> None:
        for part in tmp_path.glob("*.part"):
            part.unlink()
        request.answer_get()

    filled.misbehave = once(clear, is_blob)
    with pytest.raises(DeviceError, match="was removed while it was fetched"):
        pull(filled.address, tmp_path)
    assert pull(filled.address, tmp_path).is_file()


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_registry_is_asked_again(status: int, shelf: Shelf, bundle: Path, tmp_path: Path) -> None:
    seen: dict[tuple[str, str], int] = {}

    def misbehave(request: Request) -> bool:
        """Refuse each thing twice."""
        name = (request.command, request.path)
        seen[name] = seen.get(name, 0) + 1
        if seen[name] <= 2 and request.command != "PATCH":
            request.rfile.read(int(request.headers.get("Content-Length") or 0))
            request.reply(status, Retry_After="0")
            return True
        return False

    shelf.misbehave = misbehave
    send(shelf.address, bundle)
    assert pull(shelf.address, tmp_path).read_bytes() == bundle.read_bytes()


def test_a_registry_that_stays_busy_is_given_up(filled: Shelf, tmp_path: Path) -> None:
    filled.misbehave = always(lambda request: request.reply(503), lambda request: True)
    with pytest.raises(DeviceError, match="is busy: it answers 503") as raised:
        pull(filled.address, tmp_path)
    assert raised.value.exit_code == 6
    assert len(filled.asked) == patience.TRIES


def test_pauses_grow_are_random_and_heed_what_a_server_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE_SECONDS", 0.25)
    slept: list[float] = []
    monkeypatch.setattr(patience.time, "sleep", slept.append)

    def pauses(wait_seconds: float) -> list[float]:
        slept.clear()
        waiting = patience.Patience()
        with contextlib.suppress(patience.CutError):
            while True:
                waiting.wait(patience.CutError("cut", wait_seconds))
        return list(slept)

    runs = [pauses(0) for _ in range(50)]
    for number, longest in enumerate((0.5, 1.0, 2.0, 4.0)):
        taken = [one[number] for one in runs]
        assert longest / 2 <= min(taken) < max(taken) <= longest
        assert len(set(taken)) == 50
    assert pauses(7) == [7] * 4
    assert pauses(1e9) == [patience.LONGEST_WAIT_SECONDS] * 4


def test_a_body_that_drips_counts_as_cut(filled: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "GRACE_SECONDS", 0.05)
    monkeypatch.setattr(patience, "TRIES", 2)

    def drip(request: Request) -> None:
        request.reply(200, b"", length=len(blob_of(request)))
        with contextlib.suppress(OSError):
            for byte in blob_of(request):
                request.wfile.write(bytes([byte]))
                time.sleep(0.01)
        request.close_connection = True

    filled.misbehave = always(drip, is_blob)
    start = time.monotonic()
    with pytest.raises(DeviceError, match="too slowly"):
        pull(filled.address, tmp_path)
    assert time.monotonic() - start < 5


def test_silence_is_not_waited_for_without_end(filled: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SILENCE_SECONDS", 0.1)
    monkeypatch.setattr(patience, "TRIES", 2)
    filled.misbehave = always(lambda request: time.sleep(0.5), is_image)
    with pytest.raises(DeviceError, match="timed out"):
        pull(filled.address, tmp_path)


# --- image manifests that lie ------------------------------------------------------------------------------------


def changed_image(shelf: Shelf, **changes: Any) -> bytes:
    return json.dumps(json.loads(shelf.things["stable"]) | changes).encode()


def layer(shelf: Shelf, **changes: Any) -> list[Any]:
    return [json.loads(shelf.things["stable"])["layers"][0] | changes]


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        (lambda shelf: b"no JSON", TrustError, "no sound image manifest"),
        (lambda shelf: b"[" * 50_000, TrustError, "no sound image manifest"),
        (lambda shelf: b" " * 100_001, TrustError, "100001 bytes"),
        (lambda shelf: b" " * 2_000_000, TrustError, "more than 1000000 bytes"),
        (lambda shelf: changed_image(shelf, schemaVersion=1), TrustError, "schemaVersion"),
        (lambda shelf: changed_image(shelf, mediaType="text/plain"), TrustError, "mediaType"),
        (lambda shelf: changed_image(shelf, layers=[]), UsageError, "something else than a bundle"),
        (lambda shelf: changed_image(shelf, layers=layer(shelf) * 2), UsageError, "something else than a bundle"),
        (lambda shelf: changed_image(shelf, layers=layer(shelf, mediaType="x")), UsageError, "something else"),
        (lambda shelf: changed_image(shelf, layers=layer(shelf, digest="sha512:00")), TrustError, "digest"),
        (lambda shelf: changed_image(shelf, layers=layer(shelf, digest="sha256:../../../x")), TrustError, "digest"),
        (lambda shelf: changed_image(shelf, layers=layer(shelf, size=-1)), TrustError, "size"),
        (lambda shelf: changed_image(shelf, layers=layer(shelf, size=10**15)), TrustError, "size"),
        (lambda shelf: changed_image(shelf, layers=layer(shelf, size=5)), TrustError, "not 5"),
        (lambda shelf: changed_image(shelf, layers=layer(shelf, size=10**7)), TrustError, "not 10000000"),
    ],
)  # fmt: skip
def test_an_image_manifest_that_is_not_of_a_bundle_is_refused(
    change: Callable[[Shelf], bytes], kind: type[EdgeoptError], match: str, filled: Shelf, tmp_path: Path
) -> None:
    filled.things["stable"] = change(filled)
    with pytest.raises(kind, match=match):
        pull(filled.address, tmp_path)
    assert nothing_kept(tmp_path)


def test_another_image_manifest_than_was_asked_for_by_digest_is_refused(
    shelf: Shelf, publisher: Publisher, tmp_path: Path
) -> None:
    addresses = [send(shelf.address, publisher.release(counter)) for counter in (1, 2)]
    first, second = (address.rpartition("@")[2] for address in addresses)
    shelf.things[second] = shelf.things[first]
    with pytest.raises(TrustError, match="gave another manifest than sha256:"):
        pull(addresses[1], tmp_path)
    assert [path for _, path, _ in shelf.asked if "/blobs/" in path and "GET" in path] == []


def test_an_image_manifest_that_was_damaged_on_its_way_is_refused(filled: Shelf, tmp_path: Path) -> None:
    told = f"sha256:{hashlib.sha256(filled.things['stable']).hexdigest()}"
    damaged = filled.things["stable"].replace(b'"x86"', b'"x87"')
    filled.misbehave = always(lambda request: request.reply(200, damaged, Docker_Content_Digest=told), is_image)
    with pytest.raises(TrustError, match="gave another manifest"):
        pull(filled.address, tmp_path)


def test_a_registry_that_answers_anything_at_all_is_met_with_an_error_of_ours(
    filled: Shelf, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five hundred times two answers, with bytes changed, left out, doubled or cut, at places of the headers mostly."""
    monkeypatch.setattr(patience, "TRIES", 1)
    monkeypatch.setattr(client, "SILENCE_SECONDS", 0.5)
    rng = random.Random(7)
    whole = bundle.read_bytes()
    made = {"right": 0, "refused": 0}

    def answer(request: Request) -> None:
        content = request.server.things[request.path.rpartition("/")[2]]
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\nContent-Type: {IMAGE_TYPE}\r\n"
        head += f"Docker-Content-Digest: sha256:{hashlib.sha256(content).hexdigest()}\r\nConnection: close\r\n\r\n"
        data = bytearray(head.encode() + content)
        for _ in range(rng.choice((0, 1, 1, 3))):
            place = rng.randrange(len(head) + 200)
            change = rng.randrange(4)
            if change == 0:
                data[place] = rng.randrange(256)
            elif change == 1:
                del data[place : place + rng.randrange(1, 30)]
            elif change == 2:
                data[place:place] = data[place : place + rng.randrange(1, 200)]
            else:
                del data[place:]
                break
        request.wfile.write(data)
        request.cut()

    filled.misbehave = always(answer, lambda request: True)

    registry = Registry(filled.address)

    def outcome(folder: Path) -> Path | EdgeoptError:
        try:
            return registry.pull(folder)
        except EdgeoptError as error:
            return error

    for number in range(500):
        folder = tmp_path / str(number)
        found = outcome(folder)
        if isinstance(found, Path):
            assert found.read_bytes() == whole
            made["right"] += 1
        else:
            assert found.exit_code in (2, 4, 6)
            assert "\n" not in found.message
            assert not list(folder.glob("*.edgeopt"))
            made["refused"] += 1
        shutil.rmtree(folder, ignore_errors=True)
    assert min(made.values()) > 50


# --- uploads that are cut ----------------------------------------------------------------------------------------


def test_an_upload_that_is_cut_within_a_piece_goes_on_from_the_byte_where_it_was(
    shelf: Shelf, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "PIECE_BYTES", 4_000)
    pieces = 0

    def misbehave(request: Request) -> bool:
        nonlocal pieces
        if request.command != "PATCH":
            return False
        pieces += 1
        if pieces % 3:
            return False
        request.answer_patch(most=pieces * 13)
        return True

    shelf.misbehave = misbehave
    send(shelf.address, bundle)
    size = bundle.stat().st_size
    assert shelf.methods().count("POST") == 2  # the bundle, and its config
    assert shelf.taken == size + len(verify_bundle(bundle).manifest.to_bytes())
    assert pieces > 100


def test_an_upload_whose_answer_is_lost_is_not_sent_again(shelf: Shelf, bundle: Path) -> None:
    """The registry has taken the last piece, and the whole, and the network ends before it can say so."""

    def lose(request: Request) -> None:
        request.reply = lambda *_, **__: None  # type: ignore[method-assign]
        getattr(request, f"answer_{request.command.lower()}")()
        request.cut()

    for method in ("PATCH", "PUT", "POST"):
        shelf.things.clear()
        shelf.taken = 0
        shelf.misbehave = once(lose, lambda request, method=method: request.command == method)  # type: ignore[misc]
        send(shelf.address, bundle)
        assert shelf.taken == bundle.stat().st_size + len(verify_bundle(bundle).manifest.to_bytes())


def test_an_upload_that_gets_no_further_is_given_up(shelf: Shelf, bundle: Path) -> None:
    def take_nothing(request: Request) -> None:
        request.cut()

    shelf.misbehave = always(take_nothing, lambda request: request.command == "PATCH")
    with pytest.raises(DeviceError):
        send(shelf.address, bundle)
    assert shelf.methods().count("PATCH") == patience.TRIES


def test_a_registry_that_does_not_like_what_it_got_is_told_in_its_own_code(shelf: Shelf, bundle: Path) -> None:
    said = b'{"errors":[{"code":"DENIED","message":"\\u001b[31m evil"}]}'
    shelf.misbehave = always(lambda request: request.reply(403, said), lambda request: request.command == "POST")
    with pytest.raises(DeviceError, match=r"does not let us do that: 403 DENIED$"):
        send(shelf.address, bundle)


# --- who is told the password ------------------------------------------------------------------------------------


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> str:
    """A name and a password are set; gives what a request would tell of them."""
    monkeypatch.setenv("EDGEOPT_REGISTRY_USER", USER)
    monkeypatch.setenv("EDGEOPT_REGISTRY_PASSWORD", SECRET)
    return f"Basic {base64.b64encode(f'{USER}:{SECRET}'.encode()).decode()}"


def wants(challenge: str, accepted: str) -> Callable[[Request], bool]:
    """Refuse whoever does not say what is wanted."""
    return always(
        lambda request: request.reply(401, WWW_Authenticate=challenge),
        lambda request: request.headers.get("Authorization") != accepted and not request.path.startswith("/token"),
    )


def test_nobody_is_told_a_password_who_does_not_ask(filled: Shelf, known: str, tmp_path: Path) -> None:
    pull(filled.address, tmp_path)
    assert not [headers for _, _, headers in filled.asked if "Authorization" in headers]


def test_a_redirect_to_another_host_is_followed_without_the_password(
    filled: Shelf, known: str, bundle: Path, tmp_path: Path
) -> None:
    filled_misbehave = wants('Basic realm="bundles"', known)
    with serving(store := Shelf()) as port:
        store.things = filled.things

        def misbehave(request: Request) -> bool:
            if filled_misbehave(request):
                return True
            if is_blob(request):
                request.reply(307, Location=f"http://127.0.0.1:{port}{request.path}")
                return True
            return False

        filled.misbehave = misbehave
        assert pull(filled.address, tmp_path).read_bytes() == bundle.read_bytes()
        assert [(method, headers.get("Authorization")) for method, _, headers in store.asked] == [("GET", None)]
    assert [headers.get("Authorization") for _, _, headers in filled.asked][1:] == [known] * 2


def test_another_host_that_asks_for_a_password_is_not_told_it(filled: Shelf, known: str, tmp_path: Path) -> None:
    with serving(thief := Shelf()) as port:
        thief.misbehave = wants('Basic realm="bundles"', "never")
        filled.misbehave = always(
            lambda request: request.reply(302, Location=f"http://127.0.0.1:{port}{request.path}"), is_blob
        )
        with pytest.raises(DeviceError, match="401"):
            pull(filled.address, tmp_path)
        assert len(thief.asked) == 1
        assert not [headers for _, _, headers in thief.asked if "Authorization" in headers]


@pytest.mark.parametrize(
    "location",
    ["http://example.com/blob", "ftp://127.0.0.1/blob", "file:///etc/passwd", "http://user:word@127.0.0.1/blob",
     "//example.com"],
)  # fmt: skip
def test_a_redirect_to_where_nothing_is_safe_is_not_followed(location: str, filled: Shelf, tmp_path: Path) -> None:
    filled.misbehave = always(lambda request: request.reply(302, Location=location), is_blob)
    with pytest.raises(TrustError, match="where nothing is safe"):
        pull(filled.address, tmp_path)


@pytest.mark.parametrize("location", ["", "http://[", "http://127.0.0.1:port/"])
def test_a_redirect_to_nowhere_is_told(location: str, filled: Shelf, tmp_path: Path) -> None:
    filled.misbehave = always(lambda request: request.reply(302, Location=location), is_blob)
    with pytest.raises(DeviceError, match=r"sends us nowhere|Invalid URL"):
        pull(filled.address, tmp_path)


def test_redirects_in_a_circle_are_not_followed_for_ever(filled: Shelf, tmp_path: Path) -> None:
    filled.misbehave = always(lambda request: request.reply(302, Location=request.path), is_blob)
    with pytest.raises(DeviceError, match="on and on"):
        pull(filled.address, tmp_path)
    assert len(filled.asked) == 1 + client.REDIRECTS


def test_a_token_service_elsewhere_is_asked_without_a_password_and_never_told_one(
    filled: Shelf, known: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.misbehave = wants('Bearer realm="https://token.example.com/",service="bundles",scope="x"', "never")
    with pytest.raises(TrustError, match=r"wants its password sent to `token.example.com`"):
        pull(filled.address, tmp_path)
    monkeypatch.delenv("EDGEOPT_REGISTRY_USER")
    monkeypatch.delenv("EDGEOPT_REGISTRY_PASSWORD")
    filled.misbehave = wants('Bearer realm="http://token.example.com/"', "never")
    with pytest.raises(TrustError, match="where nothing is safe"):
        pull(filled.address, tmp_path)


@pytest.mark.parametrize(
    ("realm", "host", "is_told"),
    [
        ("registry.example.com", "registry.example.com", True), ("auth.docker.io", "registry-1.docker.io", True),
        ("gitlab.com", "registry.gitlab.com", True), ("evil.com", "registry.example.com", False),
        ("evilexample.com", "registry.example.com", False), ("example.com.evil.com", "registry.example.com", False),
        ("evil.io", "ghcr.io", False), ("10.0.0.2", "10.0.0.1", False), ("x.0.0.1", "10.0.0.1", False),
        ("localhost", "127.0.0.1", True), ("registry", "other", False),
    ],
)  # fmt: skip
def test_a_password_stays_within_the_domain_of_its_registry(realm: str, host: str, is_told: bool) -> None:
    assert signing_in.may_be_told(realm, host) is is_told


def test_a_token_is_asked_for_once_and_again_when_it_has_run_out(
    filled: Shelf, known: str, bundle: Path, tmp_path: Path
) -> None:
    valid = ["first"]
    port = filled.server_address[1]

    def misbehave(request: Request) -> bool:
        if request.path.startswith("/token"):
            assert request.headers["Authorization"] == known
            assert parse_qs(urlsplit(request.path).query) == {"service": ["a b"], "scope": ["x"], "kept": ["1"]}
            request.reply(200, json.dumps({"access_token": valid[0]}).encode())
        elif request.headers.get("Authorization") != f"Bearer {valid[0]}":
            challenge = f'Bearer realm="http://127.0.0.1:{port}/token?kept=1",service="a b",scope="x"'
            request.reply(401, WWW_Authenticate=challenge)
        else:
            if is_image(request):
                valid[0] = "second"  # from now on
            return False
        return True

    filled.misbehave = misbehave
    assert pull(filled.address, tmp_path).read_bytes() == bundle.read_bytes()
    assert [path.partition("?")[0].split("/")[1] for _, path, _ in filled.asked].count("token") == 2


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b'{"token": 7}', b'{"token": "a\\nb: c"}', b'{"token": ""}', b"[" * 100_000, b'"x"']
)
def test_a_token_service_that_gives_no_token_is_told(answer: bytes, filled: Shelf, tmp_path: Path) -> None:
    port = filled.server_address[1]
    refuse = wants(f'Bearer realm="http://127.0.0.1:{port}/token"', "never")

    def misbehave(request: Request) -> bool:
        if request.path.startswith("/token"):
            request.reply(200, answer)
            return True
        return refuse(request)

    filled.misbehave = misbehave
    with pytest.raises(DeviceError, match="gave no token"):
        pull(filled.address, tmp_path)


@pytest.mark.parametrize(
    "challenge", ["", "Digest realm=x", 'Bearer realm=""', 'Bearer service="x"', "Bearer", "Basic"]
)
def test_a_challenge_that_cannot_be_met_is_told(challenge: str, filled: Shelf, tmp_path: Path) -> None:
    filled.misbehave = wants(challenge, "never")
    with pytest.raises(DeviceError):
        pull(filled.address, tmp_path)
    assert len(filled.asked) == 1


@pytest.mark.parametrize(
    "content", ["", "[]", '{"auths": [1]}', '{"auths": {"HOST": {"auth": "?"}}}', '{"auths": {"HOST": 1}}']
)
def test_a_docker_file_that_cannot_be_read_is_named(content: str, filled: Shelf, tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    host = f"127.0.0.1:{filled.server_address[1]}"
    (tmp_path / "docker" / "config.json").write_text(content.replace("HOST", host))
    filled.misbehave = wants('Basic realm="x"', "never")
    with pytest.raises(UsageError, match="is not what `docker login` writes"):
        pull(filled.address, tmp_path)


# --- addresses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "url", "tag"),
    [
        ("registry://Example.com/team/digits", "https://example.com/v2/team/digits", None),
        ("registry://example.com:5000/digits:v1.2", "https://example.com:5000/v2/digits", "v1.2"),
        ("registry://localhost:5000/digits", "http://localhost:5000/v2/digits", None),
        ("registry://127.9.9.9/digits", "http://127.9.9.9/v2/digits", None),
        ("registry://[::1]:5000/digits", "http://[::1]:5000/v2/digits", None),
        ("registry://[2001:db8::1]/digits", "https://[2001:db8::1]/v2/digits", None),
        ("registry://localhost.example.com/digits", "https://localhost.example.com/v2/digits", None),
        ("registry://127.0.0.1.example.com/digits", "https://127.0.0.1.example.com/v2/digits", None),
    ],
)  # fmt: skip
def test_an_address_leads_over_tls_but_on_this_machine(address: str, url: str, tag: str | None) -> None:
    assert Reference.parse(address).url == url
    assert Reference.parse(address).tag == tag


@pytest.mark.parametrize(
    "rest",
    ["", "host", "host/", "host/Team/digits", "host/a//b", "host/../b", "host/digits:", "host/digits@sha256:00",
     "host:port/digits", "/digits", "host/digits?x=1", "host/digits#x", "host/digits:a:b", "host/di gits",
     "host/" + "a" * 256, "host/digits\n", "ho_st/digits", "[::1/digits"],
)  # fmt: skip
def test_an_address_that_names_nothing_is_refused(rest: str) -> None:
    with pytest.raises(UsageError, match="names no place in a registry"):
        Reference.parse(f"registry://{rest}")


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(UsageError) as raised:
        Reference.parse("registry://pusher:sesame@host/digits")
    assert "sesame" not in raised.value.message + raised.value.hint


@pytest.mark.parametrize(
    ("host", "found"),
    [("::1", True), ("[::1]", True), ("127.0.0.1:80", True), ("localhost", True), ("::2", False), ("10.0.0.1", False),
     ("[fe80::1]:80", False), ("vm", False), ("", False)],
)  # fmt: skip
def test_this_machine_is_known_by_its_very_name_only(host: str, found: bool) -> None:
    assert is_loopback(host) is found
