"""The release that answers now, which may be left for the one before while others are being answered by it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from edgeopt.bundle import Bundle
from edgeopt.device.home import Home
from edgeopt.device.opened import Opened
from edgeopt.device.source import Source
from edgeopt.device.watching import Watch
from edgeopt.errors import DeviceError

Answer = TypeVar("Answer")

#: makes the watch of a bundle
MakeWatch = Callable[[Bundle, Home | None], Watch]

NONFINITE = "nonfinite outputs"


class Current:
    """What a source gives, open, for any number of threads at once.

    Raises:
        DeviceError: no release is active, or none gives finite outputs.
        BackendError: it cannot be opened or run.
        MissingError: the runtime is not installed.
        TrustError: it is damaged.
    """

    def __init__(self, source: Source, make_watch: MakeWatch) -> None:
        self._source, self._make_watch = source, make_watch
        self._counting, self._changing = threading.Lock(), threading.Lock()
        self._is_sound = True
        self._opened: Opened | None = self._open_sound()

    def use(self, ask: Callable[[Opened], Answer]) -> Answer:
        """Call `ask` with what is open, which is closed only after it returns.

        Raises:
            DeviceError: it is closed.
        """
        opened = self._borrow()
        try:
            return ask(opened)
        finally:
            self._give_back(opened)

    def answer(self, ask: Callable[[Opened], Answer | None]) -> Answer:
        """Call `ask` until it gives something: where it does not, what is open has failed, and is left.

        Raises:
            DeviceError: there is nothing to leave it for.
        """
        while True:
            opened = self._borrow()
            try:
                answer = ask(opened)
            finally:
                self._give_back(opened)
            if answer is not None:
                return answer
            self._replace(opened)

    def confirm(self, opened: Opened) -> None:
        """It gave an answer, so it can start."""
        if not opened.confirmed:
            self._source.confirm(opened.digest)
            opened.confirmed = True

    def follow(self) -> bool:
        """Open what was activated meanwhile, in place of what is open; returns whether something was.

        Raises:
            EdgeoptError: it cannot be opened, and what was open still is.
        """
        opened = self._borrow()
        try:
            if self._source.gives(opened.digest):
                return False
        finally:
            self._give_back(opened)
        self._replace(opened, has_failed=False)
        return True

    def close(self) -> None:
        """Give no more to use; what is in use is closed after that. A start that ends in order has not failed."""
        with self._counting:
            opened, self._opened = self._opened, None
            is_idle = opened is not None and opened.users == 0
        if opened is None:
            return
        try:
            if self._is_sound:
                self.confirm(opened)
        finally:
            if is_idle:
                opened.close()
            self._source.close()

    def _borrow(self) -> Opened:
        with self._counting:
            if self._opened is None:
                raise DeviceError("the predictor is closed", "open another one")
            self._opened.users += 1
            return self._opened

    def _give_back(self, opened: Opened) -> None:
        with self._counting:
            opened.users -= 1
            is_left = opened.users == 0 and opened is not self._opened
        if is_left:
            opened.close()

    def _replace(self, old: Opened, *, has_failed: bool = True) -> None:
        """Open what the source gives now in place of what is open, unless another thread has done so.

        Args:
            has_failed: then the source is to go back first.
        """
        with self._changing:
            if self._opened is not old:
                return
            self._is_sound = not has_failed
            if has_failed:
                self._leave(old)
            opened = self._open_sound()
            with self._counting:
                is_closed, is_idle = self._opened is None, old.users == 0
                self._opened = None if is_closed else opened
            self._is_sound = True
            if is_closed:
                opened.close()
            elif is_idle:
                old.close()

    def _open_sound(self) -> Opened:
        """What the source gives, if it gives finite outputs; else what the source goes back to."""
        while True:
            bundle = self._source.bundle()
            opened = Opened(bundle, self._make_watch(bundle, self._source.home))
            if opened.sound:
                return opened
            opened.watch.failed("nonfinite")
            opened.close()
            self._leave(opened)

    def _leave(self, opened: Opened) -> None:
        if not self._source.go_back(opened.digest, NONFINITE):
            what = f"`{opened.bundle.manifest.name}` {opened.digest[:12]} gives NaN or infinity"
            raise DeviceError(what, "there is no release to go back to: install another one")
