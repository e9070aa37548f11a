"""Checks of the recordings: silence, clipping, offset, copies, bandwidth, rates, loudness, amount.

Shapes: T samples, N windows, F frequency bins.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from telucodec.audio import find_audio, reading
from telucodec.errors import TelucodecError
from telucodec.train.data import Corpus
from telucodec.train.diagnostics.diagnosis import Diagnosis, diagnose

Samples = NDArray[np.float32]

N_CLIPS, CLIP_S, N_FILES = 200, 10.0, 500  # looked at, spread evenly over the corpus
SILENT_DBFS = -60.0
SILENT_SHARE = 0.6  # of windows; read speech: 0.05 to 0.3
CLIPPED_SHARE = 0.002  # of a clip's samples in runs at its peak
OFFSET = 0.01  # of full scale
NARROW = 0.62  # of the model's band
SERIOUS_SHARE = 0.3  # of the clips; below it is a warning
SKIPPED_SHARE, SPREAD_DB, LITTLE_MINUTES = 0.2, 30.0, 10.0


@dataclass(frozen=True)
class ClipFacts:
    """What one clip looks like."""

    name: str
    silent_share: float
    clipped_share: float
    offset: float
    bandwidth: float  # highest frequency in use, over half the rate
    digest: bytes


def look_at(name: str, wav: Samples, rate_hz: int) -> ClipFacts:
    """Measure ``[T]``."""
    digest = hashlib.sha256(wav.tobytes()).digest()
    wav = wav[: round(CLIP_S * rate_hz)]
    windows = _windows(wav, rate_hz // 50)
    levels = 10 * np.log10(np.square(windows - windows.mean(axis=1, keepdims=True)).mean(axis=1) + 1e-20)
    return ClipFacts(
        name=name,
        silent_share=float((levels < SILENT_DBFS).mean()) if len(levels) else 1.0,
        clipped_share=_clipped_share(wav),
        offset=abs(float(wav.mean())) if len(wav) else 0.0,
        bandwidth=_bandwidth(wav, rate_hz),
        digest=digest,
    )


def check_recordings(corpus: Corpus) -> tuple[list[Diagnosis], list[str]]:
    """Findings, and lines for a person."""
    chosen = np.unique(np.linspace(0, len(corpus.names) - 1, N_CLIPS).round().astype(int)).tolist()
    clips = [look_at(corpus.names[i], corpus.clip(i).numpy(), corpus.rate_hz) for i in chosen]
    silence = float(np.mean([clip.silent_share for clip in clips]))
    levels = np.percentile(corpus.rms_dbfs, [5, 95])
    found = [
        _shared("data-clipped", [c.name for c in clips if c.clipped_share > CLIPPED_SHARE], len(clips)),
        _shared("dc-offset", [c.name for c in clips if c.offset > OFFSET], len(clips)),
        _shared("data-band-limited", [c.name for c in clips if c.bandwidth < NARROW], len(clips)),
        _copies(clips),
    ]
    if silence > SILENT_SHARE:
        found.append(diagnose("data-silent", 0, {"share of silence": silence, "threshold": SILENT_SHARE}))
    n_files = len(corpus.skipped) + len(corpus.names)
    if len(corpus.skipped) > SKIPPED_SHARE * n_files:
        found.append(_unreadable(corpus, n_files))
    if levels[1] - levels[0] > SPREAD_DB:
        found.append(diagnose("data-loudness", 0, {"spread dB": float(levels[1] - levels[0])}))
    if corpus.minutes < LITTLE_MINUTES:
        found.append(diagnose("data-little", 0, {"minutes": corpus.minutes, "threshold": LITTLE_MINUTES}))
    bands = np.percentile([clip.bandwidth for clip in clips], 50) * corpus.rate_hz / 2
    line = (
        f"data: {corpus.minutes:.1f} min in {len(corpus.names)} clips, {len(_speakers(corpus))} speakers by "
        f"name, {100 * silence:.0f} % silence, levels {levels[0]:.0f} to {levels[1]:.0f} dBFS, "
        f"usual bandwidth {bands / 1000:.1f} kHz"
    )
    return [diagnosis for diagnosis in found if diagnosis is not None], [line]


def check_rates(folder: Path, rate_hz: int) -> tuple[list[Diagnosis], list[str]]:
    """Rates as the files give them, before conversion."""
    files = find_audio(folder)
    chosen = np.unique(np.linspace(0, len(files) - 1, N_FILES).round().astype(int)).tolist()
    counts: dict[int, int] = {}
    for index in chosen:
        try:
            with reading(files[index], rate_hz) as (info, _):
                counts[info.rate_hz] = counts.get(info.rate_hz, 0) + 1
        except TelucodecError:
            continue  # named when the corpus was read
    shown = ", ".join(f"{rate} Hz: {count}" for rate, count in sorted(counts.items()))
    lower = sum(count for rate, count in counts.items() if rate < rate_hz)
    found = []
    if lower:
        found.append(diagnose("data-rates", 0, {"files below it": float(lower), "rates": shown}))
    return found, [f"rates of the files looked at: {shown}"]


def _shared(name: str, clips: list[str], n_clips: int) -> Diagnosis | None:
    """Serious if it concerns many clips, a warning if it concerns a few."""
    if not clips:
        return None
    share = len(clips) / n_clips
    found = diagnose(name, 0, {"share of clips": share, "threshold": SERIOUS_SHARE, "the first": clips[0]})
    return replace(found, is_warning=share < SERIOUS_SHARE)


def _copies(clips: list[ClipFacts]) -> Diagnosis | None:
    seen: dict[bytes, str] = {}
    pairs = [(seen.setdefault(clip.digest, clip.name), clip.name) for clip in clips]
    copies = [f"{first} = {second}" for first, second in pairs if first != second]
    return diagnose("data-duplicates", 0, {"copies": len(copies), "the first": copies[0]}) if copies else None


def _unreadable(corpus: Corpus, n_files: int) -> Diagnosis:
    first = corpus.skipped[0]
    return diagnose("data-unreadable", 0, {"skipped": len(corpus.skipped), "of": n_files, "the first": first})


def _speakers(corpus: Corpus) -> set[str]:
    return {name.replace("-", "_").split("_")[0] for name in corpus.names}


def _windows(wav: Samples, size: int) -> NDArray[np.float32]:
    """``[T]`` -> whole windows ``[N, size]``."""
    return wav[: len(wav) // size * size].reshape(-1, size)


def _clipped_share(wav: Samples) -> float:
    """Share of samples that stand at the peak together with both neighbors."""
    peak = np.abs(wav).max(initial=0.0)
    if peak < 0.1:
        return 0.0
    is_flat = (np.abs(wav[1:-1]) >= 0.999 * peak) & (wav[1:-1] == wav[2:]) & (wav[1:-1] == wav[:-2])
    return float(is_flat.mean())


def _bandwidth(wav: Samples, rate_hz: int) -> float:
    """Highest share of the band above which loud windows ever have a thousandth of their energy."""
    windows = _windows(wav, rate_hz // 25)
    if not len(windows):
        return 1.0
    power = np.square(np.abs(np.fft.rfft(windows * np.hanning(windows.shape[1]), axis=1)))  # [N, F]
    energy = power.sum(axis=1)
    power = power[energy > 1e-3 * energy.max()]
    if not len(power):
        return 1.0
    above = np.cumsum(power[:, ::-1], axis=1)[:, ::-1] / power.sum(axis=1, keepdims=True)
    often = np.percentile(above, 98, axis=0)  # [F], falling
    return float((often > 1e-3).sum() / len(often))
