"""One registry over HTTP: tries again what a cut or a busy server spoiled, signs in, and follows where it is sent.

Certificates are always checked, by the authorities that come with `certifi`, or those in SSL_CERT_FILE. Only this very
machine is spoken to unencrypted. Our name goes to the registry alone, and nothing goes to another place unencrypted.
"""

from __future__ import annotations

import contextlib
import re
import ssl
import time
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from edgeopt.errors import DeviceError, MissingError, TrustError, UsageError
from edgeopt.transports.oci import is_loopback
from edgeopt.transports.oci.patience import CutError, Patience
from edgeopt.transports.oci.signing_in import SIGN_IN, find_credentials, may_be_told, read_challenge, read_token

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS, SILENCE_SECONDS = 10.0, 30.0
#: an answer that comes slower than this, in the long run, counts as cut
GRACE_SECONDS, LEAST_BYTES_PER_SECOND = 60.0, 4_000

REDIRECTS = 5
ANSWER_LIMIT_BYTES = 1_000_000

_REDIRECTED = (301, 302, 303, 307, 308)
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_CODE = re.compile(rb'"code"\s*:\s*"([A-Z_]{1,40})"')


class Answer:
    """What came back, as a whole."""

    def __init__(self, response: httpx.Response, content: bytes) -> None:
        self.status, self.headers, self.content = response.status_code, response.headers, content
        self._url = response.url

    def location(self) -> str:
        """Where it sends us.

        Raises:
            DeviceError: nowhere.
        """
        return str(_joined(self._url, self.headers.get("location", "")))


