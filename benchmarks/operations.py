"""What is killed in `kill_points.py`: every step of shipping that changes files, with what it starts from.

for operation in make_operations(Publisher.make(folder / "keys"), folder):
    operation.act(shutil.copytree(operation.before, folder / "try"))
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.shipments import APP, Publisher, make_root
from edgeopt import environment, files
from edgeopt.bundle.pack import pack_file
from edgeopt.bundle.sign import Terms, sign_bundle
from edgeopt.bundle.signing import load_signer
from edgeopt.bundle.unpack import unpack_bundle
from edgeopt.bundle.verify import verify_bundle
from edgeopt.device.activate import activate, roll_back
from edgeopt.device.collect import collect
from edgeopt.device.home import DEVICE_FILE, Device, Home, make_home
from edgeopt.device.install import install
from edgeopt.device.start import begin_start, confirm_start, fall_back
from edgeopt.store import Store

Act = Callable[[Path], object]
#: what a folder holds, in a form that can be compared; raises where it is broken
Look = Callable[[Path], object]

STEP = "5" * 64


@dataclass(frozen=True)
class Operation:
    """Something that changes files in one folder.

    `before` is a folder to start from, `look` says what stands there, `clear` is the next start of whatever uses it.
    """

    name: str
    before: Path
    act: Act
    look: Look
    clear: Act


# what a device serves


def look_at_device(place: Path) -> object:
    """What a device holds, every file of it verified, and what it knows; None where there is no device yet."""
    if not (place / DEVICE_FILE).is_file():
        return None
    home = Home(place)
    state, root = home.state(), home.root()
    bad = tuple(sorted(digest for digest, one in state.releases.items() if one.bad))
    for digest in state.releases.keys() - set(bad):
        home.bundle(digest)
    return state.counter, state.current, state.previous, frozenset(state.releases), bad, root.version


def start_device(place: Path) -> None:
    """The next start: of the release that is used, where one is."""
    home = Home(place)
    if home.state().current is None:
        with home.changing():
            return
    confirm_start(home, begin_start(home).manifest.digest())


# the operations


def make_operations(publisher: Publisher, scratch: Path) -> Iterator[Operation]:
    """All that edgeopt does to what is shipped, and the store's `put`."""
    first, second, third, fourth = (publisher.publish(counter) for counter in (1, 2, 3, 4))
    empty = publisher.make_device(scratch / "empty").folder
    one, two, many = (Path(shutil.copytree(empty, scratch / name)) for name in ("one", "two", "many"))
    for place, bundles in ((one, [first]), (two, [first, second]), (many, [first, second, third])):
        for bundle in bundles:
            install(Home(place), bundle)
            activate(Home(place))
    install(Home(many), fourth)
    files.write_bytes(many / "incoming" / "upload.part", b"half")
    damaged = Path(shutil.copytree(two, scratch / "damaged"))
    (Home(damaged).path_of(Home(damaged).state().current or "") / "model/model.onnx").write_bytes(b"damaged")
    ready = Path(shutil.copytree(one, scratch / "ready"))
    install(Home(ready), second)

    def on_device(name: str, before: Path, act: Callable[[Home], object]) -> Operation:
        return Operation(name, before, lambda place: act(Home(place)), look_at_device, start_device)

    yield _init(publisher, scratch)
    yield on_device("install the first", empty, lambda home: install(home, first))
    yield on_device("install another", one, lambda home: install(home, second))
    yield on_device("install once more", two, lambda home: install(home, second))
    yield on_device("activate", ready, activate)
    yield on_device("roll back", two, roll_back)
    yield on_device("fall back", two, _fall_back_from(Home(two).state().current or ""))
    yield _start_damaged(damaged)
    yield on_device("gc", many, collect)
    yield on_device("trust the next root", one, _trust(publisher))
    yield _put(scratch)
    yield from _bundle(publisher, scratch)


