"""The service answers what can be answered, refuses the rest by the right status, and is never brought down by it."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgeopt.device import serve as serving
from edgeopt.device.bodies import NPY, read_npy
from edgeopt.device.home import Home
from edgeopt.device.serve import is_loopback, listen, open_service, serve
from edgeopt.device.service import Limits, Service
from edgeopt.errors import DataError, UsageError
from tests.device.pictures import BLUE, GREEN, RED, SIZE, WHITE, encode, make_release, npy, use_release
from tests.signers import Holders

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytest.importorskip("waitress")

PNG = {"Content-Type": "image/png"}
FUZZED = 10_000


class Reply(NamedTuple):
    status: int
    told: Any
    headers: dict[str, str]


def ask(service: Service, method: str = "POST", path: str = "/predict", body: bytes = b"", **environ: Any) -> Reply:
    """One request, without a server."""
    started: list[Any] = []
    where, _, query = path.partition("?")
    told = {
        "REQUEST_METHOD": method, "PATH_INFO": where, "QUERY_STRING": query, "CONTENT_LENGTH": str(len(body)),
        "CONTENT_TYPE": "image/png", "wsgi.input": io.BytesIO(body), **environ,
    }  # fmt: skip
    content = b"".join(service(told, lambda *given: started.extend(given)))
    headers = dict(started[1])
    assert headers["Content-Length"] == str(len(content))
    assert re.fullmatch(r"[1-5]\d\d [A-Z][A-Za-z -]+", started[0])
    is_json = headers["Content-Type"] == "application/json"
    return Reply(int(started[0][:3]), json.loads(content) if is_json else content.decode(), headers)


@pytest.fixture
def colours(home: Home, holders: Holders, tmp_path: Path) -> Home:
    """A device on which a release is active."""
    use_release(home, make_release(tmp_path, holders, 1), unseen=True)
    return home


@pytest.fixture
def service(colours: Home) -> Iterator[Service]:
    with open_service(colours, Limits(threads=2, body_bytes=100_000)) as service:
        yield service


@pytest.fixture
def slow(home: Home, holders: Holders, tmp_path: Path) -> Home:
    """A device whose release takes a second or more for a white image."""
    use_release(home, make_release(tmp_path, holders, 1, "slow for white"), unseen=True)
    return home


@contextlib.contextmanager
def served(service: Service) -> Iterator[int]:
    """A server on a free port of this machine; gives the port."""
    stop = threading.Event()
    with listen("127.0.0.1", 0) as listening, ThreadPoolExecutor(1) as pool:
        running = pool.submit(serve, service, listening, stop)
        try:
            yield listening.getsockname()[1]
        finally:
            stop.set()
            assert running.result(30)


def send(port: int, method: str = "POST", path: str = "/predict", body: bytes | None = None, **headers: str) -> Reply:
    """One request to a server."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        chunked = headers.get("Transfer-Encoding") == "chunked"
        connection.request(method, path, body, {**PNG, **headers}, encode_chunked=chunked)
        reply = connection.getresponse()
        content = reply.read()
        is_json = reply.headers["Content-Type"] == "application/json"
        return Reply(reply.status, json.loads(content) if is_json else content.decode(), dict(reply.headers))


def test_images_and_arrays_are_answered(service: Service) -> None:
    found = ask(service, body=encode(GREEN), path="/predict?top=2")
    assert found.status == 200
    assert found.told["label"] == "green"
    assert [one["label"] for one in found.told["top"]] == ["green", "blue"]
    for body in (npy(BLUE), npy(np.asfortranarray(BLUE))):
        assert ask(service, body=body, CONTENT_TYPE=NPY).told["label"] == "blue"
    for kind in ("", "image/jpeg", "application/octet-stream", "IMAGE/PNG; charset=binary"):
        assert ask(service, body=encode(RED), CONTENT_TYPE=kind).told["label"] == "red"