class Client:
    """Speaks with the registry at `host`, which is loopback or spoken to over TLS.

    Raises:
        MissingError: httpx is not installed.
    """

    def __init__(self, host: str) -> None:
        try:
            import httpx
        except ModuleNotFoundError as error:
            raise MissingError("`httpx` is not installed", "pip install 'edgeopt[registry]'") from error
        self.host = host
        self._is_loopback = is_loopback(host)
        self._origin = _origin(httpx.URL(f"{'http' if self._is_loopback else 'https'}://{host}"))
        self._authorization: str | None = None
        timeout = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
        try:  # on this machine no proxy is asked
            self._http = httpx.Client(timeout=timeout, follow_redirects=False, trust_env=not self._is_loopback)
        except OSError as error:
            raise UsageError("the certificates in SSL_CERT_FILE cannot be read", "name a file in PEM format") from error

    def close(self) -> None:
        self._http.close()

    def call(
        self, method: str, url: str, expect: Collection[int], *, content: bytes | None = None,
        headers: Mapping[str, str] | None = None, once: bool = False,
    ) -> Answer:  # fmt: skip
        """Ask something with a short answer; tried again unless it may be done only `once`.

        Raises:
            CutError: it was cut, or the server is busy, to the last.
            DeviceError: the answer is none of those that are expected.
            TrustError: who answers cannot prove who it is, or sends us where we do not go.
        """
        patience = Patience()
        while True:
            try:
                with self.stream(method, url, expect, content=content, headers=headers) as response:
                    return Answer(response, b"".join(self.chunks(response, ANSWER_LIMIT_BYTES)))
            except CutError as error:
                if once:
                    raise
                patience.wait(error)

    @contextlib.contextmanager
    def stream(
        self, method: str, url: str, expect: Collection[int], *, content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[httpx.Response]:  # fmt: skip
        """As `call`, tried once, and its answer's body is not read yet: `chunks` gives it."""
        import httpx

        target, signed_in = self._checked(httpx.URL(url)), False
        for _ in range(REDIRECTS):
            with self._opened(method, target, content, headers) as response:
                if response.status_code == 401 and _origin(response.url) == self._origin and not signed_in:
                    self._sign_in(response)
                    signed_in = True
                elif response.status_code in _REDIRECTED and method in ("GET", "HEAD"):
                    target = self._checked(_joined(response.url, response.headers.get("location", "")))
                elif response.status_code in expect:
                    yield response
                    return
                else:
                    raise self._refused(response)
        raise DeviceError(f"`{self.host}` sends us on and on", "check the address")

    def chunks(self, response: httpx.Response, limit_bytes: int) -> Iterator[bytes]:
        """The body as it comes, as the server sent it.

        Raises:
            CutError: it was cut, or comes too slowly.
            TrustError: it is longer than it may be.
        """
        start, received = time.monotonic(), 0
        with self._interruptible(response.url.host):
            for chunk in response.iter_raw():
                received += len(chunk)
                if received > limit_bytes:
                    raise TrustError(f"`{response.url.host}` sent more than {limit_bytes} bytes", "do not trust it")
                if time.monotonic() - start > GRACE_SECONDS + received / LEAST_BYTES_PER_SECOND:
                    raise CutError(f"`{response.url.host}` answers too slowly")
                yield chunk

    @contextlib.contextmanager
    def _opened(
        self, method: str, url: httpx.URL, content: bytes | None, headers: Mapping[str, str] | None
    ) -> Iterator[httpx.Response]:
        is_registry = _origin(url) == self._origin
        own = {"Authorization": self._authorization} if self._authorization and is_registry else {}
        all_headers = {"User-Agent": "edgeopt", "Accept-Encoding": "identity", **own, **(headers or {})}
        with self._interruptible(url.host):
            request = self._http.build_request(method, url, content=content, headers=all_headers)
            response = self._http.send(request, stream=True)
        try:
            if response.status_code in _BUSY:
                wait = response.headers.get("retry-after", "")
                seconds = float(wait) if re.fullmatch(r"[0-9]{1,6}", wait) else 0.0
                raise CutError(f"`{url.host}` is busy: it answers {response.status_code}", seconds)
            yield response
        finally:
            response.close()

    @contextlib.contextmanager
    def _interruptible(self, host: str) -> Iterator[None]:
        """Name what HTTP and TLS raise."""
        import httpx

        try:
            yield
        except (httpx.HTTPError, httpx.StreamError) as error:
            cause: BaseException | None = error
            while cause is not None:
                if isinstance(cause, ssl.SSLCertVerificationError):
                    what = f"the certificate of `{host}` does not prove who it is: {cause.verify_message}"
                    hint = "SSL_CERT_FILE names the authorities that are believed, and the clock must be right"
                    raise TrustError(what, hint) from error
                cause = cause.__cause__ or cause.__context__
            raise CutError(f"cannot speak with `{host}`: {str(error) or type(error).__name__}") from error

    def _checked(self, url: httpx.URL) -> httpx.URL:
        """Where we go: over TLS, or, if the registry is on this machine, to this machine."""
        is_safe = url.scheme == "https" or (url.scheme == "http" and self._is_loopback and is_loopback(url.host))
        if not is_safe or url.userinfo or not url.host:
            what = f"`{self.host}` sends us to `{url.scheme}://{url.host}`, where nothing is safe"
            raise TrustError(what, "let it answer over https")
        return url

    def _sign_in(self, refused: httpx.Response) -> None:
        """Get what the registry wants to see in a request such as the one that it refused."""
        challenge = read_challenge(refused.headers.get_list("www-authenticate"))
        credentials = find_credentials(self.host)
        self._authorization = None  # what it was is not good enough
        if challenge is None or (challenge.scheme == "basic" and credentials is None):
            raise self._refused(refused)
        if challenge.scheme == "basic" and credentials is not None:
            self._authorization = credentials.basic()
            return
        import httpx

        query = {name: value for name, value in challenge.fields.items() if name in ("service", "scope")}
        url = self._checked(_joined(refused.url, challenge.fields.get("realm", ""))).copy_merge_params(query)
        told = {}
        if credentials is not None:
            if not may_be_told(url.host, httpx.URL(f"//{self.host}").host):
                what = f"`{self.host}` wants its password sent to `{url.host}`, which is of another domain"
                raise TrustError(what, f"unset it to pull without, or ask the token service itself: {SIGN_IN}")
            told = {"Authorization": credentials.basic()}
        with self._opened("GET", url, None, told) as response:
            if response.status_code != 200:
                raise self._refused(response)
            token = read_token(b"".join(self.chunks(response, ANSWER_LIMIT_BYTES)))
        if token is None:
            raise DeviceError(f"`{url.host}` gave no token", "check the address")
        self._authorization = f"Bearer {token}"

    def _refused(self, response: httpx.Response) -> DeviceError:
        """What a registry says that it will not do, in its own code where it gives one."""
        said = b"".join(self.chunks(response, ANSWER_LIMIT_BYTES)) if not response.is_stream_consumed else b""
        code = _CODE.search(said)
        shown = f"{response.status_code}{f' {code[1].decode()}' if code else ''}"
        if response.status_code in (401, 403):
            return DeviceError(f"`{response.url.host}` does not let us do that: {shown}", SIGN_IN)
        what = f"`{response.url.host}` answers {response.request.method} with {shown}"
        return DeviceError(what, "check the address, and what lies there")


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port  # httpx drops the scheme's own port


def _joined(url: httpx.URL, location: str) -> httpx.URL:
    """Where a `Location` or a `realm` leads from `url`.

    Raises:
        DeviceError: nowhere.
    """
    import httpx

    try:
        if location and urlsplit(location) is not None:
            return url.join(location)
    except (httpx.InvalidURL, ValueError):
        pass
    raise DeviceError(f"`{url.host}` sends us nowhere", "check the address")
