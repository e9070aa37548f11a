"""Training as a whole: a step does what it says, a clip is learned, a stopped run goes on bit for bit."""

import dataclasses
import functools
import json
import math
import os
import signal

import numpy as np
import pytest
import soundfile
import torch

from telucodec.config import (
    Config,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    QuantizerConfig,
    TrainConfig,
)
from telucodec.errors import DataError, ModelError
from telucodec.model.codebooks import CodebookLearner
from telucodec.model.codec import build_codec, load_codec
from telucodec.model.decoder import N_SIGNED
from telucodec.train import assembly as assembly_module
from telucodec.train import data as data_module
from telucodec.train import state as state_module
from telucodec.train.budget import Budget
from telucodec.train.checkpoint import checkpoints, load_checkpoint
from telucodec.train.engine import build_fabric
from telucodec.train.loop import PLAIN, Trainee, draw_places, draw_plain, draw_stages, train, train_step
from telucodec.train.losses import ReconstructionLoss
from telucodec.train.optim import WeightAverage, build_optimizer
from telucodec.train.run import train_run as checked_run

train_run = functools.partial(checked_run, skip_preflight=True)  # it has its own tests

RATE_HZ = 8_000
MODEL = ModelConfig(
    sample_rate_hz=RATE_HZ,
    hop=64,
    fine_hop=16,
    width=16,
    fine_width=8,
    n_encoder_units=1,
    n_decoder_units=1,
    n_fine_units=1,
    latent_dim=24,
    quantizer=QuantizerConfig(n_codebooks=4, codebook_size=16),
)
CONFIG = Config(
    model=MODEL,
    data=DataConfig(
        crop_s=0.3, n_workers=0, validation_share=0.4, speed_chance=0.5, noise_chance=0.5, reverb_chance=0.5
    ),
    loss=LossConfig(l1=1.0, mse=1.0, rms=1.0, stft=0.1, mel=1.0, spectrum=1.0, vq=1.0),
    optim=OptimConfig(lr=1e-3, n_warmup_steps=2),
    train=TrainConfig(
        n_steps=6,
        n_steps_per_epoch=4,
        batch_size=2,
        device="cpu",
        log_every=1,
        validate_every=3,
        save_every=3,
        validation_kbps=(1.0, 2.0),
        best_metric="mel@1",
        precision="32-true",
        n_validation_clips=2,
    ),
)


@pytest.fixture(autouse=True)
def no_tables(monkeypatch):
    """Runs end without entropy tables, which take longer here than training and have tests of their own."""
    monkeypatch.setattr(state_module, "write_entropy", lambda *_, **__: b"")


MODES = pytest.mark.parametrize("update", ["ema", "gradient"])
RUNS = pytest.mark.parametrize("update", ["ema", pytest.param("gradient", marks=pytest.mark.slow)])


class Watcher:
    """Keeps what a run says; ``at`` lists steps after which the process gets a signal."""

    def __init__(self, at=0):
        self.lines, self.steps, self.at = [], [], at

    def line(self, text):
        self.lines.append(text)

    def progress(self, step, n_steps, values):
        self.steps.append(step)
        if step == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


def with_update(update, config=CONFIG, **train_changes):
    quantizer = dataclasses.replace(config.model.quantizer, codebook_update=update)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, quantizer=quantizer),
        train=dataclasses.replace(config.train, **train_changes),
    )


