"""The benchmark of training costs: a budget is kept, its schedule ends with it, and a stopped run goes on."""

import json
import math
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from conftest import TINY

from telucodec.config import Config, DataConfig, TrainConfig
from telucodec.evaluate.metrics import Measured
from telucodec.train import assembly
from telucodec.train.data import Corpus

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import cost
import cost_plot

CONFIG = Config(
    model=TINY,
    data=DataConfig(crop_s=0.1),
    train=TrainConfig(batch_size=2, n_validation_clips=1, device="cpu", precision="32-true"),
)


class Slow:
    """A learner whose updates take what it is told; it moves the clock itself."""

    def __init__(self, clock, seconds, stop_at=-1):
        self.clock, self.seconds, self.stop_at = clock, seconds, stop_at
        self.n_done, self.plans = 0, []

    def begin(self):
        self.clock[0] += 7.0

    def step(self, n_steps):
        if self.n_done == self.stop_at:
            raise KeyboardInterrupt
        self.clock[0] += self.seconds(self.n_done)
        self.n_done += 1
        self.plans.append(n_steps)
        return 1.0

    def state(self):
        return {"n_done": self.n_done}

    def restore(self, state):
        self.n_done = state["n_done"]


@pytest.fixture
def clock(monkeypatch):
    """Processor time as a list of one number."""
    now = [123.0]
    monkeypatch.setattr(cost.time, "process_time", lambda: now[0])
    return now


@pytest.fixture
def corpus():
    """Two seconds of noise as a clip."""
    samples = np.random.default_rng(0).integers(-3000, 3000, 32_000).astype(np.int16)
    return Corpus(16_000, ("a.wav",), np.array([0, 32_000]), np.array([-25.0]), samples)


@pytest.fixture
def _quick(monkeypatch):
    monkeypatch.setattr(assembly, "N_INIT_VECTORS", 64)


@pytest.mark.parametrize(
    "seconds", [lambda n: 2.0, lambda n: 2.0 if n < 100 else 3.0], ids=["even", "slower later"]
)
def test_the_schedule_ends_where_the_budget_does(clock, tmp_path, seconds):
    learner = Slow(clock, seconds)
    spent_s = cost.train(learner, 600.0, tmp_path)
    assert 600.0 <= spent_s < 603.0
    assert abs(learner.plans[-1] - learner.n_done) <= 2


def test_a_stopped_run_goes_on_with_what_is_left_of_its_budget(clock, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        cost.train(Slow(clock, lambda n: 2.0, stop_at=150), 600.0, tmp_path)
    clock[0] = 5.0  # another process
    learner = Slow(clock, lambda n: 2.0)
    cost.train(learner, 600.0, tmp_path)
    assert learner.n_done == math.ceil((600.0 - 7.0) / 2.0)
    assert len(learner.plans) < 297 - 60, "it began anew"


def make_learner(name, corpus, folder):
    if name == "ours":
        return cost.Ours(CONFIG, (corpus, corpus), folder)
    pytest.importorskip("transformers")
    from usual_stack import UsualStack

    return UsualStack(CONFIG, corpus)


@pytest.mark.parametrize("name", ["ours", "usual"])
@pytest.mark.usefixtures("_quick")
def test_a_restored_learner_takes_the_step_that_it_would_have_taken(name, corpus, tmp_path):
    first = make_learner(name, corpus, tmp_path)
    first.begin()
    first.step(10)
    path = cost.save_checkpoint(tmp_path, 1, first.state(), keep_last=1, is_best=False)
    losses = [first.step(20) for _ in range(2)]
    second = make_learner(name, corpus, tmp_path)
    second.restore(cost.load_checkpoint(path))
    assert [second.step(20) for _ in range(2)] == losses
    assert first.n_done == second.n_done == 3


@pytest.mark.parametrize("name", ["ours", "usual"])
@pytest.mark.usefixtures("_quick")
def test_an_estimate_is_as_long_as_its_clip_and_depends_on_the_stages(name, corpus, tmp_path):
    scored = make_learner(name, corpus, tmp_path).evaluated()
    estimates = [scored.reconstruct(torch.randn(1, 1, 3333), n) for n in (1, 4)]
    assert [len(estimate) for estimate in estimates] == [3333, 3333]
    assert not torch.equal(*estimates)


def test_the_gradient_of_the_waveform_passes_the_usual_quantizer(corpus, tmp_path):
    stack = make_learner("usual", corpus, tmp_path).stack
    stack(torch.randn(2, 1, 1600)).wav.square().mean().backward()
    weight = stack.dac.encoder.conv1.parametrizations.weight.original1
    assert weight.grad.abs().sum() > 0


def make_row(curve, minutes, pesq):
    figures = {name: 1.0 for name in cost.SHOWN if name != "pesq_wb"}
    figures |= {} if pesq is None else {"pesq_wb": pesq}
    return {
        "curve": curve,
        "minutes": minutes,
        "n_steps": 1234,
        "figures": {"3": figures, "6": figures | {"stoi": 0.9}},
    }


def test_a_row_that_exists_is_not_made_again(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(
        cost,
        "make_row",
        lambda chosen, minutes, files: made.append(minutes) or make_row("ours", minutes, 2.0),
    )
    (tmp_path / "cv-te").mkdir()
    command = ["cost.py", "ours", "--data-dir", "x", "--dev", str(tmp_path), "--folders", "cv-te"]
    command += ["--out", str(tmp_path), "--minutes", "10"]
    for extra in ([], ["30"]):
        monkeypatch.setattr(sys, "argv", command + extra)
        cost.main()
    assert made == [10.0, 30.0]
    lines = (tmp_path / cost.ROWS).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["minutes"] for line in lines] == made


def test_the_table_and_the_drawing_show_every_curve_and_what_could_not_be_measured():
    rows = [make_row("usual", 30, 1.1), make_row("usual", 10, None), make_row("ours", 10, 1.7)]
    cells = cost_plot.table(rows).cells
    assert [cell[:3] for cell in cells] == [
        ("usual", "10", "1,234"),
        ("usual", "30", "1,234"),
        ("ours", "10", "1,234"),
    ]
    assert [cell[3] for cell in cells] == ["- / -", "1.10 / 1.10", "1.70 / 1.70"]
    svg = ElementTree.fromstring(cost_plot.drawing(rows))
    words = {element.text for element in svg.iter() if element.tag.endswith("text")}
    assert {"usual", "ours", "PESQ-WB", "10", "30"} <= words


def test_means_are_over_the_clips_that_have_the_metric(monkeypatch, tmp_path, write_noise):
    for name in ("a", "b"):
        write_noise(tmp_path / f"{name}.wav", 800)
    results = iter([{"stoi": 0.5, "pesq_wb": 2.0}, {"stoi": 0.7}, {"stoi": 0.6}, {"stoi": 0.8}])
    monkeypatch.setattr(cost, "measure", lambda *_: Measured(next(results), {}))

    class Silent:
        def reconstruct(self, wav, n_stages):
            return torch.zeros(wav.shape[-1])

    found = cost.score(Silent(), sorted(tmp_path.glob("*.wav")), 16_000)
    assert found["3"] == {"stoi": pytest.approx(0.55), "pesq_wb": 2.0, "n_pesq_wb": 1}
    assert found["6"] == {"stoi": pytest.approx(0.75), "n_pesq_wb": 0}
