from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeopt.gates import Outcome, Verdict
from edgeopt.report import CandidateResult, Report, SideResult, StepResult, TargetResult
from edgeopt.report.console import (
    WIDTH,
    shorten,
    show_header,
    show_step,
    show_step_tables,
    show_target,
    show_verdict,
)
from edgeopt.validation import Measurement

HERE = Path("build/digits")


def show_all(report: Report) -> str:
    lines = [show_header("digits", len(report.targets), 2, report.validation_images, report.seed), ""]
    lines += [show_step(step) for step in report.steps]
    lines += ["", *(show_target(target) for target in report.targets)]
    return "\n".join([*lines, show_verdict(report, HERE / "report.md", HERE)]) + "\n"


def test_what_compile_shows_is_a_golden(
    passing: Report, mixed: Report, unbuilt: Report, golden: Callable[[str, str], None]
) -> None:
    for name, report in (("passing", passing), ("mixed", mixed), ("unbuilt", unbuilt)):
        golden(f"console_{name}.txt", show_all(report))


def test_the_winner_is_marked_and_the_last_line_says_where_everything_is(passing: Report) -> None:
    lines = show_all(passing).splitlines()
    (marked,) = [line for line in lines if line.startswith("▸")]
    assert marked.split()[1] == "onnxruntime_cpu/int8"
    last = "PASS  x86 ships onnxruntime_cpu/int8 · build/digits/report.md · build/digits/x86/digits.edgeopt"
    assert lines[-1] == last


def test_every_budget_that_is_not_met_and_every_loser_has_its_sentence(mixed: Report) -> None:
    shown = " ".join(show_all(mixed).split())
    for target in mixed.targets:
        for candidate in target.candidates:
            assert (candidate.reason or "") in shown
            for verdict in candidate.verdicts:
                told = f"{verdict.verdict} {verdict.budget}: {verdict.sentence}" in shown
                assert told == (verdict.verdict != "pass")


def test_a_cached_step_says_so_in_place_of_its_seconds(mixed: Report) -> None:
    cached, timed, _ = (show_step(step) for step in mixed.steps)
    assert "cached   41.2" in cached
    assert "2.1 s" not in cached
    assert "31.0 s   6 epochs" in timed
    assert cached.index("41.2") == timed.index("6 epochs")


def test_a_header_counts_one_and_many() -> None:
    assert show_header("digits", 1, 2, 720, 0) == "digits · 1 target · 2 candidates · 720 validation images · seed 0"
    assert show_header("n", 2, 1, None, 7) == "n · 2 targets · 1 candidate · seed 7"


def test_a_name_that_is_too_long_keeps_both_of_its_ends() -> None:
    assert shorten("onnxruntime_cpu/int8", 20) == "onnxruntime_cpu/int8"
    assert shorten("onnxruntime_cpu/int8", 11) == "onnxr…/int8"
    assert [shorten("abc", width) for width in (0, 1, 2)] == ["…", "…", "…c"]


def test_a_long_path_is_moved_to_a_line_of_its_own_and_never_broken(passing: Report) -> None:
    folder = Path("a/" * 40)
    lines = show_verdict(passing, folder / "report.md", folder).splitlines()
    assert lines[0] == "PASS  x86 ships onnxruntime_cpu/int8"
    assert [line.strip() for line in lines[1:]] == [str(folder / "report.md"), str(folder / "x86/digits.edgeopt")]


#: long texts out of few draws
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=9).map(lambda text: 15 * text)
OUTCOMES: st.SearchStrategy[Outcome] = st.sampled_from(["fail", "inconclusive", "unmeasured"])
NAMES = st.builds(str.__mul__, st.text("abc019._-", min_size=1, max_size=9), st.integers(1, 10))


