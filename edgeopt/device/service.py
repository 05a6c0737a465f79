"""The predictor as a WSGI application: `POST /predict`, `GET /health`, `GET /metrics`; JSON, errors too.

So many inferences run at once, so many requests wait for one; whoever comes then is told at once to come later, rather
than to wait for longer than he will. An inference that does not come back keeps its place, and the health says so.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from edgeopt.device.bodies import RequestError, read_body, read_sample
from edgeopt.device.predictor import Predictor
from edgeopt.errors import EdgeoptError, UsageError

logger = logging.getLogger(__name__)

JSON = "application/json"
MOST_TOP = 1000
RETRY_SECONDS = 1

Response = tuple[int, bytes, dict[str, str]]
#: the text of `/metrics` and its content type
Metrics = Callable[[], tuple[bytes, str]]


@dataclass(frozen=True)
class Limits:
    """What a service allows.

    Attributes:
        threads: inferences at once; 0: as many as there are cores for.
        queue: requests that wait for one.
        seconds: that one of these may take, and an inference before the service counts as stuck.
        body_bytes: of one request.
    """

    threads: int = 0
    queue: int = 32
    seconds: float = 30.0
    body_bytes: int = 10_000_000


@dataclass
class Places:
    """Who runs and who waits."""

    limits: Limits
    inside: int = 0
    running: dict[int, float] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._free = threading.Semaphore(self.limits.threads)

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Wait for a place to run in, and hold it.

        Raises:
            RequestError: too many wait already, or none became free in time (503).
        """
        with self.lock:
            if self.inside >= self.limits.threads + self.limits.queue:
                raise _busy("too many requests wait already")
            self.inside += 1
        try:
            if not self._free.acquire(timeout=self.limits.seconds):
                raise _busy(f"no place became free in {self.limits.seconds:g} s")
            me = threading.get_ident()
            self.running[me] = time.monotonic()
            try:
                yield
            finally:
                del self.running[me]
                self._free.release()
        finally:
            with self.lock:
                self.inside -= 1

    def longest_seconds(self) -> float:
        """How long the oldest inference has been running."""
        return time.monotonic() - min(list(self.running.values()), default=math.inf)


class Service:
    """The application. It is called by as many threads as the server has."""

    def __init__(self, predictor: Predictor, limits: Limits, metrics: Metrics | None = None) -> None:
        self.limits, self.places, self.answered, self.draining = limits, Places(limits), 0, False
        self._predictor, self._metrics = predictor, metrics
        self._failure = ""
        self._routes: dict[str, tuple[str, Callable[[dict[str, Any]], Response]]] = {
            "/predict": ("POST", self._predict),
            "/health": ("GET", self._health),
            "/metrics": ("GET", self._tell_metrics),
        }

    @property
    def name(self) -> str:
        """What is served, for people."""
        return f"{self._predictor.bundle.manifest.name} {self._predictor.digest[:12]}"

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        status, body, headers = self._respond(environ)
        told = {"Content-Type": JSON, "Content-Length": str(len(body)), "Cache-Control": "no-store", **headers}
        start_response(f"{status} {HTTPStatus(status).phrase}", list(told.items()))
        return [body]

    def _respond(self, environ: dict[str, Any]) -> Response:
        try:
            return self._route(environ)(environ)
        except RequestError as error:
            return _error(error.status, error, error.headers)
        except UsageError as error:
            return _error(400, error)
        except EdgeoptError as error:
            self._failure = error.message
            logger.error("%s", error.message)
            return _error(500, error)
        except MemoryError:
            logger.exception("out of memory")
            return _error(503, _busy("out of memory"), _later())
        except Exception:
            self._failure = "a bug in edgeopt"
            logger.exception("a bug in edgeopt")
            return _error(500, EdgeoptError("this is a bug in edgeopt, not in the request", "its log says more"))

    def _route(self, environ: dict[str, Any]) -> Callable[[dict[str, Any]], Response]:
        path = environ.get("PATH_INFO", "")
        if path not in self._routes:
            raise RequestError(404, f"there is no `{path[:100]}`", f"known: {', '.join(self._routes)}")
        method, answer = self._routes[path]
        if environ["REQUEST_METHOD"] != method:
            raise RequestError(405, f"`{path}` takes `{method}`", headers={"Allow": method})
        return answer

    def _predict(self, environ: dict[str, Any]) -> Response:
        top = _top(environ.get("QUERY_STRING", ""))
        body = read_body(environ, self.limits.body_bytes)
        inputs = self._predictor.raw
        sample = read_sample(body, environ.get("CONTENT_TYPE") or "", next(iter(inputs.values())))
        with self.places.one():
            prediction = self._predictor.predict(sample, top)
        self._failure = ""
        with self.places.lock:
            self.answered += 1
        return 200, _to_json(prediction.to_plain()), {}

    def _health(self, environ: dict[str, Any]) -> Response:
        bundle, longest = self._predictor.bundle, self.places.longest_seconds()
        status = "ok"
        if self.draining:
            status = "draining"
        elif longest > self.limits.seconds:
            status = f"an inference has been running for {longest:.0f} s"
        elif self._failure:
            status = f"the last answer failed: {self._failure}"
        told = {
            "status": status, "name": bundle.manifest.name, "release": bundle.manifest.digest(),
            "running": len(self.places.running), "inside": self.places.inside, "answered": self.answered,
        }  # fmt: skip
        return (200, _to_json(told), {}) if status == "ok" else (503, _to_json(told), _later())

    def _tell_metrics(self, environ: dict[str, Any]) -> Response:
        if self._metrics is None:
            raise RequestError(404, "this service has no metrics")
        text, content_type = self._metrics()
        return 200, text, {"Content-Type": content_type}


def _top(query: str) -> int:
    """How many classes are asked for."""
    asked = dict(parse_qsl(query[:200], keep_blank_values=True))
    text = asked.pop("top", "1")
    if asked:
        raise RequestError(400, f"unknown option `{next(iter(asked))}`", "known: `top`")
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MOST_TOP):
        raise RequestError(400, f"`top` is `{text}`, allowed: 1 to {MOST_TOP}")
    return int(text)


def _later() -> dict[str, str]:
    return {"Retry-After": str(RETRY_SECONDS)}


def _busy(what: str) -> RequestError:
    return RequestError(503, what, "ask again later", _later())


def _error(status: int, error: EdgeoptError, headers: dict[str, str] | None = None) -> Response:
    return status, _to_json({"error": error.message, "hint": error.hint}), headers or {}


def _to_json(data: object) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode() + b"\n"
