"""The adversary: discriminators that learn, a pull of the size asked for, and runs that go on with both."""

# ruff: noqa: F811 - fixtures of test_training are taken by name

import dataclasses
import math

import pytest
import torch
from test_training import (  # noqa: F401 - fixtures
    CONFIG,
    MODEL,
    Watcher,
    _quick,
    equal,
    make_trainee,
    no_tables,
    speech,
    train_run,
    train_step,
    voiced,
    with_update,
)

from telucodec.config import AdversaryConfig, Config, load_config
from telucodec.errors import ConfigError, ModelError
from telucodec.model.codec import load_codec
from telucodec.train.adversary import build_adversary, mismatch
from telucodec.train.checkpoint import checkpoints, load_checkpoint
from telucodec.train.discriminators import Verdict
from telucodec.train.engine import build_fabric
from telucodec.train.recorder import Recorder

SMALL = AdversaryConfig(share=0.5, n_lead_steps=0, lr=1e-2, channels=4, fft_sizes=(256, 64), periods=(2, 3))
LOSSES = pytest.mark.parametrize("loss", ["hinge", "squares"])


def adversarial(config=CONFIG, **changes):
    """A configuration with small discriminators that pull from the second step on."""
    return dataclasses.replace(config, adversary=dataclasses.replace(SMALL, **changes))


def make_adversary(config, *, n_updates=0):
    """An adversary that has learned for so many steps, with a recording and an estimate ``[2, 1, 2400]``."""
    real = voiced(2400)[None, None].repeat(2, 1, 1) * torch.tensor([1.0, 0.1])[:, None, None]
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(1))
    fake = real + 0.03 * real.abs().amax(dim=2, keepdim=True) * noise
    adversary = build_adversary(config, build_fabric(config.train))
    told = [adversary.update(real, fake) for _ in range(n_updates)]
    return adversary, real, fake, told


def gradient_of(rest, real, fake, adversary=None):
    """What reaches the estimate if the other terms of the loss are ``rest(estimate)``."""
    leaf = fake.clone().requires_grad_()
    estimate = 1.0 * leaf
    if adversary is not None:
        adversary.steer(real, estimate)
    rest(estimate).backward()
    return leaf.grad


# The discriminators


@LOSSES
def test_the_discriminators_learn_to_tell_noise_from_its_absence(loss):
    *_, told = make_adversary(adversarial(loss=loss), n_updates=30)
    assert told[-1]["adversary/loss"] < 0.5 * told[0]["adversary/loss"]
    assert told[-1]["adversary/accuracy"] > 0.75
    assert told[0]["adversary/accuracy"] < 0.65


@pytest.mark.parametrize(
    ("loss", "right", "wrong", "deceived"), [("hinge", 0.0, 6.0, -2.0), ("squares", 1 + 4, 9 + 4, 1.0)]
)
def test_losses_are_those_of_the_papers(loss, right, wrong, deceived):
    adversary, *_ = make_adversary(adversarial(loss=loss))
    high, low = torch.full((2, 3), 2.0), torch.full((2, 3), -2.0)
    assert adversary._loss(high, low).item() == right
    assert adversary._loss(low, high).item() == wrong
    assert adversary._deceit(high).item() == deceived


def test_features_are_compared_relative_to_the_recordings_size():
    ours, theirs = torch.tensor([2.0, -1.0]), torch.tensor([1.0, -1.0])
    for scale in (1.0, 1e3):
        pair = (
            Verdict(ours, (scale * ours, scale * theirs)),
            Verdict(ours, (scale * theirs, scale * theirs)),
        )
        assert mismatch(*pair).item() == pytest.approx(0.25)


@LOSSES
def test_silence_and_values_that_are_not_finite_leave_the_discriminators_sound(loss):
    adversary, real, fake, _ = make_adversary(adversarial(loss=loss), n_updates=1)
    adversary.update(torch.zeros_like(real), torch.zeros_like(fake))
    before = {name: tensor.clone() for name, tensor in adversary.judges.state_dict().items()}
    assert all(torch.isfinite(tensor).all() for tensor in before.values())
    assert torch.isfinite(gradient_of(lambda x: x.sum(), 0 * real, 0 * fake, adversary)).all()
    adversary.update(real, fake * math.nan)
    equal(before, dict(adversary.judges.state_dict()))


# The pull


@pytest.mark.parametrize("feature_part", [0.0, 1.0])
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_pull_is_a_share_of_the_other_terms_whatever_their_scale(feature_part, scale):
    config = adversarial(share=0.25, feature_part=feature_part)
    adversary, real, fake, _ = make_adversary(config, n_updates=2)

    def rest(estimate):
        return scale * (estimate - real).square().mean()

    alone = gradient_of(rest, real, fake)
    added = gradient_of(rest, real, fake, adversary) - alone
    assert (added.norm() / alone.norm()).item() == pytest.approx(0.25, rel=1e-3)