def _fall_back_from(digest: str) -> Callable[[Home], object]:
    return lambda home: fall_back(home, digest, "it gives NaN")


def _trust(publisher: Publisher) -> Callable[[Home], object]:
    """Replaces the root; whoever was killed after that had done it."""
    path = make_root(publisher.folder / "next.json", publisher.keys, publisher.keys, version=2)
    return lambda home: home.root().version == 2 or home.replace_root(path.read_bytes())


def _init(publisher: Publisher, scratch: Path) -> Operation:
    def act(place: Path) -> None:
        if not (place / DEVICE_FILE).exists():  # whoever was killed after that had done it
            make_home(place, publisher.root.read_bytes(), Device())

    (scratch / "nothing").mkdir()
    return Operation("init", scratch / "nothing", act, look_at_device, start_device)


def _start_damaged(damaged: Path) -> Operation:
    """The first start after the disk has spoiled the release that is used."""

    def look(place: Path) -> object:
        state = Home(place).state()
        if state.previous is None:
            return look_at_device(place)[:3]  # type: ignore[index]
        return state.counter, state.current, state.previous

    return Operation("start, damaged", damaged, start_device, look, start_device)


def _put(scratch: Path) -> Operation:
    """The store's `put` beside another step, over checkpoints of its own."""
    before = Store(scratch / "store")

    def put(store: Store, key: str) -> None:
        with store.in_use(), store.hold(key), store.workspace() as folder:
            files.write_bytes(folder / "model.onnx", b"model" * 999)
            files.write_bytes(folder / "deep" / "weights.bin", b"weights")
            store.put(key, "step", {"seed": "0"}, {"value": 1}, 1.0, folder)

    def look(place: Path) -> object:
        store = Store(place)
        found = [store.has(key) and store.find(key) is not None for key in ("0" * 64, STEP)]
        return (*found, *store.notes)

    def start(place: Path) -> None:
        with Store(place).in_use():
            return

    put(before, "0" * 64)
    files.write_bytes(before.checkpoints(STEP) / "state.bin", b"state")
    return Operation("store put", before.root, lambda place: put(Store(place), STEP), look, start)


def _bundle(publisher: Publisher, scratch: Path) -> Iterator[Operation]:
    """What `edgeopt bundle` does: pack the folder, sign the file, sign the folder."""
    before, signer = scratch / "bundle", load_signer(publisher.keys[0])
    file, folder = Path(f"{APP}.edgeopt"), Path("folder")
    made = publisher.pack(b"weights" * 99)
    unpack_bundle(made, before / folder)
    shutil.copyfile(made, before / file)

    def look(place: Path) -> object:
        return tuple(verify_bundle(place / name).signature for name in (file, folder))

    def sign(name: Path) -> Act:
        return lambda place: sign_bundle(place / name, place / name, Terms(counter=9), [signer])

    def nothing(place: Path) -> None:
        return

    for name, act in {
        "bundle pack": lambda place: pack_file(place / folder, place / file),
        "bundle sign": sign(file),
        "bundle sign, a folder": sign(folder),
    }.items():
        yield Operation(name, before, act, look, nothing)


@contextlib.contextmanager
def own_board() -> Iterator[None]:
    """Hold a lock of our own where the board's would be held: who waits for others makes other calls each time."""
    kept = environment.timing_lock
    with tempfile.TemporaryDirectory() as folder:
        environment.timing_lock = lambda: Path(folder, "timing.lock")
        try:
            yield
        finally:
            environment.timing_lock = kept


@contextlib.contextmanager
def quick_smoke() -> Iterator[None]:
    """Leave out the smoke test, which runs in processes of its own and changes nothing on the device."""
    from edgeopt.device import activate as module
    from edgeopt.device.smoke import SmokeResult

    kept = module.run_smoke
    module.run_smoke = lambda bundle, max_ms=None: SmokeResult(samples=1, difference=0.0, p90_ms=0.1)
    try:
        with own_board():
            yield
    finally:
        module.run_smoke = kept
