from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.gates import Outcome, Verdict
from edgeopt.select import Duel, Entry, find_duel, select


def entry(name: str, latency: float | None = None, size: int | None = None, outcome: Outcome = "pass") -> Entry:
    verdict = Verdict(budget="latency.max_ratio", verdict=outcome, margin=None, sentence="")
    return Entry(id=name, verdict=outcome, verdicts=(verdict,), latency=latency, size_bytes=size)


def test_the_fastest_candidate_wins_and_the_slower_one_is_told_by_how_much() -> None:
    entries = [entry("cpu/fp32", 0.12, 270), entry("cpu/int8", 0.07, 90)]
    choice = select(entries, [Duel(first="cpu/fp32", second="cpu/int8", ratio=1.4, low=1.3, high=1.5)])
    assert choice.winner == "cpu/int8"
    assert choice.reasons == {"cpu/fp32": "slower than cpu/int8: 1.40× [1.30, 1.50]"}


def test_a_smaller_candidate_that_is_slower_is_not_chosen() -> None:
    entries = [entry("cpu/fp32", 0.12, 270), entry("cpu/int8", 0.14, 90)]
    choice = select(entries, [Duel(first="cpu/fp32", second="cpu/int8", ratio=0.85, low=0.8, high=0.9)])
    assert choice.winner == "cpu/fp32"
    assert choice.reasons["cpu/int8"] == "slower than cpu/fp32: 1.18× [1.11, 1.25]"


def test_of_two_that_are_as_fast_as_each_other_the_smaller_wins() -> None:
    entries = [entry("cpu/fp32", 0.10, 270_000), entry("cpu/int8", 0.11, 90_000)]
    choice = select(entries, [Duel(first="cpu/int8", second="cpu/fp32", ratio=1.1, low=0.99, high=1.2)])
    assert choice.winner == "cpu/int8"
    assert choice.reasons == {"cpu/fp32": "as fast as cpu/int8 and larger: 270,000 against 90,000 bytes"}


def test_of_two_that_are_as_fast_and_as_large_the_first_of_the_recipe_wins() -> None:
    duel = Duel(first="b", second="a", ratio=1.0, low=0.9, high=1.1)
    assert select([entry("b", 0.1, 90), entry("a", 0.1, 90)], [duel]).winner == "b"
    choice = select([entry("a", 0.1, 90), entry("b", 0.1, 90)], [duel])
    assert choice.winner == "a"
    assert choice.reasons["b"] == "as fast as a and no smaller; later in the recipe"


def test_ties_are_counted_against_the_fastest_only_so_that_a_chain_of_ties_does_not_ship_a_slower_one() -> None:
    entries = [entry("a", 0.10, 300), entry("b", 0.105, 200), entry("c", 0.11, 100)]
    duels = [
        Duel(first="b", second="a", ratio=1.05, low=0.98, high=1.1),
        Duel(first="c", second="b", ratio=1.05, low=0.98, high=1.1),
        Duel(first="c", second="a", ratio=1.1, low=1.02, high=1.2),
    ]
    choice = select(entries, duels)
    assert choice.winner == "b"
    assert choice.reasons["c"].startswith("slower than a: ")
    assert choice.reasons["a"].startswith("as fast as b and larger")


def test_one_that_is_shown_faster_than_the_fastest_estimate_is_not_counted_as_slower() -> None:
    entries = [entry("fp32", 0.10, 270), entry("int8", 0.11, 90)]
    assert select(entries, [Duel(first="int8", second="fp32", ratio=0.9, low=0.85, high=0.95)]).winner == "int8"


def test_without_an_interval_the_estimates_decide() -> None:
    entries = [entry("fp32", 0.10, 270), entry("int8", 0.14, 90)]
    for duels in ([], [Duel(first="int8", second="fp32", ratio=1.4)]):
        choice = select(entries, duels)
        assert choice.winner == "fp32"
        assert choice.reasons["int8"] == "slower than fp32, as far as could be told"


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        ("fail", "missed latency.max_ratio"),
        ("inconclusive", "not decided: latency.max_ratio"),
        ("unmeasured", "not measured: latency.max_ratio"),
    ],
)
def test_a_candidate_that_does_not_pass_never_wins_and_is_told_why(outcome: Outcome, reason: str) -> None:
    fast, slow = entry("fast", 0.01, 1, outcome), entry("slow", 0.9, 999)
    choice = select([fast, slow], [])
    assert (choice.winner, choice.reasons) == ("slow", {"fast": reason})
    assert select([fast], []).winner is None