@pytest.mark.parametrize(
    ("status", "what", "request_of"),
    [
        (404, "there is no `/predictions`", {"path": "/predictions"}),
        (404, "there is no ``", {"path": ""}),
        (405, "`/predict` takes `POST`", {"method": "GET"}),
        (405, "`/health` takes `GET`", {"path": "/health"}),
        (411, "length", {"CONTENT_LENGTH": ""}),
        (400, "is no number", {"CONTENT_LENGTH": "-1"}),
        (400, "is no number", {"CONTENT_LENGTH": "ten"}),
        (413, "at most 100000", {"CONTENT_LENGTH": "100001"}),
        (413, "at most 100000", {"CONTENT_LENGTH": "9" * 5000}),
        (400, "ends after 0 of 7 bytes", {"CONTENT_LENGTH": "7"}),
        (415, "`text/plain`", {"CONTENT_TYPE": "text/plain"}),
        (415, "form-urlencoded", {"CONTENT_TYPE": "application/x-www-form-urlencoded"}),
        (400, "cannot be read as an image", {"body": b"GIF89a"}),
        (400, "`top` is `0`", {"path": "/predict?top=0"}),
        (400, "`top` is `²`", {"path": "/predict?top=²"}),
        (400, "`top` is ``", {"path": "/predict?top="}),
        (400, "unknown option `k`", {"path": "/predict?k=3"}),
        (400, "no `.npy` file", {"body": b"\x93NUMPY\x01\x00\x05", "CONTENT_TYPE": NPY}),
        (400, "dtype `float32`", {"body": npy(np.zeros((3, 8, 8), np.float32)), "CONTENT_TYPE": NPY}),
        (400, "shape [3, 9, 8]", {"body": npy(np.zeros((3, 9, 8), np.uint8)), "CONTENT_TYPE": NPY}),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused_by_its_status(
    status: int, what: str, request_of: dict[str, Any], service: Service
) -> None:
    found = ask(service, **request_of)
    assert found.status == status
    assert what in found.told["error"]
    assert ("Allow" in found.headers) == (status == 405)
    assert ask(service, "GET", "/health").told["status"] == "ok"


@pytest.mark.parametrize(
    "array",
    [np.array([None]), np.array(["text"]), np.zeros(2, "V8"), np.zeros(2, "M8[s]"), np.zeros(2, np.complex64)],
)
def test_an_array_of_something_else_than_numbers_is_none(array: Any) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    with pytest.raises(DataError, match="dtype"):
        read_npy(stream.getvalue(), None)


@pytest.mark.parametrize("shape", ["(1000000000000,)", "(-1,)", "(2, -4)", "(2,)", "()", "(9,)"])
def test_an_array_is_as_long_as_its_head_says(shape: str) -> None:
    head = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    body = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + bytes(8)
    with pytest.raises(DataError, match="not as long as its head says"):
        read_npy(body, None)


def test_metrics_are_what_prometheus_reads(service: Service) -> None:
    for raw in (RED, GREEN):
        assert ask(service, body=encode(raw)).status == 200
    found = ask(service, "GET", "/metrics")
    assert found.status == 200
    samples = [one for family in text_string_to_metric_families(found.told) for one in family.samples]
    counts = {one.labels["outcome"]: one.value for one in samples if one.name == "edgeopt_inference_total"}
    assert counts["ok"] == 2
    assert ask(Service(service._predictor, service.limits), "GET", "/metrics").status == 404


def test_a_release_that_gives_nan_is_left_without_a_bad_answer(home: Home, holders: Holders, tmp_path: Path) -> None:
    use_release(home, make_release(tmp_path, holders, 1), unseen=True)
    use_release(home, make_release(tmp_path, holders, 2, "nan for white"), unseen=True)
    good = home.state().previous
    with open_service(home, Limits(threads=2)) as service:
        assert ask(service, body=encode(WHITE)).status == 200
        assert ask(service, "GET", "/health").told["release"] == good
        rollbacks = [line for line in ask(service, "GET", "/metrics").told.splitlines() if "rollback_total{" in line]
        assert 'edgeopt_rollback_total{reason="nonfinite"} 1.0' in rollbacks


def test_a_running_service_answers_with_what_is_activated(
    colours: Home, holders: Holders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "FOLLOW_SECONDS", 0.05)
    told: list[str] = []
    with open_service(colours, Limits(threads=2), told.append) as service:
        first = ask(service, "GET", "/health").told["release"]
        assert ask(service, body=encode(RED)).status == 200
        digest = use_release(colours, make_release(tmp_path, holders, 2, "softmax"), unseen=True)
        deadline = time.monotonic() + 30
        while ask(service, "GET", "/health").told["release"] == first and time.monotonic() < deadline:
            time.sleep(0.05)
        assert ask(service, "GET", "/health").told["release"] == digest != first
        assert ask(service, body=encode(RED)).told["label"] == "red"
    assert told == [f"serving colours {digest[:12]} from now on"]
    assert colours.state().starts == 0


def test_what_is_activated_and_cannot_be_opened_leaves_what_answers_as_it_is(
    colours: Home, holders: Holders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "FOLLOW_SECONDS", 0.05)
    told: list[str] = []
    with open_service(colours, Limits(threads=2), told.append) as service:
        first = ask(service, "GET", "/health").told["release"]
        digest = use_release(colours, make_release(tmp_path, holders, 2, "softmax"), unseen=True)
        assert digest != first
        (colours.path_of(digest) / "model" / "model.onnx").write_bytes(b"no graph any more")
        deadline = time.monotonic() + 30
        while colours.state().current == digest and time.monotonic() < deadline:
            assert ask(service, body=encode(RED)).status == 200
        assert ask(service, "GET", "/health").told["release"] == first == colours.state().current


def test_the_health_is_bad_while_the_only_release_gives_nan(home: Home, holders: Holders, tmp_path: Path) -> None:
    use_release(home, make_release(tmp_path, holders, 1, "nan for white"), unseen=True)
    with open_service(home, Limits(threads=2)) as service:
        assert ask(service, body=encode(WHITE)).status == 500
        found = ask(service, "GET", "/health")
        assert (found.status, found.headers["Retry-After"]) == (503, "1")
        assert "gives NaN or infinity" in found.told["status"]
        assert ask(service, body=encode(RED)).status == 200
        assert ask(service, "GET", "/health").status == 200


def test_whoever_comes_when_all_places_are_taken_is_told_to_come_later(slow: Home) -> None:
    with open_service(slow, Limits(threads=1, queue=1)) as service, served(service) as port:
        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(send, port, body=encode(WHITE)) for _ in range(8)]
            time.sleep(0.3)
            began = time.monotonic()
            assert send(port, "GET", "/health").status == 200
            assert time.monotonic() - began < 0.5
        replies = [one.result() for one in waiting]
        assert sorted(reply.status for reply in replies) == [200] * 2 + [503] * 6
        assert {reply.headers.get("Retry-After") for reply in replies if reply.status == 503} == {"1"}
        assert send(port, body=encode(RED)).status == 200
        assert service.answered == 3


def test_the_health_is_bad_while_an_inference_takes_longer_than_it_may(slow: Home) -> None:
    with open_service(slow, Limits(threads=1, queue=1, seconds=0.3)) as service, ThreadPoolExecutor(1) as pool:
        begun = pool.submit(ask, service, body=encode(WHITE))
        time.sleep(0.5)
        found = ask(service, "GET", "/health")
        assert found.status == 503
        assert "an inference has been running" in found.told["status"]
        assert "no place became free" in ask(service, body=encode(RED)).told["error"]
        assert begun.result().status == 200
        assert ask(service, "GET", "/health").status == 200


def test_what_the_server_itself_refuses_is_json_too(service: Service) -> None:
    with served(service) as port:
        found = send(port, body=bytes(100_001))
        assert found.status == 413
        assert "100000" in found.told["error"]
        assert send(port, body=b"", **{"Transfer-Encoding": "gzip"}).status in (400, 501)
        chunked = send(port, body=iter([encode(RED)[:50], encode(RED)[50:]]), **{"Transfer-Encoding": "chunked"})  # type: ignore[arg-type]
        assert chunked.told["label"] == "red"


def mutated(rng: random.Random) -> tuple[bytes, str]:
    """A body that is wrong in some way or other, and what it is said to be."""
    whole = [encode(RED), encode(GREEN, "JPEG"), encode(BLUE, "BMP"), encode(WHITE, "WEBP"), npy(RED), npy(np.eye(3))]
    body = bytearray(rng.choice(whole))
    way = rng.randrange(6)
    if way == 0:
        body = bytearray(rng.randbytes(rng.randrange(300)))
    elif way == 1:
        del body[rng.randrange(len(body)) :]
    elif way == 2:
        at = rng.randrange(len(body))
        body[at:at] = rng.randbytes(rng.randrange(1, 40))
    else:
        for _ in range(rng.randrange(1, 12)):
            body[rng.randrange(min(len(body), 200 if way == 3 else len(body)))] = rng.randrange(256)
    return bytes(body), rng.choice(["image/png", "image/jpeg", "", NPY, NPY, "text/html", "image/", "\x00"])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # which pytest turns on again
def test_no_body_brings_it_down(service: Service) -> None:
    rng, seen = random.Random(6), dict[int, int]()
    for number in range(FUZZED):
        body, kind = mutated(rng)
        path = rng.choice(["/predict", "/predict", "/predict?top=2", f"/predict?{rng.randrange(10**6)}", "/"])
        length = str(len(body)) if rng.random() < 0.9 else rng.choice(["", "-5", "1e3", "99999999999999", "3", "٣"])
        found = ask(service, body=body, path=path, CONTENT_TYPE=kind, CONTENT_LENGTH=length)
        seen[found.status] = seen.get(found.status, 0) + 1
        assert found.status in (200, 400, 404, 411, 413, 415), (number, found)
    assert all(seen[status] > 40 for status in (200, 400, 404, 411, 413, 415)), seen
    assert ask(service, "GET", "/health").status == 200
    assert ask(service, body=encode(GREEN)).told["label"] == "green"
    assert not service.places.running
    assert service.places.inside == 0


def test_nothing_that_comes_over_a_socket_brings_it_down(service: Service) -> None:
    rng = random.Random(7)
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: "
    with served(service) as port:
        for _ in range(400):
            body = mutated(rng)[0]
            length = rng.choice([str(len(body)), str(len(body) + 9), "-1", "x", "999999999", "18446744073709551616"])
            sent = rng.choice([
                head + length.encode() + b"\r\n\r\n" + body, rng.randbytes(200), head[: rng.randrange(len(head))],
                b"GET /health HTTP/9.9\r\n\r\n", b"\r\n\r\n" * 50, head,
                head + b"5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                b"GET /" + b"x" * 70_000, head + length.encode() + b"\r\nX-" + rng.randbytes(20) + b"\r\n\r\n",
            ])  # fmt: skip
            with socket.create_connection(("127.0.0.1", port)) as connection, contextlib.suppress(OSError):
                connection.sendall(sent)
                if rng.random() < 0.5:
                    connection.shutdown(socket.SHUT_WR)
                    connection.settimeout(0.05)
                    connection.recv(1000)
        assert send(port, "GET", "/health").told["status"] == "ok"
        assert send(port, body=encode(BLUE)).told["label"] == "blue"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], int]]]:
    """Starts the command; gives the process and its port."""
    begun: list[subprocess.Popen[str]] = []

    def start(home: Home, *options: str) -> tuple[subprocess.Popen[str], int]:
        command = [sys.executable, "-m", "edgeopt", "device", "serve", "--home", str(home.folder), "--port", "0"]
        process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
        begun.append(process)
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r":(\d+)$", line)
        assert found, line + process.stderr.read()
        return process, int(found.group(1))

    yield start
    for process in begun:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_what_was_begun_is_answered_before_it_ends(
    number: signal.Signals, code: int, slow: Home, start: Callable[..., tuple[subprocess.Popen[str], int]]
) -> None:
    process, port = start(slow, "--threads", "1", "--queue", "3")
    with ThreadPoolExecutor(3) as pool:
        begun = [pool.submit(send, port, body=encode(raw)) for raw in (WHITE, RED, WHITE)]
        time.sleep(0.4)
        process.send_signal(number)
        assert [one.result().status for one in begun] == [200, 200, 200]
    assert process.wait(10) == code
    assert process.stderr is not None
    assert process.stderr.read() == "stopped after 3 answers\n"
    with pytest.raises(ConnectionRefusedError):
        send(port, "GET", "/health")
    assert slow.state().starts == 0


