"""What is done to a crop so that two hours of speech go far; each step switchable by its chance.

Every function is pure: the random numbers come from the generator it is given.

Shapes: T samples.
"""

import math

import numpy as np
import torch
from torch import Tensor

from telucodec.audio import resample
from telucodec.config import DataConfig

SPEEDS = tuple((n, n + 1) for n in (8, 9, 10, 12, 16)) + tuple((n + 1, n) for n in (8, 9, 10, 12, 16))
"""Speed changes as (from, to) rates: 6 to 12 % up or down, in small terms so that resampling is cheap."""


def draw_speed(config: DataConfig, generator: np.random.Generator) -> tuple[int, int]:
    """A pair from `SPEEDS`, or ``(1, 1)``."""
    if generator.random() >= config.speed_chance:
        return 1, 1
    return SPEEDS[generator.integers(len(SPEEDS))]


def change_speed(wav: Tensor, speed: tuple[int, int], n_samples: int) -> Tensor:
    """Resample ``[T]``, pitch and tempo together, and cut to ``n_samples``."""
    return resample(wav, *speed)[:n_samples]


def equalize(wav: Tensor, rate_hz: int, generator: np.random.Generator, max_db: float = 9.0) -> Tensor:
    """Smooth random coloration: gains up to ``max_db`` at five points of a logarithmic frequency axis."""
    spectrum = torch.fft.rfft(wav)
    points = np.geomspace(60, rate_hz / 2, 5)
    gains_db = generator.uniform(-max_db, max_db, len(points))
    bins = np.linspace(0, rate_hz / 2, len(spectrum))
    curve_db = np.interp(np.log(np.maximum(bins, 1)), np.log(points), gains_db)
    gains = torch.from_numpy(10 ** (curve_db / 20)).float()
    colored: Tensor = torch.fft.irfft(spectrum * gains, n=len(wav))
    return colored


def add_noise(wav: Tensor, generator: np.random.Generator) -> Tensor:
    """Stationary noise between white and pink, 15 to 40 dB below the crop."""
    shape = np.arange(1, len(wav) // 2 + 2) ** (-0.5 * generator.random())
    phases = np.exp(2j * math.pi * generator.random(len(shape)))
    noise = torch.from_numpy(np.fft.irfft(shape * phases, n=len(wav))).float()
    gain = wav.square().mean().sqrt() / noise.square().mean().sqrt() * 10 ** (-generator.uniform(15, 40) / 20)
    return wav + gain * noise


def reverberate(wav: Tensor, rate_hz: int, generator: np.random.Generator) -> Tensor:
    """The crop and an exponentially decaying noise tail of it, 60 dB in 0.1 to 0.5 s, 6 to 18 dB below."""
    seconds = generator.uniform(0.1, 0.5)
    n = int(seconds * rate_hz)
    tail = generator.standard_normal(n) * 10 ** (-3 * np.arange(n) / n)
    tail *= 10 ** (-generator.uniform(6, 18) / 20) / np.sqrt(np.square(tail).sum())
    tail[0] = 1.0
    size = len(wav) + n
    wet: Tensor = torch.fft.irfft(
        torch.fft.rfft(wav, size) * torch.fft.rfft(torch.from_numpy(tail).float(), size), n=size
    )
    return wet[: len(wav)]


def augment(
    wav: Tensor, rate_hz: int, clip_dbfs: float, config: DataConfig, generator: np.random.Generator
) -> Tensor:
    """Color, disturb and scale one crop ``[T]``; the peak stays below full scale.

    Args:
        clip_dbfs: RMS of the whole clip, so that a quiet crop of a loud clip stays quiet.
    """
    if generator.random() < config.equalizer_chance:
        wav = equalize(wav, rate_hz, generator)
    if generator.random() < config.reverb_chance:
        wav = reverberate(wav, rate_hz, generator)
    if generator.random() < config.noise_chance:
        wav = add_noise(wav, generator)
    if config.is_level_random:
        level = generator.uniform(config.level_min_dbfs, config.level_max_dbfs)
        sign = 1 if generator.random() < 0.5 else -1
        wav = wav * (sign * 10 ** ((level - clip_dbfs) / 20))
    peak = float(wav.abs().max())
    return wav * (0.98 / peak) if peak > 0.98 else wav
