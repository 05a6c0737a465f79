"""How long help, plan and a compile take: help beside a bare `import click`, a compile from nothing and all cached."""

from __future__ import annotations

import statistics
import sys
import tempfile

from tables import EDGEOPT, describe_machine, run, show

RECIPE = "recipes/digits.yaml"
ROUNDS = 7


def main() -> None:
    python = [sys.executable, "-c"]
    sides = {
        "import click": [*python, "import click"],
        "edgeopt --help": [*EDGEOPT, "--help"],
        "edgeopt plan": [*EDGEOPT, "plan", RECIPE],
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, command in sides.items():
            seconds[name].append(run(command).seconds)
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    rows = [[name, f"{time:.3f}", f"{time / middle['import click']:.1f}×"] for name, time in middle.items()]
    show(f"start-up, median of {ROUNDS} in turns · {describe_machine()}", ["command", "s", "÷ import click"], rows)

    with tempfile.TemporaryDirectory() as cache:
        command = [*EDGEOPT, "compile", RECIPE, "--out", f"{cache}/out"]
        first, second = run(command, EDGEOPT_CACHE=f"{cache}/store"), run(command, EDGEOPT_CACHE=f"{cache}/store")
    rows = [[name, f"{ran.seconds:.1f}", ran.code] for name, ran in (("first", first), ("all cached", second))]
    show("edgeopt compile recipes/digits.yaml", ["run", "s", "exit"], rows)


if __name__ == "__main__":
    main()
