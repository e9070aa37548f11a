"""Augmentations: each can be switched off, does what it says by a number, and draws from its generator."""

import dataclasses

import numpy as np
import pytest
import torch

from telucodec.config import DataConfig
from telucodec.train.augment import (
    SPEEDS,
    add_noise,
    augment,
    change_speed,
    draw_speed,
    equalize,
    reverberate,
)

RATE_HZ = 16_000
OFF = DataConfig(
    is_level_random=False, speed_chance=0.0, equalizer_chance=0.0, noise_chance=0.0, reverb_chance=0.0
)
CHANCES = ("speed_chance", "equalizer_chance", "noise_chance", "reverb_chance")


def rng(seed=0):
    return np.random.default_rng(seed)


def noise(n_samples=8000, level=0.1, seed=0):
    return level * torch.randn(n_samples, generator=torch.Generator().manual_seed(seed))


def dbfs(wav):
    return 10 * torch.log10(wav.square().mean()).item()


def tone(frequency_hz, n_samples=8000):
    return 0.1 * torch.sin(2 * torch.pi * frequency_hz / RATE_HZ * torch.arange(n_samples))


def test_with_everything_off_a_crop_is_untouched():
    wav = noise()
    assert torch.equal(augment(wav, RATE_HZ, -20.0, OFF, rng()), wav)
    assert all(draw_speed(OFF, rng(seed)) == (1, 1) for seed in range(50))


@pytest.mark.parametrize("name", [name for name in CHANCES if name != "speed_chance"])
def test_each_change_can_be_switched_on_alone(name):
    wav = noise()
    config = dataclasses.replace(OFF, **{name: 1.0})
    changed = augment(wav, RATE_HZ, -20.0, config, rng())
    assert changed.shape == wav.shape
    assert changed.dtype == torch.float32
    assert (changed - wav).square().mean() > 1e-5 * wav.square().mean()


@pytest.mark.parametrize("chance", [0.3, 1.0])
def test_speeds_are_drawn_as_often_as_asked(chance):
    config = dataclasses.replace(OFF, speed_chance=chance)
    generator = rng()
    drawn = [draw_speed(config, generator) for _ in range(2000)]
    assert np.mean([speed != (1, 1) for speed in drawn]) == pytest.approx(chance, abs=0.03)
    assert set(drawn) - {(1, 1)} == set(SPEEDS)


@pytest.mark.parametrize("speed", SPEEDS, ids=lambda speed: f"{speed[0]}-to-{speed[1]}")
def test_a_speed_change_moves_pitch_by_at_most_an_eighth_and_fills_the_crop(speed):
    n_samples = 4000
    wav = tone(1000, -(-n_samples * speed[0] // speed[1]))
    changed = change_speed(wav, speed, n_samples)
    assert len(changed) == n_samples
    peak_hz = torch.fft.rfft(changed * torch.hann_window(n_samples)).abs().argmax() * RATE_HZ / n_samples
    assert peak_hz.item() == pytest.approx(1000 * speed[0] / speed[1], abs=RATE_HZ / n_samples)
    assert 0.88 <= speed[0] / speed[1] <= 1.125


@pytest.mark.parametrize("level", [-30.0, -14.0])
def test_a_crop_takes_the_level_drawn_for_its_clip(level):
    config = dataclasses.replace(OFF, is_level_random=True, level_min_dbfs=level, level_max_dbfs=level)
    wav = noise()
    assert dbfs(augment(wav, RATE_HZ, dbfs(wav), config, rng())) == pytest.approx(level, abs=0.01)
    quiet_part = augment(0.1 * wav, RATE_HZ, dbfs(wav), config, rng())
    assert dbfs(quiet_part) == pytest.approx(level - 20, abs=0.01)  # stays 20 dB below its clip


def test_levels_fill_the_range_and_both_polarities_occur():
    config = dataclasses.replace(OFF, is_level_random=True, level_min_dbfs=-32.0, level_max_dbfs=-20.0)
    wav, generator = noise(800), rng()
    made = [augment(wav, RATE_HZ, dbfs(wav), config, generator) for _ in range(400)]
    levels = [dbfs(crop) for crop in made]
    assert -32.01 < min(levels) < -31
    assert -21 < max(levels) < -19.99
    assert np.mean([bool(crop @ wav > 0) for crop in made]) == pytest.approx(0.5, abs=0.1)


def test_a_crop_that_would_clip_is_turned_down_as_a_whole():
    config = dataclasses.replace(OFF, is_level_random=True, level_min_dbfs=0.0, level_max_dbfs=0.0)
    wav = noise()
    loud = augment(wav, RATE_HZ, dbfs(wav), config, rng())
    assert loud.abs().max().item() == pytest.approx(0.98, abs=1e-5)
    assert abs(torch.nn.functional.cosine_similarity(loud, wav, dim=0).item()) == pytest.approx(1, abs=1e-5)


def test_the_equalizer_stays_within_its_limits():
    for seed in range(5):
        for frequency_hz in (100, 440, 3000, 7000):
            wav = tone(frequency_hz)
            gain_db = dbfs(equalize(wav, RATE_HZ, rng(seed), max_db=9.0)) - dbfs(wav)
            assert -9.1 < gain_db < 9.1


def test_the_equalizer_of_no_decibels_changes_nothing():
    wav = noise(777)  # an odd length comes back as it was
    torch.testing.assert_close(equalize(wav, RATE_HZ, rng(), max_db=0.0), wav, rtol=0, atol=1e-6)


def test_noise_lies_15_to_40_db_below_the_crop():
    wav, found = noise(), []
    for seed in range(30):
        found.append(dbfs(wav) - dbfs(add_noise(wav, rng(seed)) - wav))
    assert 14.9 < min(found) < 22
    assert 33 < max(found) < 40.1


def test_reverb_keeps_the_direct_sound_and_adds_a_tail_6_to_18_db_below():
    click = torch.zeros(8000)
    click[0] = 1.0
    for seed in range(20):
        wet = reverberate(click, RATE_HZ, rng(seed))
        assert wet[0].item() == pytest.approx(1.0, abs=1e-4)
        assert -18.5 < 10 * torch.log10(wet[1:].square().sum()).item() < -5.5


def test_reverb_never_sounds_before_its_cause():
    wav = torch.zeros(4000)
    wav[2000:] = noise(2000)
    assert reverberate(wav, RATE_HZ, rng())[:2000].abs().max() < 1e-6


@pytest.mark.parametrize(
    "crop", [torch.zeros(400), noise(1), noise(2)], ids=["silent", "1-sample", "2-samples"]
)
def test_strange_crops_pass_with_everything_on(crop):
    config = dataclasses.replace(
        DataConfig(), equalizer_chance=1.0, noise_chance=1.0, reverb_chance=1.0, is_level_random=True
    )
    made = augment(crop, RATE_HZ, -20.0, config, rng())
    assert made.shape == crop.shape
    assert torch.isfinite(made).all()


def test_the_same_generator_gives_the_same_crop():
    config = dataclasses.replace(DataConfig(), equalizer_chance=1.0, noise_chance=1.0, reverb_chance=1.0)
    first, second, third = (augment(noise(), RATE_HZ, -20.0, config, rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
