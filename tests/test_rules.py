"""Rules on histories made of plain numbers: each finds its illness, and none is found in health."""

import dataclasses
import math
import re
from pathlib import Path

import pytest

from telucodec.train.diagnostics.catalog import CATALOG
from telucodec.train.diagnostics.diagnosis import diagnose
from telucodec.train.diagnostics.history import N_KEPT, History, Plan
from telucodec.train.diagnostics.plot import draw
from telucodec.train.diagnostics.rules import RULES, examine

PLAN = Plan(codebook_size=1024, n_warmup_steps=100, max_grad_norm=1.0)


def healthy(step):
    """A reading as the default recipe gives it, with the noise of batches."""
    wave = math.sin(step)
    return {
        "step": float(step), "total": 2.8 + 0.4 * wave, "total_max": 4.0, "grad_norm": 4 + wave,
        "grad_norm/encoder": 1.5 + 0.4 * wave, "grad_norm/decoder": 3.5 + wave, "gradient_gain": 1.0,
        "snr_db": 7.5 + 2 * wave, "range_ratio": 0.9 + 0.08 * wave, "output_scale": 1 - step / 4000,
        "output_dc": 1e-4 * wave, "output_max": 0.8, "commitment": 0.01, "residual_share": 0.15,
        "mel": 0.4 + 0.02 * wave, "spectrum": 0.5 + 0.03 * wave, "share/mel": 0.35, "share/spectrum": 0.6,
        "codebook/perplexity/00": 600.0, "codebook/usage/00": 0.8, "codebook/dead_age/00": 250.0,
        "codebook/revived_share": 0.002, "moved/encoder": step * 1e-4, "moved/decoder": step * 1e-4,
        "wait_share": 0.1, "overflow_share": 0.0, "lr": 1e-3, "bad_in_a_row": 0.0,
        "adversary/loss": 1.5 + 0.2 * wave, "adversary/accuracy": 0.75 + 0.1 * wave,
    } | ({"adversary/deceit": 0.3 * wave, "adversary/features": 0.3} if step > 200 else {})  # fmt: skip


def history(change=None, *, since=300, until=500, every=20):
    """A healthy run to which ``change(step)`` happens after step ``since``."""
    made = History(PLAN)
    for step in range(every, until + 1, every):
        made.add(healthy(step) | (change(step) if change and step > since else {}))
    return made


ILL = {  # id -> what the readings turn into
    "amplitude-collapse": lambda step: {"range_ratio": 0.2},
    "output-saturated": lambda step: {"range_ratio": 2.1},
    "dc-offset": lambda step: {"output_dc": 0.03},
    "silent-plateau": lambda step: {"snr_db": 0.1, "total": 2.5},
    "latents-grow": lambda step: {"output_scale": 0.002},
    "output-scale": lambda step: {"output_scale": 3.0, "snr_db": -2.0},
    "non-finite": lambda step: {"bad_in_a_row": 3.0},
    "loss-explosion": lambda step: {"total": 9.0},
    "learning-rate-high": lambda step: {"total": 5.5, "snr_db": 1.0},
    "term-dominates": lambda step: {"share/mel": 0.95},
    "term-constant": lambda step: {"mel": 0.4},
    "half-precision-underflow": lambda step: {"overflow_share": 0.5},
    "no-gradient": lambda step: {"grad_norm/encoder": 0.0},
    "straight-through": lambda step: {"gradient_gain": 24.0},
    "gradient-vanishing": lambda step: {"grad_norm/encoder": 0.05},
    "gradient-exploding": lambda step: {"grad_norm/decoder": 60.0},
    "clipping-always": lambda step: {"grad_norm": 80.0},
    "learning-rate-low": lambda step: {"moved/encoder": 1e-6, "moved/decoder": 1e-6},
    "codebook-collapse": lambda step: {"codebook/perplexity/00": 3.0, "codebook/usage/00": 0.01},
    "revival-lost": lambda step: {"codebook/revived_share": 0.3},
    "codebook-not-learning": lambda step: {"residual_share": 0.8},
    "loader-starves": lambda step: {"wait_share": 0.8},
    "adversary-drowns": lambda step: {"total": 4.7},
    "discriminators-won": lambda step: {"adversary/accuracy": 0.99},
}


