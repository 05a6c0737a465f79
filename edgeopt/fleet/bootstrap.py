"""Put edgeopt onto a device that has none: the wheels that whoever ships has chosen, each pinned by its digest.

The device needs a shell and Python 3.10 or newer with `venv`; it asks no index. What is installed lies in `.edgeopt`
of the login folder: a virtual environment named after the wheels, and a link `bin` to the one that is used, set last.
So an update that is cut off leaves the old one, and the same command goes on.
"""

from __future__ import annotations

import hashlib
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgeopt import files
from edgeopt.errors import DeviceError, UsageError
from edgeopt.fleet.reach import ask_status
from edgeopt.transports.ssh import Ssh

PLACE = ".edgeopt"
WHEELS, REQUIREMENTS, ROOT = f"{PLACE}/wheels", f"{PLACE}/requirements.txt", f"{PLACE}/root.json"

INSTALL_SECONDS = 1800.0

_HINT = "`pip download --only-binary :all: --dest wheels 'edgeopt[cpu]'` gathers them; see its `--platform`"


def bootstrap(
    device: Ssh, name: str, wheels: Path, *, root: Path | None = None, board: str | None = None,
    python: str = "python3",
) -> str:  # fmt: skip
    """Install wheels on a device, and make its home if it has none.

    Args:
        root: the trust root that the home is made with.
        board: what the board is called in recipes.
        python: the Python there that makes the environment.

    Returns:
        The device's key, for the inventory to pin.

    Raises:
        UsageError: the wheels are not complete, or the device has no home and no root was given.
        DeviceError: its Python is too old or lacks `venv`, or the wheels are not for it.
    """
    pins = pin_wheels(wheels)
    environment = f"{PLACE}/{hashlib.sha256(pins.encode()).hexdigest()[:12]}"
    _check_python(device, name, python)
    _send_wheels(device, wheels, pins)
    device.shell(_install_script(python, environment), INSTALL_SECONDS)
    _make_home(device, root, board)
    return ask_status(device, name).key


def pin_wheels(folder: Path) -> str:
    """The requirements that allow these wheels and nothing else, each by its digest.

    Raises:
        UsageError: there are none, or edgeopt is not among them.
    """
    pins: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.whl")):
        name, version = path.name.split("-")[:2]
        pins.setdefault(f"{name}=={version}", []).append(f"--hash=sha256:{files.hash_file(path)}")
    if not any(pin.startswith("edgeopt==") for pin in pins):
        raise UsageError(f"there is no wheel of edgeopt in `{folder}`", _HINT)
    return "".join(f"{pin} {' '.join(digests)}\n" for pin, digests in pins.items())


def _check_python(device: Ssh, name: str, python: str) -> None:
    script = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    hint = "install Python 3.10 or newer with its `venv` there, or name another one with `--python`"
    try:
        found = device.shell(shlex.join([python, "-c", script])).strip()
    except DeviceError as error:
        raise DeviceError(f"`{python}` on `{name}` cannot make an environment: {error.message}", hint) from error
    if tuple(map(int, found.split("."))) < (3, 10):
        raise DeviceError(f"`{python}` on `{name}` is Python {found}", hint)


def _send_wheels(device: Ssh, wheels: Path, pins: str) -> None:
    """Bring the wheels that are not there yet, then the requirements."""
    device.shell(f"mkdir -p {WHEELS}")
    there = set(_read_digests(device.shell(f"cd {WHEELS} && sha256sum -- *.whl 2>/dev/null || true")))
    for path in sorted(wheels.glob("*.whl")):
        if (path.name, files.hash_file(path)) not in there:
            _send(device, path, f"{WHEELS}/{path.name}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        files.write_text(file, pins)
        _send(device, file, REQUIREMENTS)


def _read_digests(listing: str) -> Iterator[tuple[str, str]]:
    for line in listing.splitlines():
        digest, _, name = line.partition(" ")
        yield name.lstrip(" *"), digest


def _send(device: Ssh, file: Path, place: str) -> None:
    """One file, whole or not there; pip holds it against its digest."""
    there = shlex.quote(place)
    device.shell(f"cat > {there}.part && mv {there}.part {there}", source=file)


def _install_script(python: str, environment: str) -> str:
    pip = f"{environment}/bin/python -m pip --disable-pip-version-check"
    return " && ".join([
        f"if [ ! -f {environment}/complete ]; then rm -rf {environment}",
        f"{shlex.quote(python)} -m venv {environment}",
        f"{pip} install --quiet --no-index --no-deps --require-hashes --find-links {WHEELS} -r {REQUIREMENTS}",
        f"{pip} check >&2",
        f"touch {environment}/complete; fi",
        f"rm -f {PLACE}/bin.new",
        f"ln -s {environment.removeprefix(PLACE + '/')}/bin {PLACE}/bin.new",
        f"mv -T {PLACE}/bin.new {PLACE}/bin",
    ])  # fmt: skip


def _make_home(device: Ssh, root: Path | None, board: str | None) -> None:
    home = device.place.home
    if device.shell(f"test -e {shlex.quote(home)}/device.json && echo there || true").strip():
        return
    if root is None:
        raise UsageError(f"there is no home `{home}` on the device yet", "`--root root.json` makes it")
    _send(device, root, ROOT)
    named = [] if board is None else ["--board", board]
    device.shell(shlex.join([f"{PLACE}/bin/edgeopt", "device", "init", "--home", home, "--root", ROOT, *named]))
