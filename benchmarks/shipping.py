"""Does shipping hold? Kills, power cuts, hostile bundles, named attacks, cut transfers: how many, and what broke.

    python benchmarks/shipping.py --only kills,cuts

One table: what was done, how often, how often that broke something or let something in, and what is wanted. The lines
of what broke go to stderr. All of it is real: processes that are killed, bundles that are signed, a device's folder.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tables import describe_machine, run, show

from benchmarks import hostile_bundles, hostile_manifests, kill_points, operations, power_cuts, syscalls
from benchmarks.shipments import Publisher, in_memory
from edgeopt.bundle.verify import verify_bundle
from edgeopt.device.activate import activate
from edgeopt.device.install import install
from edgeopt.device.smoke import run_smoke

COLUMNS = ["what", "count", "broken or accepted", "wanted"]
ATTACKS = "tests/device/test_attacks.py"

FLIPS, PREFIX_STEP = 1_000, 97
CUTS = 200
#: of the bundle that is timed; the middle of so many tries is told
BUNDLE_BYTES, TRIES = 10_000_000, 5

Row = list[object]


def main() -> None:
    parts: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
        "kills": _kills, "cuts": _power_cuts, "hostile": _hostile, "attacks": _attacks, "transfers": _transfers,
        "seconds": _seconds,
    }  # fmt: skip
    options = _options(list(parts))
    rows = []
    for part in options.only:
        _tell(f"{part} …")
        rows += list(parts[part](options))
    show(f"shipping · {describe_machine()}", COLUMNS, rows)


def _options(parts: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=parts, help=",".join(parts))
    parser.add_argument("--most", type=int, default=400, help="states to look at after one system call")
    options = parser.parse_args()
    if unknown := set(options.only) - set(parts):
        parser.error(f"--only knows {', '.join(parts)}, not {', '.join(sorted(unknown))}")
    return options


def _kills(options: argparse.Namespace) -> Iterator[Row]:
    """Before every system call that changes something, by strace where it is there."""
    kill = kill_points.kill_by_strace if syscalls.is_available() else kill_points.kill_by_observer
    with in_memory() as scratch, operations.own_board():
        steps = operations.make_operations(Publisher.make(scratch / "publisher"), scratch)
        tried = [kill_points.try_kills(step, scratch / "tries", kill) for step in steps]
    count = sum(one.points for one in tried)
    points = ", ".join(f"{one.name} {one.points}" for one in tried)
    _tell(f"  points: {points}")
    yield ["kills: broken", count, _tally(*(one.broken for one in tried)), "0 of ≥ 200"]
    yield ["  run again and failed", count, _tally(*(one.failed_again for one in tried)), "0"]
    yield ["  left over after the next start", count, _tally(*(one.leftovers for one in tried)), "0"]


def _power_cuts(options: argparse.Namespace) -> Iterator[Row]:
    """After every system call, all that may be on the disk."""
    if not syscalls.is_available():
        yield ["power cuts", "none", "strace is not installed", "0 of ≥ 10,000"]
        return
    with in_memory() as scratch:
        life = power_cuts.tell_life(Publisher.make(scratch / "publisher"))
        found = power_cuts.cut_everywhere(life, scratch, most=options.most)
        again = power_cuts.cut_after_a_kill(life, scratch, most=20)
        blind = power_cuts.cut_everywhere(life, scratch, most=20, synced=False)
    drawn = f"{found.states:,} distinct of {found.enumerated:,}"
    yield ["power cut: states", drawn, _tally(found.broken), "0 of ≥ 10,000"]
    yield ["  acknowledged and lost", drawn, _tally(found.lost), "0"]
    yield ["  the next step failed", drawn, _tally(found.failed_next), "0"]
    yield ["  left over after the next start", drawn, _tally(found.leftovers), "0"]
    drawn = f"{again.states:,} distinct of {again.enumerated:,}"
    yield ["power cut after a kill and another try", drawn, _tally(again.faults()), "0"]
    seen = len(blind.broken) + len(blind.lost)
    yield ["the same with fsync turned off, to see it seen", f"{blind.states:,} distinct", seen, "> 0"]


def _hostile(options: argparse.Namespace) -> Iterator[Row]:
    warnings.filterwarnings("ignore", "Duplicate name")  # which is what makes it hostile
    with in_memory() as scratch:
        publisher = Publisher.make(scratch / "publisher")
        data = publisher.publish(2).read_bytes()
        kinds = {
            "hostile bundles": hostile_bundles.make_hostile(publisher),
            "manifests, signed": hostile_manifests.make_signed(publisher),
            "byte flips": hostile_bundles.make_flips(data, FLIPS),
            f"prefixes, by {PREFIX_STEP} bytes": hostile_bundles.make_prefixes(data, PREFIX_STEP),
        }
        tried = [hostile_bundles.try_hostile(name, publisher, scratch, hostile) for name, hostile in kinds.items()]
    wanted = ["0 of ≥ 60", "0", f"0 of {FLIPS:,}", "0"]
    for one, wish in zip(tried, wanted, strict=True):
        yield [f"{one.name}: wrong contents accepted", f"{one.count:,}", _tally(one.wrong), wish]
    count = sum(one.count for one in tried)
    yield ["  files outside staging", f"{count:,}", _tally(*(one.outside for one in tried)), "0"]
    yield ["  anything but a plain refusal", f"{count:,}", _tally(*(one.stumbled for one in tried)), "0"]


def _attacks(options: argparse.Namespace) -> Iterator[Row]:
    """The named attacks are tests, one each."""
    ran = run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", ATTACKS])
    counts = {kind: int(count) for count, kind in re.findall(r"(\d+) (passed|failed|error)", ran.output)}
    if set(counts) != {"passed"}:
        _tell(ran.output)
    accepted = sum(count for kind, count in counts.items() if kind != "passed")
    yield ["named attacks", sum(counts.values()), accepted, "0 of ≥ 12"]


def _transfers(options: argparse.Namespace) -> Iterator[Row]:
    """Cut by a proxy in front of a real sshd, which is another file's matter."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from benchmarks.cut_transfers import count_cut_transfers

    try:
        tally = count_cut_transfers(CUTS)
    except RuntimeError as error:
        yield ["cut transfers", "none", str(error), f"0 of ≥ {CUTS}"]
        return
    yield ["cut transfers: torn files", tally.cuts, tally.torn, f"0 of ≥ {CUTS}"]
    yield ["  that never arrived", tally.transfers, tally.transfers - tally.arrived, "0"]