def voiced(n_samples=4000, pitch_hz=120.0):
    """A vowel-like sound: harmonics under two formants, with an envelope."""
    t = torch.arange(n_samples) / RATE_HZ
    pitch = pitch_hz * (1 + 0.1 * torch.sin(2 * math.pi * 3 * t))
    phase = 2 * math.pi * torch.cumsum(pitch / RATE_HZ, dim=0)
    wav = torch.zeros(n_samples)
    for k in range(1, 20):
        gain = sum(math.exp(-(((k * pitch_hz - f) / 250) ** 2)) for f in (500, 1500)) + 0.02
        wav += gain * torch.sin(k * phase)
    envelope = 0.3 + 0.7 * torch.sin(2 * math.pi * 2 * t).square()
    return 0.2 * wav * envelope / wav.abs().max()


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Five speakers, one clip of 0.8 s each, and a file that is not audio."""
    folder = tmp_path_factory.mktemp("speech")
    for speaker in range(5):
        wav = voiced(6400, pitch_hz=100 + 20 * speaker).numpy()
        soundfile.write(folder / f"s{speaker}-1.wav", wav, RATE_HZ, subtype="PCM_16")
    (folder / "broken.wav").write_text("not audio")
    return folder


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path_factory):
    monkeypatch.setattr(assembly_module, "N_INIT_VECTORS", 200)
    monkeypatch.setenv("TELUCODEC_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def make_trainee(config, clip=None):
    """A codec with everything `train_step` needs, its codebooks started on ``clip`` ``[B, 1, T]``."""
    torch.manual_seed(0)
    fabric = build_fabric(config.train)
    codec = build_codec(config.model)
    quantizer = config.model.quantizer
    learner = CodebookLearner(codec.quantizer, decay=quantizer.ema_decay, revive_below=quantizer.revive_below)
    if clip is not None:
        latents = codec.encoder(torch.nn.functional.pad(clip, (0, -clip.shape[-1] % config.model.hop)))
        learner.initialize(codec.quantizer, latents.detach().transpose(1, 2).flatten(0, 1))
    wrapped, optimizer = fabric.setup(codec, build_optimizer(codec, config.optim))
    loss = ReconstructionLoss(config.loss, config.model.sample_rate_hz)
    return fabric, Trainee(codec, wrapped, optimizer, learner, WeightAverage(codec, 0.9)), loss


def equal(ours, theirs, where=""):
    """Bit-for-bit equality of nested states; names the first place that differs."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            equal(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            equal(*pair, f"{where}[{index}]")
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), where
    else:
        assert ours == theirs, where


# One step


@MODES
def test_a_step_changes_every_part_and_counts_itself(update):
    config = with_update(update)
    clip = voiced(2400)[None, None].repeat(2, 1, 1)
    fabric, trainee, loss = make_trainee(config, clip)
    before = {name: tensor.clone() for name, tensor in trainee.codec.state_dict().items()}
    result = train_step(fabric, trainee, loss, config, clip)
    assert trainee.step == 1
    same = [name for name, tensor in trainee.codec.state_dict().items() if torch.equal(tensor, before[name])]
    assert same == []
    for stage in range(4):
        assert not torch.equal(trainee.codec.quantizer.codebooks[stage], before["quantizer.codebooks"][stage])
    assert all(torch.isfinite(value).all() for value in result.terms.values())
    assert not any(value.requires_grad for value in (*result.terms.values(), *result.weighted.values()))


def test_the_total_is_the_sum_of_weights_times_unweighted_terms():
    weights = LossConfig(
        l1=3.0,
        mse=0.0,
        rms=0.5,
        stft=0.2,
        mel=2.0,
        spectrum=0.0,
        disturbance=0.0,
        envelope=0.0,
        similarity=0.0,
        range=0.0,
        average_spectrum=0.0,
        vq=7.0,
    )
    config = dataclasses.replace(CONFIG, loss=weights)
    clip = voiced(2400)[None, None]
    result = train_step(*make_trainee(config, clip), config, clip)
    expected = sum(getattr(weights, name) * result.terms[name] for name in result.weighted)
    assert set(result.weighted) == {"l1", "rms", "stft", "mel", "vq"}
    torch.testing.assert_close(result.terms["total"], expected)


@MODES
def test_the_vq_term_is_codebook_plus_a_quarter_of_commitment(update):
    config, clip = with_update(update), voiced(2400)[None, None]
    terms = train_step(*make_trainee(config, clip), config, clip).terms
    codebook = terms["codebook"] if update == "gradient" else 0.0
    torch.testing.assert_close(terms["vq"], codebook + 0.25 * terms["commitment"])


