"""How explanations are shown."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from edgeopt.explain import Cause, Explanation, LayerNoise, LayerShare, Noise
from edgeopt.explain.edits import keep_float
from edgeopt.explain.text import show_explanations
from edgeopt.recipe.document import parse
from tests.report.conftest import FP32, INT8, make_report, make_target

FULL = Explanation(
    target="x86",
    candidate=INT8.id,
    measured="0.90× as fast as float [0.80, 1.00] · drop 2.1 pp, at most 3.0 · fail",
    run_ms=0.4123,
    slow=(
        Cause(
            name="u8_weights",
            share=0.914,
            sentence="the weights of 5 integer layers are u8: x86 has a fast kernel for u8 × s8 only",
            edit="quantize_int8: {}",
            advice="made again for this backend, whose profile asks for s8 weights",
            layers=tuple(LayerShare(layer=f"/stage1/conv{index}", share=0.2 - index / 50) for index in range(6)),
        ),
        Cause(name="unknown", sentence="not known", advice="see which operators stand beside them"),
    ),
    inaccurate=(
        Cause(
            name="noisy_layers",
            sentence="the noisiest by far: `conv2` 19.1 dB; the median has 36.1 dB",
            edit="quantize_int8: {keep_float: [conv2]}",
            advice="26.1 → 40.9 dB at the output, measured here",
        ),
    ),
    noise=Noise(
        inputs="16 calibration samples",
        output_db=26.1,
        layers=tuple(LayerNoise(layer=f"conv{index}", operator="Conv", sqnr_db=19.0 + 8 * index) for index in range(8)),
    ),
    notes=("profiled on EPYC; the report was made on Xeon",),
)
PLAIN = Explanation(target="x86", candidate=FP32.id, measured="2.4× as fast as float · pass", run_ms=1.5)
GONE = Explanation(target="x86", candidate="onnxruntime_cpu/int4", measured="not built", notes=("it is gone",))

REPORT = make_report(make_target(FP32, INT8))


def test_what_explain_shows_is_a_golden(golden: Callable[[str, str], None]) -> None:
    golden("explain.txt", show_explanations([PLAIN, FULL, GONE], REPORT))


def test_a_target_of_which_nothing_was_asked_is_left_out() -> None:
    report = make_report(make_target(FP32, INT8, name="x86"), make_target(FP32, INT8, name="arm"))
    assert "target arm" not in show_explanations([PLAIN], report)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).map(lambda text: 9 * text)


@given(TEXTS, TEXTS, TEXTS, st.floats(0, 1))
def test_lines_are_as_wide_as_a_table_at_most_whatever_the_names(name: str, said: str, edit: str, share: float) -> None:
    layers = (LayerShare(layer=name, share=share),) * 2
    cause = Cause(name="x", share=share, sentence=said, edit=edit, advice=said, layers=layers)
    noise = Noise(inputs=said, output_db=1.0, layers=(LayerNoise(layer=name, operator="Conv", sqnr_db=1.0),))
    update = {"measured": said, "slow": (cause,), "inaccurate": (cause,), "noise": noise, "notes": (said,)}
    shown = show_explanations([FULL.model_copy(update=update)], REPORT)
    assert max(map(len, shown.splitlines())) <= 100


@given(st.lists(st.sampled_from(["True", "null", "1e5", "conv, 2", "a: b", "[x]", "#", "/stem/Conv"])))
def test_names_that_mean_something_to_yaml_are_quoted(names: list[str]) -> None:
    assert parse(f"- {keep_float(names)}\n").data == [{"quantize_int8": {"keep_float": names}}]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), min_size=1, max_size=3))
def test_an_edit_reads_back_as_the_names_that_it_was_made_of(names: list[str]) -> None:
    document = parse(f"passes:\n  - {keep_float(names)}\n")
    assert document.data == {"passes": [{"quantize_int8": {"keep_float": names}}]}
