"""Signals and codes as pictures: spectrograms, their difference, waveforms, use of the codebooks.

Raster pictures are WebP data URIs, light paper with dark ink; a dark page inverts them. Time runs to the
right over the whole width of each, so that pictures of one clip line up.

Shapes: T samples, M bands of the picture, Q codebooks, L frames.
"""

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from telucodec.bitstream.bitpack import ABSENT
from telucodec.evaluate.listening.clip import Signal

Floats = NDArray[np.float64]

N_COLUMNS = 520  # of a spectrogram and of a waveform, at most
N_BANDS = 128
RANGE_DB = 70.0
DIFFERENCE_DB = 24.0
_WINDOW_S = 0.025
_HOP_S = 0.004
_SMOOTHED = (5, 7)  # bands and columns, odd
_TILT_HZ = 500.0  # above it spectrograms rise by 6 dB per octave, or consonants would hardly show
_QUALITY = 62
_SMOOTH_QUALITY = 85  # blocks show more where there is no grain
_INK = ((0.0, (255, 255, 255)), (0.25, (205, 216, 229)), (0.5, (126, 150, 184)), (0.75, (52, 78, 126)),
        (1.0, (9, 16, 40)))  # fmt: skip
_SIGNED = ((0.0, (14, 72, 150)), (0.25, (116, 164, 222)), (0.5, (255, 255, 255)), (0.75, (244, 164, 96)),
           (1.0, (176, 62, 4)))  # fmt: skip


@dataclass(frozen=True, slots=True)
class StageUse:
    """What a stage used of its codebook in one stream."""

    stage: int  # from 1, coarse first
    n_used: int  # different codewords
    entropy_bits: float  # of their frequencies, per frame that has this stage; 0 without any


def spectrogram_db(wav: Signal, rate_hz: int) -> Floats:
    """``[T]`` -> ``[M, columns]``: power in dB, low bands first, tilted for sight. Hann window of 25 ms."""
    n_window = round(_WINDOW_S * rate_hz)
    hop = max(1.0, _HOP_S * rate_hz, wav.size / N_COLUMNS)
    starts = np.rint(np.arange(0, max(1, wav.size), hop)).astype(int)
    padded = np.pad(wav.astype(np.float64), (n_window // 2, n_window))
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_window)[starts] * np.hanning(n_window)
    n_fft = 4 * N_BANDS
    power = np.abs(np.fft.rfft(frames, n_fft, axis=1)[:, : 2 * N_BANDS]) ** 2
    power *= 1.0 + (np.fft.rfftfreq(n_fft, 1.0 / rate_hz)[: 2 * N_BANDS] / _TILT_HZ) ** 2
    bands = power.reshape(len(starts), N_BANDS, 2).mean(axis=2).T
    decibels: Floats = 10.0 * np.log10(bands + 1e-12)
    return decibels


def spectrogram_uri(decibels: Floats, top_db: float) -> str:
    """A spectrogram as a picture: ink from ``top_db`` down to 70 dB below it, where the paper begins."""
    return _webp(_painted((decibels - top_db) / RANGE_DB + 1.0, _INK))


def difference_uri(reference_db: Floats, estimate_db: Floats, top_db: float) -> str:
    """Estimate less reference, dB: blue where energy is missing, orange where it was added, 24 dB at most.

    Power is averaged over neighbors, for the fine grain of noise differs always and means nothing. Both
    are raised to the floor of the spectrogram first, so that what nobody can see does not differ.
    """
    floor = top_db - RANGE_DB
    difference = np.maximum(_smoothed(estimate_db), floor) - np.maximum(_smoothed(reference_db), floor)
    return _webp(_painted(0.5 + difference / (2.0 * DIFFERENCE_DB), _SIGNED), quality=_SMOOTH_QUALITY)


def waveform_path(wav: Signal, full_scale: float) -> str:
    """The envelope of ``[T]`` as an SVG path in a box of `N_COLUMNS` by 200, zero at 100."""
    edges = np.linspace(0, wav.size, min(N_COLUMNS, wav.size) + 1).astype(int)[:-1]
    scale = 99.0 / full_scale if full_scale > 0.0 else 0.0
    highs = np.rint(100.0 - scale * np.maximum.reduceat(wav, edges).astype(np.float64)).astype(int)
    lows = np.rint(100.0 - scale * np.minimum.reduceat(wav, edges).astype(np.float64)).astype(int)
    x = np.rint(np.linspace(0, N_COLUMNS, len(edges))).astype(int)
    outline = np.stack([np.concatenate([x, x[::-1]]), np.concatenate([highs, lows[::-1] + 1])])
    steps = " ".join(f"{dx} {dy}" for dx, dy in np.diff(outline).T)
    return f"M{outline[0, 0]} {outline[1, 0]}l{steps}z"


def code_use(codes: NDArray[Any]) -> list[StageUse]:
    """What each stage of ``[Q, L]`` used."""
    uses = []
    for stage, line in enumerate(codes, 1):
        _, counts = np.unique(line[line != ABSENT], return_counts=True)
        share = counts / max(1, counts.sum())
        uses.append(StageUse(stage, len(counts), float(-(share * np.log2(share)).sum()) + 0.0))
    return uses


def codes_uri(codes: NDArray[Any]) -> str:
    """``[Q, L]`` as a picture, a row for each stage: the darker, the more often the clip uses a word.

    Blank paper is a frame that goes without the stage (`ABSENT`).
    """
    use = np.zeros(codes.shape)
    for stage, line in enumerate(codes):
        _, place, counts = np.unique(line, return_inverse=True, return_counts=True)
        use[stage] = np.log(counts[place])
    is_sent = codes != ABSENT
    most = max(float(use[is_sent].max(initial=0.0)), np.log(2.0))
    picture = _painted(np.where(is_sent, 0.08 + 0.56 * use / most, 0.0), _INK)
    return _webp(picture[::-1], lossless=True)


def _smoothed(decibels: Floats) -> Floats:
    """Mean power over `_SMOOTHED` neighbors in bands and columns, in dB again."""
    power = 10.0 ** (decibels / 10.0)
    padded = np.pad(power, [(n // 2, n // 2) for n in _SMOOTHED], mode="edge")
    neighbors = np.lib.stride_tricks.sliding_window_view(padded, _SMOOTHED)
    smooth: Floats = 10.0 * np.log10(neighbors.mean(axis=(2, 3)))
    return smooth


def _painted(level: Floats, ramp: tuple[tuple[float, tuple[int, int, int]], ...]) -> NDArray[np.uint8]:
    """Levels from 0 to 1 ``[rows, columns]``, bottom first, to colors ``[rows, columns, 3]``, top first."""
    places = [place for place, _ in ramp]
    channels = [np.interp(level[::-1], places, [color[channel] for _, color in ramp]) for channel in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def _webp(picture: NDArray[np.uint8], *, quality: int = _QUALITY, lossless: bool = False) -> str:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(file, "WEBP", quality=quality, lossless=lossless)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