def test_only_this_machine_can_ask_unless_it_is_said_otherwise(
    colours: Home, start: Callable[..., tuple[subprocess.Popen[str], int]]
) -> None:
    process, port = start(colours, "--host", "0.0.0.0")
    assert process.stderr is not None
    assert process.stderr.readline() == "note: whoever can reach this address can ask, without a password\n"
    assert send(port, body=encode(RED)).told["label"] == "red"
    with listen("127.0.0.1", 0) as listening, listen("0.0.0.0", 0) as open_to_all:
        assert (is_loopback(listening), is_loopback(open_to_all)) == (True, False)


def test_a_port_that_is_taken_is_told() -> None:
    taken = r"cannot listen on `127\.0\.0\.1` port \d+: address already in use"
    with listen("127.0.0.1", 0) as first, pytest.raises(UsageError, match=taken):
        listen("127.0.0.1", first.getsockname()[1])
    with pytest.raises(UsageError, match="cannot listen on"):
        listen("no.such.host.invalid", 80)


def test_as_many_run_at_once_as_there_are_cores_for(colours: Home) -> None:
    from edgeopt import environment

    with open_service(colours, Limits()) as service:
        assert service.limits.threads == environment.cpu_cores()
        assert ask(service, body=npy(np.zeros((3, SIZE, SIZE), np.uint8)), CONTENT_TYPE=NPY).status == 200
