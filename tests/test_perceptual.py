"""Losses that follow measures of listening: what they must ignore, and what they must hear."""

import pytest
import torch

from telucodec.train.perceptual import AverageSpectrumLoss, DisturbanceLoss, EnvelopeLoss, SimilarityLoss

RATE_HZ = 16_000
DISTURBANCE, ENVELOPE = DisturbanceLoss(RATE_HZ), EnvelopeLoss(RATE_HZ)
SIMILARITY = SimilarityLoss(RATE_HZ)
TIME_S = torch.arange(RATE_HZ) / RATE_HZ


def voice(rms=0.1, seed=0):
    """Harmonics of 150 Hz below 3 kHz that swell and fade four times a second, ``[2, T]``."""
    phases = torch.rand(2, 20, 1, generator=torch.Generator().manual_seed(seed)) * 6.28
    harmonics = torch.arange(1, 21)[:, None]
    tones = (torch.sin(6.2832 * 150 * harmonics * TIME_S + phases) / harmonics).sum(dim=1)
    wav = tones * (0.05 + torch.sin(6.2832 * 2 * TIME_S).square())
    return wav * rms / wav.square().mean(dim=1, keepdim=True).sqrt()


def noise(level, seed=1):
    return level * torch.randn(2, RATE_HZ, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("loss", [DISTURBANCE, ENVELOPE, SIMILARITY])
def test_equal_signals_cost_nothing(loss):
    assert loss(voice(), voice()) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(("loss", "factor"), [(DISTURBANCE, 2), (ENVELOPE, 2), (SIMILARITY, 1.1)])
def test_more_noise_costs_more(loss, factor):
    costs = [loss(voice() + noise(level), voice()).item() for level in (0.001, 0.003, 0.01, 0.03)]
    assert costs == sorted(costs)
    assert costs[-1] > factor * costs[0]


def test_what_is_added_is_worse_than_what_is_missing():
    clean, hiss = voice(), noise(0.01)
    assert DISTURBANCE(clean + hiss, clean) > 1.5 * DISTURBANCE(clean, clean + hiss)


def test_inaudible_noise_costs_nothing():
    assert DISTURBANCE(voice() + noise(1e-6), voice()) < 0.01


def test_disturbance_does_not_depend_on_the_level_of_the_recording():
    loud = DISTURBANCE(voice(0.2) + noise(0.02), voice(0.2))
    quiet = DISTURBANCE(voice(0.05) + noise(0.005), voice(0.05))
    assert loud == pytest.approx(quiet.item(), rel=1e-3)


def test_a_silent_crop_cannot_drown_the_others():
    assert DISTURBANCE(noise(1e-4), torch.zeros(2, RATE_HZ)) < 1.0


def test_envelopes_ignore_a_gain_and_hear_a_flattened_band():
    assert ENVELOPE(0.5 * voice(), voice()) < 0.01
    flat = torch.sin(6.2832 * 450 * TIME_S).expand(2, -1) * 0.1
    assert ENVELOPE(flat, voice()) > 0.5


@pytest.mark.parametrize("loss", [DISTURBANCE, ENVELOPE, SIMILARITY])
@pytest.mark.parametrize("n_samples", [600, RATE_HZ])
def test_gradients_are_finite_on_silence_and_short_crops(loss, n_samples):
    estimate = torch.zeros(2, n_samples, requires_grad=True)
    loss(estimate, torch.zeros(2, n_samples)).backward()
    assert estimate.grad is not None
    assert torch.isfinite(estimate.grad).all()


def test_a_tone_in_place_of_noise_of_the_same_power_is_heard():
    loss = AverageSpectrumLoss()
    clean, hiss = voice(), noise(0.003)
    tone = 0.003 * 2**0.5 * torch.sin(6.2832 * 6_047 * TIME_S)
    assert loss(clean + tone, clean + hiss) > 2 * loss(clean + noise(0.003, seed=2), clean + hiss)


def test_similarity_hears_texture_however_quiet_it_is():
    """Below a loud band, faint noise that swells at other times: what a difference of levels hardly sees."""
    swell = torch.sin(6.2832 * 3 * TIME_S).square()
    hum = 0.1 * torch.sin(6.2832 * 200 * TIME_S)
    target = hum + noise(0.002) * swell
    same, other = hum + noise(0.002, seed=2) * swell, hum + noise(0.002, seed=2) * (1 - swell)
    assert SIMILARITY(other, target) > 1.5 * SIMILARITY(same, target)