def test_gradients_are_clipped_and_the_norms_before_clipping_are_told():
    clip, found = voiced(2400)[None, None], []
    for limit in (1e-3, 1e9):
        config = dataclasses.replace(CONFIG, optim=dataclasses.replace(CONFIG.optim, max_grad_norm=limit))
        fabric, trainee, loss = make_trainee(config, clip)
        result = train_step(fabric, trainee, loss, config, clip)
        norm = torch.stack([p.grad.norm() for p in trainee.codec.parameters() if p.grad is not None]).norm()
        found.append((result.terms["grad_norm"].item(), norm.item()))
        parts = [result.terms[f"grad_norm/{part}"] for part in ("encoder", "quantizer", "decoder")]
        assert torch.stack(parts).norm().item() == pytest.approx(found[-1][0], rel=1e-5)
    (clipped_told, clipped), (free_told, free) = found
    assert clipped_told == pytest.approx(free_told, rel=1e-6)
    assert free == pytest.approx(free_told, rel=1e-5)
    assert clipped == pytest.approx(1e-3, rel=1e-2)


def test_a_step_under_bfloat16_keeps_losses_and_weights_in_float32():
    config = with_update("gradient", precision="bf16-mixed")
    clip = voiced(2400)[None, None]
    fabric, trainee, loss = make_trainee(config, clip)
    for _ in range(2):
        result = train_step(fabric, trainee, loss, config, clip)
    assert {value.dtype for value in (*result.terms.values(), *result.weighted.values())} == {torch.float32}
    assert all(torch.isfinite(value) for value in result.terms.values())
    assert {p.dtype for p in trainee.codec.state_dict().values()} == {torch.float32}


def test_a_step_on_silence_stays_finite():
    config, clip = with_update("gradient"), torch.zeros(2, 1, 2400)
    fabric, trainee, loss = make_trainee(config, voiced(2400)[None, None])
    for _ in range(3):
        result = train_step(fabric, trainee, loss, config, clip)
    assert all(torch.isfinite(value) for value in result.terms.values())
    assert all(torch.isfinite(p).all() for p in trainee.codec.state_dict().values())


@MODES
def test_a_codeword_revived_in_a_step_equals_its_replacement_when_the_step_is_over(update):
    config, clip = with_update(update), voiced(2400)[None, None].repeat(2, 1, 1)
    fabric, trainee, loss = make_trainee(config, clip)
    train_step(fabric, trainee, loss, config, clip)
    codebooks = trainee.codec.quantizer.codebooks
    with torch.no_grad():  # far from everything, and unused for long
        codebooks[0, 5] = trainee.learner.sums[0, 5] = 1e3
        trainee.learner.usage[0, 5] = 0
        encoder_input = torch.nn.functional.pad(clip, (0, config.model.delay + -2400 % config.model.hop))
        seen = trainee.codec.encoder(encoder_input).transpose(1, 2).flatten(0, 1)  # as this step will see it
    result = train_step(fabric, trainee, loss, config, clip)
    assert result.codebooks.n_revived[0] == 1
    assert (seen - codebooks[0, 5].detach()).abs().amax(dim=1).min() < 1e-5
    if update == "gradient":
        state = trainee.optimizer.state[codebooks]
        for name in ("exp_avg", "exp_avg_sq"):
            assert not state[name][0, 5].any()
            assert state[name][0].any()
    else:
        mean = trainee.learner.sums[0, 5] / trainee.learner.usage[0, 5]
        torch.testing.assert_close(mean, codebooks[0, 5])


