"""What a codec that works in frames leaves of its frame rate in the sound, as JSON.

    python benchmarks/buzz.py FOLDER... --model DIR [--codebooks 12] [--every 4]

Two traces, neither of which PESQ, STOI or ViSQOL minds: the *ripple*, how far the average spectrum of decoded
recordings goes up and down with the frame rate as its period, in dB from the highest to the lowest phase;
and the *lines*, how far periodic changes of loudness in decoded steady noise stand out of the random ones,
in dB over their neighbors in the spectrum of the envelope, at each multiple of the frame rate. Both by band,
beside those of the recordings and of the noise themselves.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bitstream import machine
from numpy.typing import NDArray
from scipy.signal import butter, hilbert, lfilter, sosfiltfilt

from telucodec.audio import find_audio, read_audio
from telucodec.model.codec import Codec
from telucodec.pipeline import open_codec

BANDS_HZ = ((300, 800), (800, 1500), (1500, 2400), (2400, 3200), (3200, 3900), (4100, 5000), (5000, 7000))
WINDOW_S = 0.1
LINES = (1, 2, 3, 4, 8)  # multiples of the frame rate
NOISE_S = 20

Wav = NDArray[np.float64]


def heard(codec: Codec, wav: Wav, n_codebooks: int) -> Wav:
    """``wav`` ``[T]`` through the first stages of ``codec`` and back."""
    codes = codec.encode(torch.from_numpy(wav).float()[None, None])[:, :n_codebooks]
    decoded: Wav = codec.decode(codes, n_samples=len(wav))[0, 0].double().numpy()
    return decoded


def power(wav: Wav, size: int) -> NDArray[np.float64]:
    """Average power spectrum ``[size // 2 + 1]``."""
    frames = np.lib.stride_tricks.sliding_window_view(wav, size)[:: size // 2]
    found: NDArray[np.float64] = np.square(np.abs(np.fft.rfft(frames * np.hanning(size)))).mean(axis=0)
    return found


def ripple_db(level_db: NDArray[np.float64], frame_rate_hz: float) -> list[float]:
    """Of a spectrum in steps of ``1 / WINDOW_S``, in each of `BANDS_HZ`."""
    frequency = np.arange(len(level_db)) / WINDOW_S
    smooth = np.convolve(level_db, np.ones(35) / 35, mode="same")
    phase = frequency % frame_rate_hz
    found = []
    for low, high in BANDS_HZ:
        inside = (frequency >= low) & (frequency < high)
        means = [(level_db - smooth)[inside & (phase == place)].mean() for place in np.unique(phase)]
        found.append(round(float(max(means) - min(means)), 2))
    return found


def lines_db(wav: Wav, rate_hz: int, frame_rate_hz: float) -> list[list[float]]:
    """For each of `BANDS_HZ` how far each of `LINES` stands out of the envelope's spectrum of noise."""
    found = []
    for band in BANDS_HZ:
        inside = sosfiltfilt(butter(4, band, "band", fs=rate_hz, output="sos"), wav)
        envelope = np.abs(hilbert(inside))
        spectrum = power(envelope / envelope.mean() - 1, rate_hz)  # steps of 1 Hz
        places = [round(line * frame_rate_hz) for line in LINES]
        over = [spectrum[at - 1 : at + 2].max() / np.median(spectrum[at - 20 : at + 20]) for at in places]
        found.append([round(10 * float(np.log10(ratio)), 1) for ratio in over])
    return found


def measure(codec: Codec, paths: list[Path], n_codebooks: int) -> dict[str, Any]:
    """Ripple over the recordings in ``paths``, and lines of noise with a spectrum like speech."""
    rate_hz, frame_rate_hz = codec.config.sample_rate_hz, codec.config.frame_rate_hz
    size = round(WINDOW_S * rate_hz)
    levels = []
    for path in paths:
        wav = read_audio(path, rate_hz)[0][0].double().numpy()
        pair = [power(signal, size) + 1e-12 for signal in (wav, heard(codec, wav, n_codebooks))]
        levels.append([10 * np.log10(power_) for power_ in pair])
    recorded, decoded = np.mean(levels, axis=0)
    noise = lfilter([1], [1, -0.7], np.random.default_rng(0).normal(0, 1, NOISE_S * rate_hz))
    noise *= 0.03 / noise.std()
    return {
        "codebooks": n_codebooks,
        "clips": len(paths),
        "bands_hz": BANDS_HZ,
        "ripple_db": ripple_db(decoded - recorded, frame_rate_hz),
        "ripple_of_recordings_db": ripple_db(recorded, frame_rate_hz),
        "lines_hz": [round(line * frame_rate_hz) for line in LINES],
        "lines_db": lines_db(heard(codec, noise, n_codebooks), rate_hz, frame_rate_hz),
        "lines_of_noise_db": lines_db(noise, rate_hz, frame_rate_hz),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--model", default="speech-16k")
    parser.add_argument("--codebooks", type=int, default=12)
    parser.add_argument("--every", type=int, default=4, help="take every n-th clip")
    arguments = parser.parse_args()
    codec = open_codec(arguments.model, device="cpu")
    paths = [path for folder in arguments.folders for path in find_audio(folder)][:: arguments.every]
    print(json.dumps(measure(codec, paths, arguments.codebooks) | {"machine": machine()}, indent=1))


if __name__ == "__main__":
    main()