def test_a_candidate_that_crashed_is_a_loser_with_its_error() -> None:
    crashed = Entry(id="gone", verdict="pass", error="out of memory", latency=0.01)
    choice = select([crashed, entry("cpu/fp32", 0.5, 9)], [])
    assert (choice.winner, choice.reasons) == ("cpu/fp32", {"gone": "could not be built: out of memory"})


def test_an_unknown_latency_loses_to_any_number() -> None:
    choice = select([entry("unknown", None, 1), entry("known", 0.9, 99)], [])
    assert choice.winner == "known"
    assert choice.reasons["unknown"] == "its latency was not measured, that of known was"


def test_a_duel_is_found_from_either_side() -> None:
    duel = Duel(first="a", second="b", ratio=0.5, low=0.4, high=0.8)
    assert find_duel([duel], "a", "b") is duel
    turned = find_duel([duel], "b", "a")
    assert turned == Duel(first="b", second="a", ratio=2.0, low=1.25, high=2.5)
    assert find_duel([duel], "a", "c") is None


OUTCOMES: st.SearchStrategy[Outcome] = st.sampled_from(["pass", "pass", "pass", "fail", "inconclusive", "unmeasured"])


@st.composite
def races(draw: st.DrawFn) -> tuple[list[Entry], list[Duel]]:
    """Candidates with intervals that need not agree with the estimates or with one another, as noise would have it."""
    count = draw(st.integers(1, 5))
    sizes = draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))
    latencies = draw(st.lists(st.integers(1, 9).map(lambda tenth: tenth / 10), min_size=count, max_size=count))
    entries = [entry(f"c{at}", latencies[at], sizes[at], draw(OUTCOMES)) for at in range(count)]
    duels = []
    for second in range(count):
        for first in range(second):
            low = draw(st.floats(0.3, 2.0).filter(lambda bound: abs(bound - 1) > 1e-9))
            high = low * draw(st.floats(1.001, 3.0))
            if abs(high - 1) > 1e-9 and draw(st.integers(0, 9)):
                ratio = math.sqrt(low * high)
                duels.append(Duel(first=f"c{first}", second=f"c{second}", ratio=ratio, low=low, high=high))
    return entries, duels


@given(races(), st.randoms(use_true_random=False))
def test_neither_the_order_of_duels_nor_of_their_sides_changes_the_choice(
    race: tuple[list[Entry], list[Duel]], random: object
) -> None:
    entries, duels = race
    turned = [duel.reversed() if at % 2 else duel for at, duel in enumerate(duels)]
    random.shuffle(turned)  # type: ignore[attr-defined]
    assert select(entries, duels).winner == select(entries, turned).winner


@given(races(), st.randoms(use_true_random=False))
def test_the_order_of_the_recipe_decides_only_among_equals(
    race: tuple[list[Entry], list[Duel]], random: object
) -> None:
    entries, duels = race
    distinct = [
        one.model_copy(update={"size_bytes": 10 * (one.size_bytes or 0) + at}) for at, one in enumerate(entries)
    ]
    shuffled = list(distinct)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert select(distinct, duels).winner == select(shuffled, duels).winner


@given(races())
def test_a_winner_passes_is_not_shown_slower_than_the_fastest_and_every_loser_is_told_why(
    race: tuple[list[Entry], list[Duel]],
) -> None:
    entries, duels = race
    choice = select(entries, duels)
    able = [one for one in entries if one.verdict == "pass"]
    assert (choice.winner is None) == (not able)
    assert set(choice.reasons) == {one.id for one in entries} - {choice.winner}
    assert all(choice.reasons.values())
    if choice.winner is not None:
        winner = next(one for one in able if one.id == choice.winner)
        least = min(one.latency for one in able if one.latency is not None)
        fastest = min((one for one in able if one.latency == least), key=lambda one: one.size_bytes or 0)
        duel = find_duel(duels, winner.id, fastest.id)
        assert winner.id == fastest.id or (duel is not None and duel.low is not None and duel.low <= 1)


@given(races())
def test_a_loser_that_did_not_pass_changes_nothing(race: tuple[list[Entry], list[Duel]]) -> None:
    entries, duels = race
    able = [one for one in entries if one.verdict == "pass"]
    assert select(entries, duels).winner == select(able, duels).winner