@st.composite
def sides(draw: st.DrawFn) -> tuple[Measurement, ...]:
    figures = {
        "accuracy.top1": st.floats(0, 100),
        "accuracy.drop_pp": st.floats(-100, 100),
        "latency.p50_ms": st.floats(0.001, 9999),
        "latency.p90_ms": st.floats(0.001, 9999),
        "latency.ratio": st.floats(0.001, 1000),
        "latency.ratio_fp32": st.floats(0.001, 1000),
        "size.bytes": st.floats(0, 1e10),
        "memory.peak_mb": st.floats(0, 1e5),
    }
    found = []
    for metric, values in figures.items():
        value, low, high = (draw(st.none() | values) for _ in range(3))
        found.append(Measurement(metric=metric, unit="", value=value, low=low, high=high, note=draw(WORDS)))
    return tuple(found)


@st.composite
def targets(draw: st.DrawFn) -> TargetResult:
    candidates = tuple(
        CandidateResult(
            id=f"{draw(NAMES)}/{at}",
            backend="b",
            variant=str(at),
            measurements=draw(sides()),
            error=draw(st.none() | WORDS),
            hint=draw(st.none() | WORDS),
            reason=draw(st.none() | WORDS),
            verdicts=tuple(
                Verdict(budget=f"class_floor.{draw(WORDS)}", verdict=outcome, margin=None, sentence=draw(WORDS))
                for outcome in draw(st.lists(OUTCOMES, max_size=2))
            ),
        )
        for at in range(draw(st.integers(0, 3)))
    )
    first_ships = draw(st.booleans())
    return TargetResult(
        name=draw(NAMES),
        winner=candidates[0].id if candidates and first_ships else None,
        threads=draw(st.integers(1, 1024)),
        batch=draw(st.integers(1, 65536)),
        machine=draw(WORDS),
        original=draw(st.none() | st.builds(SideResult, backend=NAMES, measurements=sides())),
        candidates=candidates,
        notes=tuple(draw(st.lists(WORDS, max_size=2))),
    )


@settings(max_examples=40)
@given(targets())
def test_a_target_is_never_shown_wider_than_100_columns_nor_with_control_characters(target: TargetResult) -> None:
    for line in show_target(target).split("\n"):
        assert len(line) <= WIDTH
        assert line == line.rstrip()
        assert not line or line.isprintable()


@given(NAMES, st.booleans(), st.floats(0, 99_999), NAMES, WORDS)
def test_a_step_is_never_shown_wider_than_100_columns(
    name: str, cached: bool, seconds: float, scope: str, summary: str
) -> None:
    step = StepResult(
        id=name, name=name, key="k", cached=cached, seconds=seconds, scope=scope, facts={"summary": summary}
    )
    for line in show_step(step).split("\n"):
        assert len(line) <= WIDTH
        assert line.isprintable()


@given(st.lists(NAMES, max_size=3), st.booleans())
def test_the_last_lines_hold_the_verdict_and_fit(names: list[str], ships: bool) -> None:
    several = [
        TargetResult(
            name=name,
            threads=1,
            batch=1,
            winner=name if ships else None,
            candidates=(CandidateResult(id=name, backend="b", variant="v", error=None if ships else "crashed"),),
        )
        for name in names
    ]
    fields = {"edgeopt": "0", "recipe": {"name": "n", "path": "n.yaml", "sha256": ""}, "targets": several}
    report = Report.model_validate(fields)
    lines = show_verdict(report, HERE / "report.md", HERE).split("\n")
    assert lines[0].startswith(f"{report.verdict.upper()}  ")
    assert str(HERE / "report.md") in lines[-1]
    assert all(len(line) <= WIDTH for line in lines)


def test_a_step_that_tells_of_many_things_has_a_line_for_each(passing: Report) -> None:
    lines = list(show_step_tables(passing.steps[0]))
    assert [line.split()[0] for line in lines] == ["group", "blocks.9", "blocks.10"]
    assert len({line.index("96 → 32" if "96" in line else "64 → 16") for line in lines[1:]}) == 1
    assert max(map(len, lines)) <= WIDTH
    assert not list(show_step_tables(passing.steps[1]))
