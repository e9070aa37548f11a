"""What the doctor does with a run: skip, go back once, stop with a diagnosis, spend no more than allowed."""

# ruff: noqa: F811 - fixtures of test_training are taken by name

import dataclasses
import functools
import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_training import (  # noqa: F401 - fixtures
    CONFIG,
    Watcher,
    _quick,
    equal,
    make_trainee,
    speech,
    train_step,
    voiced,
    with_update,
)

from telucodec.config import Config, DoctorConfig, FaultConfig
from telucodec.errors import ConfigError
from telucodec.train import budget as budget_module
from telucodec.train import faults
from telucodec.train.budget import Budget, Meter
from telucodec.train.checkpoint import checkpoints, load_checkpoint
from telucodec.train.doctor import Doctor, Doomed
from telucodec.train.recorder import Movement, Recorder
from telucodec.train.run import train_run as checked_run

train_run = functools.partial(checked_run, skip_preflight=True)


def doctored(reaction, **train_changes):
    """A run whose batches hold a value that is not a number from the fifth on."""
    config = with_update("ema", **({"save_every": 2, "keep_last": 1} | train_changes))
    return dataclasses.replace(
        config,
        doctor=DoctorConfig(reaction=reaction),
        fault=FaultConfig(name=faults.NAN_BATCHES),
    )


@pytest.fixture
def early(monkeypatch):
    """The poison comes after four steps, and not only then into the k-means start."""
    monkeypatch.setattr(faults, "FIRST_NAN_STEP", 4)


def test_values_that_stay_not_finite_end_a_run_with_a_diagnosis(speech, tmp_path, early):
    watcher = Watcher()
    outcome = train_run(doctored("stop", n_steps=20), speech, tmp_path / "run", watcher)
    assert (outcome.weights, outcome.stopped_by, outcome.step) == (None, "the doctor", 7)
    assert [diagnosis.id for diagnosis in outcome.diagnoses] == ["non-finite"]
    told = json.loads((tmp_path / "run" / "diagnosis.json").read_text())
    assert told["diagnoses"][0]["evidence"]["first found in"] == "the batch itself (items 0)"
    text = (tmp_path / "run" / "diagnosis.md").read_text()
    assert outcome.diagnoses[0].remedy in text
    assert "Stopped at step 7; the last healthy checkpoint is that of step 4" in text
    assert any("non-finite (step 7)" in line for line in watcher.lines)
    assert (tmp_path / "run" / "diagnosis-non-finite.svg").read_text().startswith("<svg")
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    plotted = {event.step: event.value for event in board.Scalars("doctor/non-finite/total")}
    assert plotted == pytest.approx(dict(outcome.diagnoses[0].curves["total"]))
    assert "doctor/text_summary" in board.Tags()["tensors"]
    kept = [load_checkpoint(path) for path in checkpoints(tmp_path / "run" / "checkpoints")]
    assert 4 in [state["step"] for state in kept]
    assert all(torch.isfinite(value).all() for state in kept for value in state["codec"].values())


def test_a_run_goes_back_once_at_half_the_rate_and_then_stops(speech, tmp_path, early):
    watcher = Watcher()
    outcome = train_run(doctored("rollback", n_steps=20), speech, tmp_path / "run", watcher)
    assert (outcome.stopped_by, outcome.step) == ("the doctor", 7)
    assert any("Went back from step 7 to step 4 with half" in line for line in watcher.lines)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    first, second = (row["train/lr"] for row in rows if row["step"] == 5 and "train/lr" in row)
    assert second == pytest.approx(first / 2)
    assert load_checkpoint(checkpoints(tmp_path / "run" / "checkpoints")[0])["doctor"]["n_rollbacks"] == 1


@pytest.mark.slow
def test_a_run_stopped_after_it_went_back_resumes_bit_for_bit(speech, tmp_path, early, monkeypatch):
    """The poison is taken away once the run went back, as a clean copy of the data would do."""

    class Healer(Watcher):
        def line(self, text):
            super().line(text)
            if "Went back" in text:
                monkeypatch.setattr(faults, "FIRST_NAN_STEP", 10**9)

    config = doctored("rollback", n_steps=8)
    whole = train_run(config, speech, tmp_path / "whole", Healer())
    monkeypatch.setattr(faults, "FIRST_NAN_STEP", 4)

    class Stopped(Healer):
        def progress(self, step, n_steps, values):
            self.at = 5 if any("Went back" in text for text in self.lines) else 0
            super().progress(step, n_steps, values)

    first = train_run(config, speech, tmp_path / "run", Stopped())
    assert (whole.step, whole.stopped_by, first.step, first.stopped_by) == (8, "", 6, "SIGTERM")
    second = train_run(config, speech, tmp_path / "run", Watcher(), resume=True)
    states = [load_checkpoint(checkpoints(tmp_path / name / "checkpoints")[-1]) for name in ("run", "whole")]
    assert second.step == 8
    equal(*states)
    assert states[0]["lr_share"] == 0.5


