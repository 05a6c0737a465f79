"""Serve an application by waitress until it is told to stop; then finish what was begun, and only then end.

Waitress reads requests whole before a thread has to do with them, so slow senders hold no thread, and bounds them in
size and time. It gets more threads than may run inferences: those beyond wait for their turn, or say that it is full.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeopt import environment
from edgeopt.device.home import Home
from edgeopt.device.predictor import Predictor, load
from edgeopt.device.service import Limits, Service
from edgeopt.errors import EdgeoptError, UsageError

if TYPE_CHECKING:
    from waitress.channel import HTTPChannel
    from waitress.server import TcpWSGIServer

#: threads that neither run nor wait: they answer `/health`, and say that all places are taken
SPARE_THREADS = 4
MOST_CONNECTIONS = 512
#: how soon a service answers with what was activated
FOLLOW_SECONDS = 2.0

#: connections that the system keeps until they are taken
BACKLOG = 1024

#: how soon it is seen that the server is to stop, or that the last answer is out
POLL_SECONDS, DRAIN_POLL_SECONDS = 0.25, 0.02

#: a service that nobody has asked for so long has started all the same
SETTLED_SECONDS = 60.0


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is any that is free.

    Raises:
        UsageError: there is no such address here, or it is taken.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)  # whoever is told of it may come at once, and waits until it is served
    except OSError as error:
        what = f"cannot listen on `{host}` port {port}: {(error.strerror or str(error)).lower()}"
        raise UsageError(what, "choose another `--port`, or another `--host`") from error
    return listening


def is_loopback(listening: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    return ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback


@contextlib.contextmanager
def open_service(home: Home, limits: Limits, tell: Callable[[str], None] = lambda text: None) -> Iterator[Service]:
    """The service of the active release of a device, with its metrics, which are kept in the device's home as well.

    It follows where another release is activated, and `tell`s so.

    Raises:
        DeviceError: no release is active, or none gives finite outputs.
        BackendError: it cannot be opened or run.
        MissingError: the runtime is not installed.
    """
    from PIL import Image

    from edgeopt.device.metrics import CONTENT_TYPE, MetricsWatch, make_watch
    from edgeopt.device.recording import recording

    # Such an image is refused, and whoever sent it is told: no line on stderr for each.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    with load(home.folder, make_watch=make_watch) as predictor:

        def watch() -> MetricsWatch:
            found = predictor.watch
            assert isinstance(found, MetricsWatch)
            return found

        def metrics() -> tuple[bytes, str]:
            return watch().render(), CONTENT_TYPE

        threads = limits.threads or max(1, environment.cpu_cores() // predictor.threads)
        settled = threading.Timer(SETTLED_SECONDS, predictor.confirm)
        settled.daemon = True
        settled.start()
        try:
            with recording(home, watch), _following(predictor, tell):
                yield Service(predictor, replace(limits, threads=threads), metrics)
        finally:
            settled.cancel()


@contextlib.contextmanager
def _following(predictor: Predictor, tell: Callable[[str], None]) -> Iterator[None]:
    """Meanwhile look now and then whether another release was activated, and answer with that one from then on."""
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(FOLLOW_SECONDS):
            try:
                if predictor.follow():
                    tell(f"serving {predictor.bundle.manifest.name} {predictor.digest[:12]} from now on")
            except EdgeoptError as error:  # it is counted as a start that failed; what has answered goes on
                tell(f"what was activated cannot be served: {error.message}")

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def serve(service: Service, listening: socket.socket, stop: threading.Event) -> bool:
    """Answer until `stop` is set, then what was begun, for as long as one request may take.

    Returns:
        Whether all that was begun was finished.

    Raises:
        MissingError: waitress is not installed.
    """
    from waitress import wasyncore
    from waitress.server import create_server

    sockets: dict[int, Any] = {}
    server = create_server(service, map=sockets, sockets=[listening], **_settings(service.limits))
    server.channel_class = _channel_class()
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # the service itself says that it is full

    def step(seconds: float) -> None:
        wasyncore.loop(timeout=seconds, use_poll=True, map=sockets, count=1)

    try:
        while not stop.is_set():
            step(POLL_SECONDS)
        service.draining = True
        return _drain(server, step, service.limits.seconds)
    finally:
        server.task_dispatcher.shutdown(timeout=0.1)
        wasyncore.close_all(sockets)


def _settings(limits: Limits) -> dict[str, Any]:
    return {
        "threads": limits.threads + limits.queue + SPARE_THREADS, "max_request_body_size": limits.body_bytes,
        "channel_timeout": max(1, round(limits.seconds)), "cleanup_interval": max(1, round(limits.seconds / 4)),
        "connection_limit": MOST_CONNECTIONS, "backlog": BACKLOG, "asyncore_use_poll": True, "ident": "edgeopt",
        "clear_untrusted_proxy_headers": True, "log_socket_errors": False,
    }  # fmt: skip


def _drain(server: TcpWSGIServer, step: Callable[[float], None], seconds: float) -> bool:
    """Take no more connections, and close each as soon as it has its answer; returns whether all had theirs in time."""
    step(0)  # who has knocked is let in
    server.accepting = False
    server.socket.close()
    del server._map[server._fileno]
    deadline = time.monotonic() + seconds
    while server.active_channels and time.monotonic() < deadline:
        for channel in server.active_channels.values():
            if _is_idle(channel):
                channel.will_close = True
        step(DRAIN_POLL_SECONDS)
    return not server.active_channels


def _is_idle(channel: HTTPChannel) -> bool:
    return not (channel.requests or channel.request is not None or channel.total_outbufs_len)


def _channel_class() -> type[HTTPChannel]:
    """What waitress refuses by itself, in JSON as all else."""
    from waitress.channel import HTTPChannel
    from waitress.task import ErrorTask

    class JsonErrorTask(ErrorTask):  # type: ignore[misc]
        def execute(self) -> None:
            error = self.request.error
            body = json.dumps({"error": str(error.body), "hint": ""}).encode() + b"\n"
            self.status, self.content_length = f"{error.code} {error.reason}", len(body)
            self.response_headers.append(("Content-Type", "application/json"))
            self.set_close_on_finish()
            self.write(body)

    class JsonErrorChannel(HTTPChannel):  # type: ignore[misc]
        error_task_class = JsonErrorTask

    return JsonErrorChannel
