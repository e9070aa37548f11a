"""Loss terms: zero on identity, positive elsewhere, float32 always, finite gradients on silence."""

import dataclasses

import pytest
import torch

from telucodec.config import LossConfig
from telucodec.train.losses import ReconstructionLoss, range_mismatch, rms_mismatch

NAMES = [f.name for f in dataclasses.fields(LossConfig) if f.name != "vq"]
TERMS = pytest.mark.parametrize("name", NAMES)
NONE = dict.fromkeys(NAMES, 0.0)


@pytest.fixture(scope="module")
def loss():
    """Every term at once; the reference of the weights does not matter, terms are unweighted."""
    return ReconstructionLoss(LossConfig(**dict.fromkeys(NAMES, 1.0)), 16_000)


def speech(seed=0, n_items=2, level=0.1):
    generator = torch.Generator().manual_seed(seed)
    n = torch.arange(4096)
    pitch = torch.tensor([0.05, 0.08, 0.06])[:n_items, None]
    voiced = sum(torch.sin(k * pitch * n) / k for k in range(1, 12))
    noise = torch.randn(n_items, 4096, generator=generator)
    return level * (voiced + 0.1 * noise)[:, None]


@TERMS
def test_a_term_is_zero_on_identity_and_positive_elsewhere(loss, name):
    wav = speech()
    assert loss(wav, wav)[name].item() == pytest.approx(0, abs=1e-5)
    if name != "envelope":  # which ignores a gain
        assert loss(0.5 * wav, wav)[name] > 1e-3
    if name not in ("rms", "disturbance"):  # which have a dead zone, or ignore the shape
        other = speech(seed=1)
        assert loss(wav + 0.01 * (other - wav), wav)[name] > 1e-8


def test_terms_are_named_as_their_weights_and_only_those_with_a_weight_are_computed():
    wav = speech()
    assert list(ReconstructionLoss(LossConfig(**NONE), 16_000)(wav, wav)) == []
    for name in NAMES:
        only = ReconstructionLoss(LossConfig(**(NONE | {name: 2.0})), 16_000)
        assert list(only(wav, wav)) == [name]


@TERMS
def test_a_term_does_not_carry_its_weight(loss, name):
    wav, other = speech(), speech(seed=1, level=0.05)
    heavy = ReconstructionLoss(LossConfig(**(NONE | {name: 50.0})), 16_000)
    assert torch.equal(heavy(other, wav)[name], loss(other, wav)[name])


@TERMS
@pytest.mark.parametrize("silent", ["estimate", "target", "both"])
def test_silence_has_finite_values_and_gradients(loss, name, silent):
    estimate = torch.zeros(2, 1, 4096) if silent != "target" else speech()
    target = torch.zeros(2, 1, 4096) if silent != "estimate" else speech()
    estimate.requires_grad_()
    value = loss(estimate, target)[name]
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(estimate.grad).all()


@TERMS
def test_a_silent_estimate_of_sound_has_a_way_out(loss, name):
    estimate = (1e-4 * speech(seed=1)).requires_grad_()
    loss(estimate, speech())[name].backward()
    assert estimate.grad.any()


@TERMS
def test_terms_are_float32_and_the_same_under_autocast(loss, name):
    estimate, target = speech(seed=1).requires_grad_(), speech()
    outside = loss(estimate, target)[name]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(estimate, target)[name]
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)
    inside.backward()
    assert torch.isfinite(estimate.grad).all()


@TERMS
def test_half_precision_estimates_are_raised_to_float32(loss, name):
    estimate, target = speech(seed=1).bfloat16(), speech()
    value = loss(estimate, target)[name]
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(estimate.float(), target)[name])


@TERMS
def test_a_batch_of_copies_scores_as_one(loss, name):
    estimate, target = speech(seed=1, n_items=1), speech(n_items=1)
    alone = loss(estimate, target)[name].item()
    assert loss(estimate.repeat(3, 1, 1), target.repeat(3, 1, 1))[name].item() == pytest.approx(
        alone, rel=1e-4
    )


@pytest.mark.parametrize(("name", "power"), [("l1", 1), ("mse", 2)])
def test_waveform_terms_have_known_values_and_no_clamp(loss, name, power):
    target = torch.zeros(2, 1, 4096)
    for error in (1e-3, 1.0, 1e4):
        value = loss(target + error, target)[name].item()
        assert value == pytest.approx(error**power, rel=1e-5)


def test_rms_is_matched_by_item_and_on_amplitudes():
    target = torch.cat([torch.full((1, 1, 8), 0.1), torch.full((1, 1, 8), 0.4)])
    swapped = target.flip(0)  # the mean level of the batch is right, that of each item is not
    assert rms_mismatch(swapped, target).item() == pytest.approx((0.3 / 0.101 + 0.3 / 0.401) / 2, rel=1e-3)
    assert rms_mismatch(-target, target).item() == pytest.approx(0, abs=1e-5)


def test_louder_and_softer_by_the_same_step_cost_the_same_rms():
    target = torch.full((1, 1, 8), 0.2)
    assert rms_mismatch(1.5 * target, target).item() == pytest.approx(
        rms_mismatch(0.5 * target, target).item(), rel=1e-4
    )


def test_nothing_is_trained_or_saved_in_a_loss(loss):
    assert list(loss.parameters()) == []
    assert not any(name.startswith(("mel.", "spectrum.")) for name in loss.state_dict())


def test_a_blunt_pulse_of_the_same_level_costs_range_and_no_rms():
    sharp, blunt = torch.zeros(1, 1, 1600), torch.zeros(1, 1, 1600)
    sharp[..., 100::800] = 0.8
    blunt[..., 100::800] = blunt[..., 101::800] = blunt[..., 102::800] = blunt[..., 103::800] = 0.4
    assert rms_mismatch(blunt, sharp).item() == pytest.approx(0, abs=1e-5)
    assert range_mismatch(blunt, sharp).item() == pytest.approx(0.4 / 0.801, rel=1e-4)
    assert range_mismatch(sharp[..., :50], sharp[..., :50]).item() == 0  # shorter than a frame