@pytest.mark.parametrize("name", ILL)
def test_each_illness_is_found_with_evidence_and_only_after_it_began(name):
    assert not [d for d in examine(history(ILL[name], until=300)) if d.id == name]
    found = next(d for d in examine(history(ILL[name], until=560)) if d.id == name)
    assert found.step == 560
    assert found.evidence
    assert found.cause in found.markdown()
    assert found.remedy in found.markdown()


def test_every_rule_has_an_illness_in_these_tests_and_in_the_catalog():
    ids = {rule.id for rule in RULES}
    assert ids - {"overfitting"} == set(ILL)
    assert ids <= set(CATALOG)


@pytest.mark.parametrize("every", [1, 5, 20, 100])
def test_a_healthy_run_raises_no_alarm_at_any_rhythm(every):
    made = History(PLAN)
    for step in range(every, 2001, every):
        made.add(healthy(step))
        assert step % 20 or examine(made) == []


def test_a_real_run_at_twice_the_usable_rate_is_named_where_it_stumbled():
    """Loss and SNR of the run at 2e-3 that docs/log.md calls a failure, as it wrote them."""
    real = [
        (1.60, 12.7), (1.86, 9.5), (1.83, 7.6), (3.21, 5.0), (6.32, 1.0), (10.73, -6.3), (2.24, 7.1)
    ]  # fmt: skip
    made, first = History(PLAN), None
    for number, (total, snr_db) in enumerate(real, start=1):
        made.add({"step": 20.0 * number, "total": total, "total_max": total, "snr_db": snr_db})
        first = first or next(iter(examine(made)), None)
    assert first is not None
    assert (first.id, first.step) == ("learning-rate-high", 120)


def test_parameters_that_run_off_at_the_start_are_named_by_their_cause():
    """The museum's run at a hundred times the rate, read every five steps; the level tells 25 steps later."""
    moved, snr = [0.123, 0.307, 0.518, 0.783, 1.040], [4.5, -3.0, -19.7, -20.5, -20.5]
    made = History(PLAN)
    for number, (distance, snr_db) in enumerate(zip(moved, snr, strict=True), start=1):
        reading = {"step": 5.0 * number, "range_ratio": 2.5, "snr_db": snr_db}
        made.add(reading | {"moved/encoder": distance, "moved/decoder": distance})
        assert [d.id for d in examine(made)] == (["learning-rate-high"] if number == 5 else [])
    far = history(lambda step: {"moved/encoder": 0.5, "moved/decoder": 0.5})
    assert examine(far) == []


def test_one_bad_reading_is_not_an_illness():
    """The shipped run had a single step of three times the usual loss and 40 times the gradient."""
    made = history(lambda step: {"total": 8.6, "grad_norm": 328.0, "snr_db": -0.4} if step == 440 else {})
    assert examine(made) == []


def test_a_gradient_that_is_always_clipped_by_the_same_factor_is_healthy():
    """The default's norms are 30 to 250 times the limit all through a run, and AdamW divides factors out."""
    made = history(lambda step: {"grad_norm": 130 + 60 * math.sin(step)}, since=0, until=2000)
    assert examine(made) == []


def test_an_encoder_that_does_not_learn_needs_no_gradient_through_the_quantizer():
    made = history(lambda step: {"gradient_gain": 0.0})
    assert [diagnosis.id for diagnosis in examine(made)] == ["straight-through"]
    made.plan = dataclasses.replace(PLAN, learned_by_gradient=("decoder",))
    assert examine(made) == []


def test_codebooks_that_learn_by_gradient_and_get_none_are_named():
    made = history(lambda step: {"grad_norm/quantizer": 0.0})
    assert examine(made) == []
    made.plan = dataclasses.replace(PLAN, learned_by_gradient=("encoder", "decoder", "quantizer"))
    assert [diagnosis.id for diagnosis in examine(made)] == ["codebook-not-learning"]