def test_dropout_draws_all_stages_or_any_number_of_them_from_seed_and_step():
    quantizer = dataclasses.replace(MODEL.quantizer, dropout=0.5)
    config = dataclasses.replace(with_update("ema"), model=dataclasses.replace(MODEL, quantizer=quantizer))
    assert torch.equal(draw_stages(64, config, 5), draw_stages(64, config, 5))
    assert not torch.equal(draw_stages(64, config, 5), draw_stages(64, config, 6))
    drawn = draw_stages(8000, config, 0)
    shares = (torch.bincount(drawn, minlength=5) / 8000).tolist()
    assert shares == pytest.approx([0, 0.125, 0.125, 0.125, 0.625], abs=0.02)
    quantizer = dataclasses.replace(MODEL.quantizer, dropout=0.0)
    whole = dataclasses.replace(config, model=dataclasses.replace(MODEL, quantizer=quantizer))
    assert (draw_stages(100, whole, 0) == 4).all()


def test_some_items_do_without_the_enhancer_unless_it_learns_alone():
    wav = torch.zeros(8000, 1, 8)
    drawn = draw_plain(wav, CONFIG, 3)
    assert torch.equal(drawn, draw_plain(wav, CONFIG, 3))
    assert not torch.equal(drawn, draw_plain(wav, CONFIG, 4))
    assert abs(float(drawn.float().mean()) - PLAIN) < 0.02
    alone = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, parts="enhancer"))
    assert not draw_plain(wav, alone, 3).any()


@pytest.mark.parametrize(("share", "is_learned"), [(0.0, True), (1.0, False)])
def test_a_step_teaches_the_enhancer_by_the_items_that_go_through_it(monkeypatch, share, is_learned):
    monkeypatch.setattr("telucodec.train.loop.PLAIN", share)
    model = dataclasses.replace(CONFIG.model, enhancer_width=8, n_enhancer_units=1)
    config, clip = dataclasses.replace(CONFIG, model=model), voiced()[None, None]
    fabric, trainee, loss = make_trainee(config, clip)
    train_step(fabric, trainee, loss, config, clip)
    assert trainee.codec.enhancer.weights_out.weight.grad.any() == is_learned


def test_items_of_a_batch_begin_at_places_of_their_own_which_the_seed_alone_decides():
    wav = torch.zeros(64, 1, 16)
    places = draw_places(wav, 3)
    assert torch.equal(places, draw_places(wav, 3))
    assert not torch.equal(places, draw_places(wav, 4))
    assert places.min() >= 0
    assert N_SIGNED / 2 < places.max() < N_SIGNED


def test_an_adversary_sees_both_signals_and_what_it_tells_is_logged():
    seen = []

    class Adversary:
        def update(self, real, fake):
            seen.append((real, fake.requires_grad))
            return {"adversary/loss": torch.tensor(0.5)}

        def steer(self, real, fake):
            seen.append((real, fake.requires_grad))
            return {"adversary/deceit": torch.tensor(0.25)}

    clip = voiced(2400)[None, None]
    fabric, trainee, loss = make_trainee(CONFIG, clip)
    result = train_step(fabric, trainee, loss, CONFIG, clip, adversary=Adversary())
    assert torch.equal(seen[0][0], clip)
    assert [requires_grad for _, requires_grad in seen] == [False, True]
    torch.testing.assert_close(result.terms["total"], sum(result.weighted.values()))
    assert (result.terms["adversary/loss"], result.terms["adversary/deceit"]) == (0.5, 0.25)


# Learning


@RUNS
def test_one_clip_is_learned_to_15_db(update):
    quantizer = QuantizerConfig(n_codebooks=6, codebook_size=32, codebook_update=update, dropout=0.0)
    config = Config(
        model=dataclasses.replace(MODEL, width=32, latent_dim=28, quantizer=quantizer),
        loss=LossConfig(
            l1=10.0,
            mse=0.0,
            rms=0.0,
            stft=0.0,
            mel=0.0,
            spectrum=0.0,
            disturbance=0.0,
            envelope=0.0,
            similarity=0.0,
            range=0.0,
            average_spectrum=0.0,
            vq=1.0,
        ),
        optim=OptimConfig(lr=6e-3, n_warmup_steps=5, weight_decay=0.0, max_grad_norm=10.0),
        train=TrainConfig(n_steps=120, device="cpu"),
    )
    clip = voiced(4000)[None, None]
    fabric, trainee, loss = make_trainee(config, clip)
    snr_db = [train_step(fabric, trainee, loss, config, clip).terms["snr_db"].item() for _ in range(120)]
    codec = trainee.codec.eval()
    estimate = codec.decode(codec.encode(clip), n_samples=4000)
    error = (clip - estimate).square().sum()
    assert snr_db[0] < 12, "there was nothing to learn"
    assert 10 * torch.log10(clip.square().sum() / error) > 15