def _seconds(options: argparse.Namespace) -> Iterator[Row]:
    """Of a bundle of 10 MB: to verify it, and to activate it beyond the smoke test."""
    with in_memory() as scratch:
        publisher = Publisher.make(scratch / "publisher")
        bundle = publisher.publish(1, weights=bytes(BUNDLE_BYTES // 2))
        root = publisher.make_device(scratch / "trusting").root()
        found = sorted(_activation_s(publisher, bundle, scratch / str(number)) for number in range(TRIES))
        verifying = sorted(_timed(lambda: verify_bundle(bundle, root)) for _ in range(TRIES))
    verify_s, activate_s = verifying[TRIES // 2], found[TRIES // 2]
    told = f"{verify_s:.3f} s + {activate_s:.3f} s"
    yield ["verify + activate 10 MB, beyond the smoke test", f"{TRIES} tries, the middle", told, "≤ 1 s"]


def _activation_s(publisher: Publisher, bundle: Path, folder: Path) -> float:
    """Seconds of an activation in which the smoke test's are not counted."""
    home, smoking = publisher.make_device(folder), []
    install(home, bundle)
    module = sys.modules["edgeopt.device.activate"]

    def timed(*arguments: object) -> object:
        started = time.perf_counter()
        result = run_smoke(*arguments)  # type: ignore[arg-type]
        smoking.append(time.perf_counter() - started)
        return result

    module.run_smoke = timed  # type: ignore[attr-defined]
    try:
        return _timed(lambda: activate(home)) - sum(smoking)
    finally:
        module.run_smoke = run_smoke  # type: ignore[attr-defined]


def _timed(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def _tally(*faults: Sequence[str]) -> int:
    """How many there are; each is told."""
    for line in (line for lines in faults for line in lines):
        _tell(f"  {line}")
    return sum(map(len, faults))


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
