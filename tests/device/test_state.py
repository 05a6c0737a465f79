"""Whatever is done in whatever order, the counter never falls and what is used is installed and not known to be bad."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edgeopt.device.home import event
from edgeopt.device.state import KEPT_EVENTS, MOST_STARTS, Installed, State
from edgeopt.model import canonical_json

PROCESSES = st.sampled_from(["one", "another"])
DIGESTS = st.sampled_from("abcdef")
WHY = st.sampled_from(["it gives NaN", "3 starts in a row gave no answer"])


class Device(RuleBasedStateMachine):
    """Takes the steps that the device takes, under the conditions under which it takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State()
        self.highest = 0

    @rule(digest=DIGESTS, counter=st.integers(1, 9))
    def install(self, digest: str, counter: int) -> None:
        if digest in self.state.releases or counter > self.state.counter:
            self.state = self.state.with_release(digest, Installed(name="digits", counter=counter, channel="stable"))

    @precondition(lambda self: self.state.releases)
    @rule(data=st.data())
    def activate(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(self.state.releases)))
        before = self.state.current
        self.state = self.state.activated(digest)
        assert self.state.current == digest
        assert before in (digest, self.state.previous)

    @precondition(lambda self: self.state.releases)
    @rule(data=st.data(), why=WHY)
    def fail_the_smoke_test(self, data: st.DataObject, why: str) -> None:
        others = sorted(self.state.releases.keys() - {self.state.current})
        if others:
            before = self.state.current
            digest = data.draw(st.sampled_from(others))
            self.state = self.state.spoiled(digest, why)
            assert self.state.releases[digest].bad == why
            assert self.state.current == before

    @precondition(lambda self: self.state.current)
    @rule(process=PROCESSES)
    def start(self, process: str) -> None:
        self.state = self.state.failed([process]).started(process)
        assert process in self.state.starting

    @rule(process=PROCESSES)
    def end_without_an_answer(self, process: str) -> None:
        before = self.state
        self.state = self.state.failed([process])
        assert self.state.starts == before.starts + (process in before.starting)

    @rule()
    def prove(self) -> None:
        self.state = self.state.proven()
        assert (self.state.starts, self.state.starting) == (0, ())

    @precondition(lambda self: self.state.previous)
    @rule(why=WHY | st.just(""))
    def go_back(self, why: str) -> None:
        left, back = self.state.current, self.state.previous
        self.state = self.state.rolled_back(why)
        assert self.state.current == back
        assert (self.state.starts, self.state.starting) == (0, ())
        assert self.state.previous == (None if why else left)
        assert left is not None
        assert (self.state.releases[left].bad == why) if why else not self.state.releases[left].bad

    @rule(data=st.data())
    def collect(self, data: st.DataObject) -> None:
        free = sorted(self.state.releases.keys() - {self.state.current, self.state.previous})
        self.state = self.state.without(set(data.draw(st.lists(st.sampled_from(free)) if free else st.just([]))))

    @rule(kind=st.sampled_from(["install", "activate", "rollback", "fallback", "refused"]))
    def note(self, kind: str) -> None:
        self.state = self.state.noting(event(kind, "a"))
        assert self.state.events[-1].kind == kind

    @rule()
    def cut_the_power(self) -> None:
        assert State.model_validate_json(canonical_json(self.state.model_dump(mode="json"))) == self.state

    @invariant()
    def the_counter_never_falls_and_no_release_is_above_it(self) -> None:
        assert self.state.counter >= self.highest
        self.highest = self.state.counter
        assert all(one.counter <= self.state.counter for one in self.state.releases.values())

    @invariant()
    def what_is_used_or_gone_back_to_is_installed_and_good(self) -> None:
        for digest in (self.state.current, self.state.previous):
            assert digest is None or not self.state.releases[digest].bad
        assert self.state.current is None or self.state.current != self.state.previous

    @invariant()
    def nothing_is_gone_back_to_where_nothing_is_used(self) -> None:
        assert self.state.current is not None or self.state.previous is None

    @invariant()
    def the_application_stays_the_same_once_it_is_known(self) -> None:
        assert self.state.app == ("digits" if self.state.counter else None)

    @invariant()
    def the_file_stays_small(self) -> None:
        assert len(self.state.events) <= KEPT_EVENTS


TestDevice = pytest.mark.filterwarnings("default")(Device.TestCase)


def installed(counter: int) -> Installed:
    return Installed(name="digits", counter=counter, channel="stable")


def test_a_release_signed_again_keeps_its_higher_counter_and_what_is_known_against_it() -> None:
    state = State().with_release("a", installed(5)).spoiled("a", "it gives NaN")
    for counter in (3, 5, 8):
        state = state.with_release("a", installed(counter))
        assert state.releases["a"].counter == max(5, counter)
        assert state.releases["a"].bad == "it gives NaN"
    assert state.counter == 8


def test_activating_what_is_used_does_not_make_it_its_own_predecessor() -> None:
    state = State().with_release("a", installed(1)).activated("a").started("one")
    assert state.activated("a") == state
    assert state.starting == ("one",)


def test_events_are_kept_to_the_newest() -> None:
    state = State()
    for number in range(KEPT_EVENTS + 7):
        state = state.noting(event("refused", "a", str(number)))
    assert [one.text for one in state.events] == [str(number) for number in range(7, KEPT_EVENTS + 7)]


def test_a_state_written_by_an_older_edgeopt_is_read() -> None:
    old = b'{"counter":4,"current":null,"edgeopt_device":1,"events":[],"previous":null,"releases":{},"starts":0}'
    assert State.model_validate_json(old).counter == 4


def test_three_starts_are_what_a_crash_loop_takes() -> None:
    assert MOST_STARTS == 3