# The loop


def run_loop(n_steps, every, *, start=0, over_at=None):
    seen, done = [], []
    actions = {name: lambda step, result, name=name: seen.append((name, step, result)) for name in every}

    def step_fn():
        done.append(start + len(done) + 1)
        return done[-1]

    last = train(
        step_fn,
        start=start,
        n_steps=n_steps,
        every=every,
        actions=actions,
        is_over=lambda: over_at is not None and done[-1] >= over_at,
    )
    return last, done, seen


def test_actions_run_at_their_period_and_all_of_them_at_the_end():
    last, done, seen = run_loop(7, {"log": 2, "save": 3})
    assert (last, done) == (7, [1, 2, 3, 4, 5, 6, 7])
    expected = [("log", 2), ("save", 3), ("log", 4), ("log", 6), ("save", 6), ("log", 7), ("save", 7)]
    assert [(name, step) for name, step, _ in seen] == expected
    assert all(step == result for _, step, result in seen)


def test_a_loop_that_must_end_runs_every_action_once_more():
    last, done, seen = run_loop(100, {"log": 10, "save": 50}, start=4, over_at=6)
    assert (last, done) == (6, [5, 6])
    assert [(name, step) for name, step, _ in seen] == [("log", 6), ("save", 6)]


def test_a_loop_that_is_done_does_nothing():
    assert run_loop(5, {"log": 1}, start=5) == (5, [], [])


# Runs


@pytest.fixture(scope="module")
def whole(speech, tmp_path_factory):
    """A run of 6 steps that nobody stopped, by codebook update."""
    finished = {}

    def get(update):
        if update not in finished:
            out = tmp_path_factory.mktemp("whole") / update
            watcher = Watcher()
            finished[update] = out, watcher, train_run(with_update(update), speech, out, watcher)
        return finished[update]

    return get


@RUNS
def test_resuming_equals_never_stopping_bit_for_bit(speech, tmp_path, whole, update):
    first = train_run(with_update(update), speech, tmp_path / "run", Watcher(at=2))
    assert (first.step, first.n_steps, first.stopped_by) == (3, 6, "SIGTERM")
    torch.manual_seed(99)  # nothing may hang on the global generators
    np.random.seed(99)
    second = train_run(with_update(update), speech, tmp_path / "run", Watcher(), resume=True)
    assert (second.step, second.stopped_by) == (6, "")
    out, _, outcome = whole(update)
    states = [load_checkpoint(checkpoints(folder / "checkpoints")[-1]) for folder in (tmp_path / "run", out)]
    assert {"codec", "optimizer", "learner", "average", "step"} <= states[0].keys()
    equal(*states)
    ours, theirs = (
        (weights / "model.safetensors").read_bytes() for weights in (second.weights, outcome.weights)
    )
    assert ours == theirs
    assert states[0]["step"] == 6


@pytest.mark.slow
def test_a_run_stopped_off_the_schedule_of_saving_loses_no_step(speech, tmp_path, whole):
    config = with_update("ema", save_every=100, validate_every=100)
    for at in (1, 3):
        train_run(config, speech, tmp_path / "run", Watcher(at=at), resume=at > 1)
    outcome = train_run(config, speech, tmp_path / "run", Watcher(), resume=True)
    ours = load_checkpoint(checkpoints(tmp_path / "run" / "checkpoints")[-1])
    theirs = load_checkpoint(checkpoints(whole("ema")[0] / "checkpoints")[-1])
    assert outcome.step == 6
    for part in ("codec", "optimizer", "learner", "average"):
        equal(ours[part], theirs[part], part)