def test_a_big_output_scale_is_an_illness_only_where_the_output_is_worse_than_silence():
    assert examine(history(lambda step: {"output_scale": 3.0})) == []
    assert examine(history(lambda step: {"snr_db": -2.0})) == []


def test_a_loss_that_rises_without_an_adversary_is_not_laid_at_its_door():
    made = history(ILL["adversary-drowns"])
    assert [diagnosis.id for diagnosis in examine(made)] == ["adversary-drowns"]
    for reading in made.readings:
        del reading["adversary/loss"], reading["adversary/accuracy"]
        reading.pop("adversary/deceit", None)
    assert examine(made) == []


@pytest.mark.parametrize("every", [1, 20])
def test_what_the_loss_was_before_the_pull_is_known_to_the_end_of_a_long_run(every):
    late = history(ILL["adversary-drowns"], since=400 * 20, until=420 * 20, every=every)
    assert "adversary-drowns" in [diagnosis.id for diagnosis in examine(late)]


def test_overfitting_needs_validation_to_worsen_and_the_loss_to_fall():
    def run(metrics, slope):
        made = History(PLAN)
        for step in range(20, 1001, 20):
            made.add(healthy(step) | {"total": 3.0 + slope * step})
            if step % 200 == 0:
                made.validations.append({"step": float(step), "metric": metrics[step // 200 - 1]})
        return [diagnosis.id for diagnosis in examine(made)]

    assert run([0.5, 0.4, 0.45, 0.46, 0.47], -1e-3) == ["overfitting"]
    assert run([0.5, 0.4, 0.45, 0.46, 0.47], 1e-4) == []
    assert run([0.5, 0.4, 0.39, 0.38, 0.37], -1e-3) == []


def test_serious_findings_come_before_warnings():
    both = examine(history(lambda step: ILL["latents-grow"](step) | ILL["dc-offset"](step), until=560))
    assert [diagnosis.is_warning for diagnosis in both] == [False, True]


def test_a_long_history_is_thinned_but_keeps_its_start_and_its_present():
    made = history(until=20_000, since=10**9)
    steps = [reading["step"] for reading in made.readings]
    assert len(steps) <= N_KEPT
    assert steps[0] == 20
    assert steps[-10:] == [float(step) for step in range(19_820, 20_001, 20)]


@pytest.mark.parametrize("every", [1, 20])
def test_what_was_normal_after_warmup_is_known_to_the_end_of_a_long_run(every):
    late = history(
        lambda step: {"grad_norm/encoder": 0.05}, since=400 * every, until=900 * every, every=every
    )
    assert len(late.readings) <= N_KEPT
    assert "gradient-vanishing" in [diagnosis.id for diagnosis in examine(late)]


def test_a_history_that_begins_late_has_its_normal_state_late():
    late = History(PLAN)
    for step in range(5020, 5601, 20):
        late.add(healthy(step) | ({"grad_norm/encoder": 0.05} if step > 5300 else {}))
    assert [diagnosis.id for diagnosis in examine(late)] == ["gradient-vanishing"]


def test_a_history_comes_back_from_its_state_without_what_the_clock_said():
    made, again = history(), History(PLAN)
    again.load_state_dict(made.state_dict())
    assert [{**reading, "wait_share": 0.1} for reading in again.readings] == made.readings


def test_a_plot_shows_every_finite_point_of_every_curve():
    curve = [(20, 1.0), (40, math.inf), (60, 3.0)]
    text = draw({"total": curve, "empty": []}, title="a<b")
    assert text.count("<polyline") == 1
    assert len(re.search(r'points="([^"]+)"', text)[1].split()) == 2
    assert "a&lt;b" in text


def test_every_id_has_its_section_in_the_manual():
    manual = (Path(__file__).parents[1] / "docs" / "doctor.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^### (\S+)$", manual, re.M)) == set(CATALOG)


def test_a_diagnosis_reads_as_one_line_and_as_plain_values():
    found = diagnose("dc-offset", 40, {"mean of the output": 0.0312345, "clip": "a.wav"})
    assert found.line() == "dc-offset (step 40): mean of the output 0.03123, clip a.wav"
    assert found.describe()["remedy"] == CATALOG["dc-offset"].remedy
