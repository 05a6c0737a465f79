"""The main job with five seeds of fine-tuning: does it pass with each, how fast and how right is the winner.

The seeds share everything that does not depend on one; the store is a fresh one, so that nothing is left from before.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tables import EDGEOPT, describe_machine, run, show

from edgeopt.select import Duel, find_duel

SEEDS = range(5)


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            out = Path(folder) / str(seed)
            command = [*EDGEOPT, "compile", "recipes/digits.yaml", "--set", f"seed={seed}", "--out", str(out)]
            ran = run(command, EDGEOPT_CACHE=f"{folder}/store")
            if not (out / "report.json").is_file():
                sys.exit(ran.output)
            rows.append(_row(seed, ran.seconds, json.loads((out / "report.json").read_text())))
    columns = ["seed", "s", "verdict", "winner", "vs original", "vs float", "int8 vs fp32", "drop pp", "≤", "bytes"]
    show(f"recipes/digits.yaml with five seeds · {describe_machine()}", columns, rows)


def _row(seed: int, seconds: float, report: dict[str, Any]) -> list[object]:
    target = report["targets"][0]
    winner = next(one for one in target["candidates"] if one["id"] == (target["winner"] or "onnxruntime_cpu/int8"))
    found = {one["metric"]: one for one in winner["measurements"]}
    original = {one["metric"]: one for one in target["original"]["measurements"]}
    duel = find_duel([Duel(**one) for one in target["duels"]], "onnxruntime_cpu/fp32", "onnxruntime_cpu/int8")
    share = found["size.bytes"]["value"] / original["size.bytes"]["value"]
    return [
        seed, f"{seconds:.0f}", report["verdict"], target["winner"],
        f"{1 / found['latency.ratio']['value']:.1f}×", f"{1 / found['latency.ratio_fp32']['value']:.1f}×",
        f"{duel.ratio:.2f}×" if duel else "?", f"{found['accuracy.drop_pp']['value']:.2f}",
        f"{found['accuracy.drop_pp']['high']:.2f}", f"{100 * share:.1f} %",
    ]  # fmt: skip


if __name__ == "__main__":
    main()