def test_a_run_leaves_weights_that_load_and_a_record_of_itself(whole):
    out, watcher, outcome = whole("ema")
    assert outcome.weights == out / "weights"
    codec = load_codec(outcome.weights)
    assert codec.config == MODEL
    assert "Model card" in (outcome.weights / "README.md").read_text()
    facts = json.loads((out / "run.jsonl").read_text())
    assert facts["seed"] == 0
    assert facts["config"]["train"]["n_steps"] == 6
    assert {"command", "commit", "versions", "started"} <= facts.keys()
    assert watcher.steps == [1, 2, 3, 4, 5, 6]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    logged = [row for row in rows if "train/total" in row]
    assert [row["step"] for row in logged] == [1, 2, 3, 4, 5, 6]
    shares = sum(value for name, value in logged[0].items() if name.startswith("share/"))
    assert shares == pytest.approx(1, abs=1e-4)
    validated = [row for row in rows if "valid/mel@1" in row]
    assert [row["step"] for row in validated] == [0, 3, 6]  # 0: what the start is worth
    assert {"valid/snr_db@2", "valid/range_ratio@1", "valid/output_scale"} <= validated[0].keys()
    assert (out / "checkpoints" / "best.pt").exists()


def test_the_exported_weights_are_the_averaged_ones(whole):
    out, _, outcome = whole("gradient")
    state = load_checkpoint(checkpoints(out / "checkpoints")[-1])
    exported = load_codec(outcome.weights).state_dict()
    for name, tensor in state["average"]["weights"].items():
        assert torch.equal(exported[name], tensor.half().float()), name
    assert any(not torch.equal(state["codec"][name], tensor) for name, tensor in exported.items())


def test_an_epoch_ends_with_the_lines_its_reader_knows(whole):
    _, watcher, _ = whole("ema")
    text = "\n".join(watcher.lines)
    for word in ("loss", "l1", "mse", "rms", "stft", "mel", "output [", "DC mean", "range ratio"):
        assert word in text
    for word in ("output_scale", "VQ loss", "SNR", "M parameters", "GMAC"):
        assert word in text
    assert [line.split(" (")[0] for line in watcher.lines if line.startswith("epoch")] == [
        "epoch 0",
        "epoch 1",
    ]


def test_a_run_says_how_many_files_it_skipped(whole):
    _, watcher, _ = whole("ema")
    assert any("1 files skipped" in line or "1 file skipped" in line for line in watcher.lines)


def test_a_budget_of_minutes_ends_a_run_with_its_state_saved(speech, tmp_path):
    outcome = train_run(CONFIG, speech, tmp_path / "run", Watcher(), budget=Budget(max_minutes=0.0))
    assert (outcome.step, outcome.stopped_by) == (1, "--max-minutes 0")
    assert load_checkpoint(checkpoints(tmp_path / "run" / "checkpoints")[-1])["step"] == 1


def test_signals_mean_what_they_meant_before_after_a_run(whole):
    before = signal.getsignal(signal.SIGTERM)
    whole("ema")
    assert signal.getsignal(signal.SIGTERM) is before is signal.SIG_DFL


def test_an_existing_run_is_not_overwritten_and_a_missing_one_not_resumed(speech, tmp_path, whole):
    out, _, _ = whole("ema")
    with pytest.raises(DataError, match="holds a run already; pass --resume"):
        train_run(with_update("ema"), speech, out, Watcher())
    with pytest.raises(DataError, match="holds no checkpoint to resume"):
        train_run(CONFIG, speech, tmp_path / "nowhere", Watcher(), resume=True)


def test_a_run_of_another_model_is_not_resumed(speech, whole):
    out, _, _ = whole("ema")
    other = dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, width=20))
    with pytest.raises(ModelError, match="other model settings"):
        train_run(other, speech, out, Watcher(), resume=True)