@pytest.mark.parametrize(
    ("weight", "steps"), [pytest.param(1.0, [1, 2, 3, 4, 5, 6], marks=pytest.mark.slow), (2.0, [4, 5, 6])]
)
def test_a_run_resumed_with_other_loss_weights_is_judged_anew(speech, tmp_path, weight, steps):
    train_run(with_update("ema", n_steps=3), speech, tmp_path / "run", Watcher())
    config = with_update("ema", n_steps=6)
    config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, mel=weight))
    train_run(config, speech, tmp_path / "run", Watcher(), resume=True)
    state = load_checkpoint(checkpoints(tmp_path / "run" / "checkpoints")[-1])
    assert [reading["step"] for reading in state["doctor"]["history"]["readings"]] == steps


def test_a_warning_doctor_lets_a_doomed_run_go_on(speech, tmp_path, early):
    watcher = Watcher()
    outcome = train_run(doctored("warn", n_steps=9), speech, tmp_path / "run", watcher)
    assert (outcome.step, outcome.stopped_by, outcome.diagnoses) == (9, "", ())
    assert len([line for line in watcher.lines if "doctor: non-finite" in line]) == 1


def test_an_ignored_illness_only_warns():
    told = []
    for ignore, is_doomed in (((), True), (("dc-offset",), False)):
        doctor = Doctor(Config(doctor=DoctorConfig(ignore=ignore)), told.append)
        readings = [{"step": 20.0 * n, "output_dc": 0.1} for n in range(1, 6)]
        if is_doomed:
            with pytest.raises(Doomed, match="dc-offset"):
                [doctor.examine(reading) for reading in readings]
        else:
            [doctor.examine(reading) for reading in readings]
        assert doctor.is_healthy is not is_doomed
    assert len(told) == 1


def test_a_recorder_gives_means_and_peaks_of_the_steps_between_and_survives_a_stop():
    clip = voiced(2400)[None, None]
    fabric, trainee, loss = make_trainee(CONFIG, clip)
    results = [train_step(fabric, trainee, loss, CONFIG, clip) for _ in range(3)]
    one, two = Recorder(), Recorder()
    for result in results[:2]:
        one.add(result)
    two.load_state_dict(one.state_dict(), torch.device("cpu"))
    for recorder in (one, two):
        recorder.add(results[2])
    reading = one.reading(3, trainee.learner.usage.numel())
    assert reading == two.reading(3, trainee.learner.usage.numel())
    totals = [result.terms["total"].item() for result in results]
    assert reading["total"] == pytest.approx(sum(totals) / 3)
    assert reading["total_max"] == pytest.approx(max(totals))
    assert sum(value for name, value in reading.items() if name.startswith("share/")) == pytest.approx(1)
    assert one.reading(4, 1).keys() == {"step", "overflow_share"}


def test_movement_is_zero_at_the_start_and_grows_with_every_step():
    clip = voiced(2400)[None, None]
    fabric, trainee, loss = make_trainee(CONFIG, clip)
    movement = Movement(trainee.codec)
    assert set(movement.figures(trainee.codec).values()) == {0.0}
    train_step(fabric, trainee, loss, CONFIG, clip)
    assert min(movement.figures(trainee.codec).values()) > 1e-5


def test_money_is_counted_over_all_starts_of_a_run(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(budget_module.time, "monotonic", lambda: clock[0])
    budget = Budget(price_per_hour=2.0, max_cost=3.0)
    first = Meter(budget, tmp_path)
    clock[0] = 3600.0
    assert (first.spent(), first.cost, first.line()) == ("", 2.0, "1.00 h to date, cost 2.00")
    first.save()
    second = Meter(budget, tmp_path)
    clock[0] += 1900.0
    assert second.spent() == "--max-cost 3"
    with pytest.raises(ConfigError, match="add --price-per-hour"):
        Budget(max_cost=1.0)


def test_a_run_that_costs_too_much_is_saved_and_exported(speech, tmp_path):
    budget = Budget(price_per_hour=3600.0, max_cost=1e-6)
    outcome = train_run(CONFIG, speech, tmp_path / "run", Watcher(), budget=budget)
    assert (outcome.step, outcome.stopped_by) == (1, "--max-cost 1e-06")
    assert outcome.weights.is_dir()


def test_an_unknown_reaction_is_refused():
    with pytest.raises(ConfigError, match=r"doctor\.reaction"):
        DoctorConfig(reaction="pray")
