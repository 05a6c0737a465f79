"""One job on a board at a time: what measures there, or looks at how fast something is, holds the board meanwhile.

It is the board's lock and no home's: two applications share its cores. The clock's lock, which whatever times anything
takes for as long as it does, is another one: a job of minutes holds this around it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from edgeopt import environment, files
from edgeopt.errors import DeviceError

#: whoever cannot have the board by then is told so
WAIT_SECONDS = 60.0

_POLL_SECONDS = 0.2


@contextlib.contextmanager
def hold_board(wait_seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold this board until the end of the block; the kernel lets it go when the holder dies.

    Raises:
        DeviceError: another job holds it, and did so all the time that was waited.
    """
    lock = environment.timing_lock().with_name("edgeopt-board.lock")
    until = time.monotonic() + wait_seconds
    while True:
        with files.lock(lock, wait=False) as held:
            if held:
                yield
                return
        if time.monotonic() >= until:
            raise DeviceError("another job is measuring on this board", "run again when it is done")
        time.sleep(_POLL_SECONDS)