@LOSSES
@pytest.mark.parametrize(("feature_part", "name"), [(0.0, "adversary/deceit"), (1.0, "adversary/features")])
def test_an_estimate_that_follows_the_pull_is_told_less_well(loss, feature_part, name):
    adversary, real, fake, _ = make_adversary(adversarial(loss=loss, feature_part=feature_part), n_updates=10)
    pull = gradient_of(lambda x: x.sum(), real, fake, adversary) - 1  # of the sum: ones
    before = adversary.steer(real, 1.0 * fake.clone().requires_grad_())[name]
    closer = fake - 0.01 * fake.norm() * pull / pull.norm()
    after = adversary.steer(real, 1.0 * closer.requires_grad_())[name]
    assert after < before


def test_steering_leaves_the_estimate_and_the_discriminators_alone():
    adversary, real, fake, _ = make_adversary(adversarial(), n_updates=1)
    adversary.optimizer.zero_grad(set_to_none=True)
    before = {name: tensor.clone() for name, tensor in adversary.judges.state_dict().items()}
    kept = fake.clone()
    gradient_of(lambda x: x.square().mean(), real, fake, adversary)
    assert torch.equal(fake, kept)
    assert all(p.grad is None for p in adversary.judges.parameters())
    equal(before, dict(adversary.judges.state_dict()))


def test_nothing_is_pulled_before_the_discriminators_have_learned_long_enough():
    adversary, real, fake, _ = make_adversary(adversarial(n_lead_steps=2), n_updates=2)
    alone = gradient_of(lambda x: x.sum(), real, fake)
    assert torch.equal(gradient_of(lambda x: x.sum(), real, fake, adversary), alone)
    adversary.update(real, fake)
    assert not torch.equal(gradient_of(lambda x: x.sum(), real, fake, adversary), alone)


# A step and a run with it


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_with_it_reports_the_same_loss_and_gives_other_gradients(precision):
    clip, found = voiced(2400)[None, None].repeat(2, 1, 1), []
    config = adversarial(with_update("ema", precision=precision))
    for is_adversarial in (False, True):
        fabric, trainee, loss = make_trainee(config, clip)
        adversary = build_adversary(config, fabric) if is_adversarial else None
        results = [train_step(fabric, trainee, loss, config, clip, adversary=adversary) for _ in range(2)]
        weights = trainee.codec.decoder.synthesis.weight.detach().clone()
        found.append((results, weights))
    (plain, ours), (pulled, theirs) = found
    equal(plain[0].weighted, pulled[0].weighted)
    assert torch.equal(plain[0].terms["total"], pulled[0].terms["total"])
    assert not torch.equal(ours, theirs)
    told = {name: value for name, value in pulled[1].terms.items() if name.startswith("adversary/")}
    assert told.keys() == {
        f"adversary/{name}" for name in ("loss", "accuracy", "grad_norm", "deceit", "features")
    }
    assert all(torch.isfinite(v) and v.dtype == torch.float32 for v in told.values())


def test_a_resumed_run_equals_one_that_never_stopped_bit_for_bit(speech, tmp_path):
    """Stopped while the discriminators learn alone; the global generators are disturbed before it goes on."""
    config = adversarial(with_update("ema"), start_step=1, n_lead_steps=2)
    train_run(config, speech, tmp_path / "whole", Watcher())
    assert train_run(config, speech, tmp_path / "run", Watcher(at=2)).step == 3
    torch.manual_seed(99)
    watcher = Watcher()
    assert train_run(config, speech, tmp_path / "run", watcher, resume=True).step == 6
    states = [load_checkpoint(checkpoints(tmp_path / name / "checkpoints")[-1]) for name in ("run", "whole")]
    equal(*states)
    assert states[0]["adversary"]["n_updates"] == 5
    assert len(states[0]["adversary"]["optimizer"]["state"]) > 0
    assert not any("anew" in line for line in watcher.lines)
    assert any(line.startswith("adversary: ") and "2 updates old" in line for line in watcher.lines)
    assert any(line.startswith("  adversary: loss") for line in watcher.lines)


@pytest.mark.slow
def test_a_run_without_discriminators_is_resumed_with_fresh_ones(speech, tmp_path):
    train_run(with_update("ema", n_steps=3), speech, tmp_path / "run", Watcher())
    path = checkpoints(tmp_path / "run" / "checkpoints")[-1]
    state = load_checkpoint(path)
    del state["adversary"], state["config"]["adversary"]  # as versions before 0.5 wrote it
    torch.save(state, path)
    watcher = Watcher()
    outcome = train_run(adversarial(with_update("ema")), speech, tmp_path / "run", watcher, resume=True)
    assert outcome.step == 6
    assert [line for line in watcher.lines if "anew" in line] == [
        "the checkpoint holds no discriminators: they start anew"
    ]
    last = load_checkpoint(checkpoints(tmp_path / "run" / "checkpoints")[-1])
    assert last["adversary"]["n_updates"] == 3