def test_a_run_can_start_from_weights(speech, tmp_path, whole):
    _, _, outcome = whole("ema")
    config = dataclasses.replace(
        CONFIG,
        optim=dataclasses.replace(CONFIG.optim, lr=1e-12, weight_ema_decay=0.0),
        model=dataclasses.replace(MODEL, quantizer=dataclasses.replace(MODEL.quantizer, ema_decay=1 - 1e-9)),
        train=dataclasses.replace(CONFIG.train, n_steps=1),
    )
    started = train_run(config, speech, tmp_path / "run", Watcher(), init_from=outcome.weights)
    ours, theirs = (load_codec(folder).state_dict() for folder in (started.weights, outcome.weights))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-3)


def test_weights_of_another_shape_cannot_start_a_run(speech, tmp_path, whole):
    other = dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, width=20))
    with pytest.raises(ModelError, match="does not fit the model settings"):
        train_run(other, speech, tmp_path / "run", Watcher(), init_from=whole("ema")[2].weights)


def test_epochs_are_planned_in_passes_over_the_training_minutes(speech, tmp_path):
    config = with_update("ema", n_epochs=2, n_steps_per_epoch=0, validate_every=100, save_every=100)
    outcome = train_run(config, speech, tmp_path / "run", Watcher(at=1))
    clips = 5 - 2  # two of five clips fit into the validation share
    assert outcome.n_steps == 2 * round(clips * 0.8 / (2 * 0.3))


def test_a_poisoned_batch_is_skipped_and_named_and_never_saved(speech, tmp_path, monkeypatch, caplog):
    config = with_update("ema", log_every=100, validate_every=100, save_every=1, keep_last=9)
    healthy = data_module.batch_at

    def batch(corpus, step, *arguments, **options):
        wav = healthy(corpus, step, *arguments, **options)
        return wav * math.nan if step == 3 else wav  # the fourth update is lost, the k-means start is not

    monkeypatch.setattr(data_module, "batch_at", batch)
    monkeypatch.setattr(assembly_module, "N_INIT_VECTORS", 50)
    outcome = train_run(config, speech, tmp_path / "run", Watcher())
    assert (outcome.step, outcome.stopped_by) == (6, "")
    assert "step 4: update skipped, a value is not finite: the batch itself (items 0, 1)" in caplog.text
    states = [load_checkpoint(path) for path in checkpoints(tmp_path / "run" / "checkpoints")]
    assert [state["step"] for state in states] == [0, 1, 2, 3, 4, 5, 6]
    equal(states[4]["codec"], states[3]["codec"])
    equal(states[4]["average"], states[3]["average"])
    assert not torch.equal(*(states[step]["codec"]["decoder.log_output_scale"] for step in (4, 5)))
    for path in checkpoints(tmp_path / "run" / "checkpoints"):
        state = load_checkpoint(path)
        assert all(torch.isfinite(value).all() for value in state["codec"].values()), path.name


@pytest.mark.parametrize(
    ("metric", "values", "best_step"),
    [
        pytest.param("snr_db@2", (1.0, 2.0, 3.0), 6, id="snr-rises"),
        pytest.param("snr_db@2", (1.0, 3.0, 2.0), 3, id="snr-falls-again", marks=pytest.mark.slow),
        pytest.param("snr_db@2", (9.0, 5.0, 7.0), 6, id="start-was-best-but-is-no-checkpoint"),
        pytest.param("mel@2", (3.0, 1.0, 2.0), 3, id="mel-rises-again", marks=pytest.mark.slow),
    ],
)
def test_the_best_checkpoint_is_of_the_step_that_was_validated_best(
    speech, tmp_path, monkeypatch, metric, values, best_step
):
    """Validated at the start and at steps 3 and 6, saved at every step."""
    figures = iter(values)
    rest = {"valid/snr_db@2": 0.0, "valid/range_ratio@2": 1.0}
    monkeypatch.setattr(state_module, "validate", lambda *_: rest | {f"valid/{metric}": next(figures)})
    config = with_update("ema", save_every=1, best_metric=metric)
    train_run(config, speech, tmp_path / "run", Watcher())
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")["step"] == best_step
