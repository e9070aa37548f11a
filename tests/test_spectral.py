"""Spectra read known levels, and silence has a gradient."""

import math

import pytest
import torch

from telucodec.spectral import log_mel, magnitude_stft, mel_filters


@pytest.mark.parametrize("n_fft", [64, 512, 2048])
def test_a_full_scale_sine_reads_one_half_at_any_size(n_fft):
    n = torch.arange(8192, dtype=torch.float64)
    sine = torch.sin(2 * math.pi * n / 16)[None]  # a bin of every size that 16 divides
    magnitudes = magnitude_stft(sine, n_fft, n_fft // 4, torch.hann_window(n_fft, dtype=torch.float64))
    assert magnitudes[0, n_fft // 16, magnitudes.shape[2] // 2].item() == pytest.approx(0.5, abs=1e-6)


def test_silence_reads_the_floor_with_a_finite_gradient():
    wav = torch.zeros(1, 512, requires_grad=True)
    magnitudes = magnitude_stft(wav, 64, 16, torch.hann_window(64))
    magnitudes.sum().backward()
    assert magnitudes.max().item() == pytest.approx(1e-7, rel=1e-3)
    assert torch.isfinite(wav.grad).all()


@pytest.mark.parametrize(("n_fft", "n_mels"), [(64, 10), (256, 40), (1024, 96)])
def test_every_mel_band_is_a_mean_over_bins(n_fft, n_mels):
    filters = mel_filters(16_000, n_fft, n_mels)
    assert filters.shape == (n_mels, n_fft // 2 + 1)
    assert filters.min() >= 0
    torch.testing.assert_close(filters.sum(dim=1), torch.ones(n_mels), rtol=0, atol=1e-5)


def test_mel_bands_rise_in_frequency():
    filters = mel_filters(16_000, 1024, 80)
    centers = filters @ torch.arange(513.0)
    assert (centers.diff() > 0).all()


def test_the_picture_of_a_tone_peaks_where_the_tone_is():
    n = torch.arange(8192)
    low, high = (log_mel(torch.sin(2 * math.pi * f / 16_000 * n), 16_000) for f in (300, 3000))
    assert low.shape == (80, 33)
    assert low[:, 16].argmax() < high[:, 16].argmax()
    assert log_mel(torch.zeros(8192), 16_000).max().item() == pytest.approx(-5)