def test_a_new_run_can_go_on_with_the_discriminators_of_another(speech, tmp_path):
    first = train_run(adversarial(with_update("ema", n_steps=2)), speech, tmp_path / "first", Watcher())
    old = load_checkpoint(checkpoints(tmp_path / "first" / "checkpoints")[-1])["adversary"]
    config, watcher = (
        adversarial(with_update("ema", n_steps=1), init_from=str(tmp_path / "first"), lr=0.5),
        Watcher(),
    )
    train_run(config, speech, tmp_path / "second", watcher, init_from=first.weights)
    state = load_checkpoint(checkpoints(tmp_path / "second" / "checkpoints")[0])
    assert state["step"] == 0
    equal(state["adversary"]["judges"], old["judges"])
    equal(state["adversary"]["optimizer"]["state"], old["optimizer"]["state"])
    assert state["adversary"]["optimizer"]["param_groups"][0]["lr"] == 0.5
    assert any("2 updates old" in line for line in watcher.lines)
    adversary = build_adversary(config, build_fabric(config.train))
    adversary.take_over(checkpoints(tmp_path / "first" / "checkpoints")[0])
    assert adversary.n_updates == 0  # that checkpoint is of the start


def test_discriminators_that_are_not_there_or_do_not_fit_are_refused(speech, tmp_path):
    train_run(with_update("ema", n_steps=1), speech, tmp_path / "plain", Watcher())
    train_run(adversarial(with_update("ema", n_steps=1)), speech, tmp_path / "other", Watcher())
    for name, message in (
        ("plain", "plain holds no discriminators; name a run with adversary.share above 0"),
        ("nowhere", "cannot read the checkpoint"),
        ("other", r"(?s)other holds discriminators of other settings.*give the same \[adversary\] settings"),
    ):
        config = adversarial(with_update("ema"), init_from=str(tmp_path / name), channels=6)
        adversary = build_adversary(config, build_fabric(config.train))
        with pytest.raises(ModelError, match=message):
            adversary.take_over(tmp_path / name)
    with pytest.raises(ModelError, match="not a checkpoint of this version"):
        train_run(config, speech, tmp_path / "other", Watcher(), resume=True)


def test_it_teaches_a_decoder_alone_and_stays_out_of_the_weights(speech, tmp_path):
    old = train_run(with_update("ema", n_steps=1), speech, tmp_path / "first", Watcher()).weights
    plan = adversarial(with_update("ema", parts="decoder", seed=5))
    new = train_run(plan, speech, tmp_path / "second", Watcher(), init_from=old).weights
    assert load_codec(new).model_id == load_codec(old).model_id
    assert (new / "config.json").read_bytes() == (old / "config.json").read_bytes()
    assert load_codec(new).state_dict().keys() == load_codec(old).state_dict().keys()


def test_figures_of_steps_before_it_came_in_are_not_averaged_with_those_after():
    config, clip = adversarial(n_lead_steps=1), voiced(2400)[None, None]
    fabric, trainee, loss = make_trainee(config, clip)
    adversary, recorder = build_adversary(config, fabric), Recorder()
    results = [
        train_step(fabric, trainee, loss, config, clip, adversary=judge)
        for judge in (None, adversary, adversary, adversary)
    ]
    for result in results:
        recorder.add(result)
    reading = recorder.reading(4, trainee.learner.usage.numel())
    assert reading["total"] == pytest.approx(sum(r.terms["total"].item() for r in results[2:]) / 2)


# Settings


def test_there_is_none_unless_it_is_asked_for():
    assert build_adversary(Config(), build_fabric(CONFIG.train)) is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("adversary.share=-1", r"adversary\.share is -1\.0; expected 0 for no adversary, or"),
        ("adversary.loss=wgan", r'adversary\.loss is \'wgan\'; expected "hinge" or "squares"'),
        ("adversary.feature_part=2", r"adversary\.feature_part is 2\.0; expected a share"),
        ("adversary.n_lead_steps=-1", r"adversary\.n_lead_steps is -1; expected at least 0"),
        ("adversary.lr=0", r"adversary\.lr is 0\.0; expected a number above 0"),
        ("adversary.periods=[1]", r"adversary\.periods is \(1,\); expected periods from 2 on"),
        ("adversary.fft_sizes=[30]", r"adversary\.fft_sizes is \(30,\); expected multiples of 4 from 64 on"),
        ("data.crop_s=0.03", r"adversary\.fft_sizes is .* expected sizes below 960, twice the samples of"),
        ("adversary.shares=1", r"did you mean adversary\.share\?"),
    ],
)
def test_settings_that_cannot_work_are_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(overrides=["adversary.share=0.5", override])


def test_at_least_one_discriminator_is_needed_and_something_that_learns():
    with pytest.raises(ConfigError, match="at least one size"):
        AdversaryConfig(fft_sizes=(), periods=())
    lattice = ["model.quantizer.sweeps=[2]", "model.quantizer.n_codebooks=2", "train.parts=tables"]
    with pytest.raises(ConfigError, match="nothing learns"):
        load_config(overrides=[*lattice, "model.quantizer.codebook_size=256", "adversary.share=1"])
