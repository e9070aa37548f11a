"""Audio files to float32 ``[1, T]`` at the wanted rate, and back. Door of soundfile and torchaudio.

Anything that libsndfile reads comes in, at any rate and with any number of channels: channels are
averaged, then the rate is converted by the one resampler of the project with fixed parameters, in blocks
cut at the same places however the signal arrives, so that the same file gives the same samples, and so
the same codes, wherever and however it is read. No file need lie in memory whole.

What cannot be used is refused here, once, with the file's name: missing, empty, cut short, not audio,
NaN or infinite samples. A file of 0 samples is legal and gives ``[1, 0]``.

Shapes: C audio channels, T samples.
"""

import errno
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torchaudio.functional import resample as torchaudio_resample
from torchaudio.transforms import Resample

from telucodec.errors import AudioError
from telucodec.files import check_readable, replacing

AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf",
     ".w64", ".rf64"}
)  # fmt: skip
WRITABLE_SUFFIXES = {".wav": "WAV", ".flac": "FLAC"}

_BLOCK_SAMPLES = 1 << 20  # read at a time, so that a long file with many channels never lies in memory whole
_RATES_HZ = (1_000, 1_000_000)  # outside this, the header is damaged rather than the recording unusual
_MAX_RATIO_TERM = 4_096
_RESAMPLED_BLOCK_S = 0.5  # converted at a time, a little more than less
_RESAMPLER = {  # the "kaiser best" preset of the torchaudio documentation
    "lowpass_filter_width": 64,
    "rolloff": 0.9475937167399596,
    "resampling_method": "sinc_interp_kaiser",
    "beta": 14.769656459379492,
}

Samples = NDArray[np.float32]
"""``[T]``, one channel, full scale at 1.0."""


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """A file as it was found, before channels were averaged and the rate was converted."""

    path: Path
    rate_hz: int
    n_channels: int
    n_samples: int  # per channel

    @property
    def seconds(self) -> float:
        """Duration of the recording."""
        return self.n_samples / self.rate_hz

    def changes(self, rate_hz: int) -> str:
        """What reading at ``rate_hz`` did to the signal, for a person; empty if nothing."""
        steps = []
        if self.n_channels > 1:
            steps.append(f"{self.n_channels} channels mixed down to 1")
        if self.rate_hz != rate_hz:
            steps.append(f"resampled from {self.rate_hz} Hz to {rate_hz} Hz")
        return ", ".join(steps)


def read_audio(path: Path, rate_hz: int) -> tuple[Tensor, AudioInfo]:
    """Read ``path`` as one channel at ``rate_hz``.

    Returns:
        Float32 ``[1, T]``, full scale at 1.0, and what the file held.

    Raises:
        AudioError: the file is not audio, is cut short, or holds NaN or infinite samples.
        TelucodecError: there is no such file.
    """
    with reading(path, rate_hz) as (info, blocks):
        parts = list(blocks)
    wav = np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
    return torch.from_numpy(wav).unsqueeze(0), info


def audio_info(path: Path) -> AudioInfo:
    """What the header of ``path`` says; raises as `read_audio`, of the header's faults."""
    with _opened(path) as file:
        return _info(path, file)


@contextmanager
def reading(path: Path, rate_hz: int) -> Iterator[tuple[AudioInfo, Iterator[Samples]]]:
    """Open ``path`` to read block by block: what it holds, and its one channel at ``rate_hz`` as ``[T]``.

    The samples are those of `read_audio`. Raises as it does, some only when the block at fault is reached.
    """
    with _opened(path) as file:
        info = _info(path, file)
        yield info, converted(_whole(path, info, _mono_blocks(path, file)), info.rate_hz, rate_hz)


def _whole(path: Path, info: AudioInfo, blocks: Iterator[Samples]) -> Iterator[Samples]:
    """``blocks``, or an `AudioError` after the last of them if there were fewer samples than announced."""
    n_samples = 0
    for block in blocks:
        n_samples += len(block)
        yield block
    if n_samples < info.n_samples:
        raise AudioError(
            f"{path} is cut short: {n_samples} samples decode, its header announces {info.n_samples}; "
            "get a complete copy"
        )


def resampled_length(n_samples: int, from_hz: int, to_hz: int) -> int:
    """Samples that ``n_samples`` become: the duration, rounded up."""
    return -(-n_samples * to_hz // from_hz)


def resample(wav: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """Convert ``[..., T]`` to ``[..., ceil(T * to_hz / from_hz)]``; ``wav`` itself if the rates are equal.

    A ratio whose terms stay below 4096 after reduction, every usual pair of rates among them, is exact.
    Any other is replaced by the nearest that does: the speed is then off by less than 0.02 %.
    """
    n_samples = resampled_length(wav.shape[-1], from_hz, to_hz)
    if from_hz == to_hz or not n_samples:
        return wav
    ratio = _usable(Fraction(to_hz, from_hz))
    out: Tensor = torchaudio_resample(wav, ratio.denominator, ratio.numerator, **_RESAMPLER)
    return torch.nn.functional.pad(out, (0, max(0, n_samples - out.shape[-1])))[..., :n_samples]


class Resampler:
    """`resample` for a signal that arrives in pieces: ``push`` them, then ``flush`` once.

    The signal is converted in blocks whose borders do not depend on the pieces, each with as much of its
    neighbors as the filter reaches: the same samples to the last bit for every way of cutting.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        ratio = _usable(Fraction(to_hz, from_hz))
        self._rates = from_hz, to_hz
        self._from, self._to = ratio.denominator, ratio.numerator  # samples in and out of one period
        self._convert = Resample(self._from, self._to, **_RESAMPLER)
        n_reach = 0 if from_hz == to_hz else -(-(self._convert.width + self._from) // self._from)
        self._n_reach = n_reach  # periods the filter sees on either side
        self._n_block = max(1, round(_RESAMPLED_BLOCK_S * from_hz / self._from))  # periods in a block
        self._held = np.zeros(n_reach * self._from, dtype=np.float32)  # silence before the first sample
        self._pieces: list[Samples] = []
        self._n_in = self._n_out = self._n_waiting = 0

    def push(self, samples: Samples) -> Samples:
        """Take ``[T]`` samples; returns those that are now certain."""
        self._n_in += len(samples)
        if self._rates[0] == self._rates[1]:
            return samples
        self._pieces.append(samples)
        self._n_waiting += len(samples)
        n_needed = (self._n_block + 2 * self._n_reach) * self._from
        if len(self._held) + self._n_waiting < n_needed:
            return np.zeros(0, dtype=np.float32)
        self._held = np.concatenate([self._held, *self._pieces])
        self._pieces, self._n_waiting = [], 0
        out = []
        while len(self._held) >= n_needed:
            out.append(self._block(self._held[:n_needed]))
            self._held = self._held[self._n_block * self._from :]
        return np.concatenate(out)

    def flush(self) -> Samples:
        """The rest: ``ceil(T * to_hz / from_hz)`` samples have come out in all."""
        if self._rates[0] == self._rates[1]:
            return np.zeros(0, dtype=np.float32)
        n_left = resampled_length(self._n_in, *self._rates) - self._n_out
        n_silent = (self._n_block + 2 * self._n_reach) * self._from
        out = [np.zeros(0, dtype=np.float32)]
        while sum(map(len, out)) < n_left:
            out.append(self.push(np.zeros(n_silent, dtype=np.float32)))
        return np.concatenate(out)[:n_left]

    def _block(self, wav: Samples) -> Samples:
        """Convert a block with its neighbors, ``[T]``; only the block's own samples are returned."""
        out = self._convert(torch.from_numpy(wav)).numpy()
        block: Samples = out[self._n_reach * self._to : (self._n_reach + self._n_block) * self._to]
        self._n_out += len(block)
        return block


def converted(blocks: Iterable[Samples], from_hz: int, to_hz: int) -> Iterator[Samples]:
    """``blocks`` at another rate; as many samples in all as `resampled_length` says."""
    resampler = Resampler(from_hz, to_hz)
    for block in blocks:
        yield resampler.push(block)
    yield resampler.flush()


def write_audio(path: Path, wav: Tensor, rate_hz: int) -> None:
    """Write ``[T]`` or ``[C, T]`` as 16-bit PCM; ``path`` appears only when it is complete.

    Full scale is 1.0; what lies outside is clipped. A sample read from a 16-bit file is written back exactly.

    Raises:
        AudioError: the suffix is neither .wav nor .flac, a sample is NaN or infinite, or there are no samples
            for a .flac file, a format that cannot say so.
        TelucodecError: the place cannot be written.
    """
    samples = wav.detach().cpu().numpy().astype(np.float64)  # [T] or [C, T]
    n_channels = 1 if samples.ndim == 1 else len(samples)
    with writing(path, rate_hz, n_channels=n_channels) as write:
        write(samples.T)


@contextmanager
def writing(path: Path, rate_hz: int, *, n_channels: int = 1) -> Iterator[Callable[[ArrayLike], None]]:
    """A function that writes blocks ``[T]`` or ``[T, C]``; raises, and leaves nothing, as `write_audio`."""
    container = writable_format(path)
    n_written = 0
    with replacing(path) as temporary:
        try:
            with soundfile.SoundFile(
                temporary, "w", rate_hz, n_channels, subtype="PCM_16", format=container
            ) as file:

                def write(samples: ArrayLike) -> None:
                    nonlocal n_written
                    block = np.asarray(samples)
                    n_written += len(block)
                    if len(block):
                        _write_pcm(file, to_pcm(block, f"cannot write {path}"))

                yield write
        except soundfile.LibsndfileError as error:
            reason = error.error_string.rstrip(".")
            raise AudioError(
                f"cannot write {path}: {reason}; choose another place or free some space"
            ) from error
        if container == "FLAC" and not n_written:
            raise AudioError(f"cannot write {path}: FLAC holds no signal of 0 samples; write a .wav file")


def _write_pcm(file: Any, pcm: NDArray[np.int16]) -> None:
    try:
        file.write(pcm)
    except AssertionError as error:  # how soundfile says that fewer samples were written than it was given
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error


def to_pcm(samples: NDArray[Any], what: str) -> NDArray[np.int16]:
    """16-bit integers; full scale is 1.0, what lies outside is clipped.

    Raises:
        AudioError: a sample is NaN or infinite; begins with ``what``.
    """
    if not np.isfinite(samples).all():
        raise AudioError(f"{what}: the signal holds NaN or infinite samples; the weights are damaged")
    scaled = np.rint(samples.astype(np.float64) * 32_768)
    return scaled.clip(-32_768, 32_767).astype(np.int16)


def writable_format(path: Path) -> str:
    """The libsndfile name of the format that ``path`` asks for by its suffix."""
    try:
        return WRITABLE_SUFFIXES[path.suffix.lower()]
    except KeyError:
        raise AudioError(
            f"cannot write {path}: its suffix is {path.suffix!r}; expected {' or '.join(WRITABLE_SUFFIXES)}"
        ) from None


def find_audio(folder: Path) -> list[Path]:
    """Every file below ``folder`` with the suffix of an audio format, sorted; hidden files are left out.

    Raises:
        AudioError: ``folder`` is not a folder.
    """
    if not folder.is_dir():
        raise AudioError(f"{folder} is not a folder; name one that holds audio")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _opened(path: Path) -> Any:
    check_readable(path)
    n_bytes = path.stat().st_size
    if not n_bytes:
        raise AudioError(f"{path} is empty: 0 bytes; expected an audio file")
    _check_wav_is_whole(path, n_bytes)
    try:
        return soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
    except (TypeError, OSError) as error:  # soundfile wants to be told the rate of headerless files
        reason = str(error)
    raise AudioError(f"{path} is not audio that libsndfile reads: {reason}; convert it to WAV or FLAC")


def _info(path: Path, file: Any) -> AudioInfo:
    low, high = _RATES_HZ
    if not low <= file.samplerate <= high:
        raise AudioError(f"{path} says its rate is {file.samplerate} Hz; expected {low} to {high}")
    return AudioInfo(path=path, rate_hz=file.samplerate, n_channels=file.channels, n_samples=file.frames)


def _mono_blocks(path: Path, file: Any) -> Iterator[Samples]:
    n_done = 0
    while True:
        try:
            block = file.read(_BLOCK_SAMPLES // file.channels, dtype="float32", always_2d=True)  # [T, C]
        except soundfile.LibsndfileError as error:
            raise AudioError(
                f"{path} cannot be decoded past sample {n_done}: {error.error_string.rstrip('.')}; "
                "get a complete copy"
            ) from error
        if not len(block):
            return
        finite = np.isfinite(block)
        if not finite.all():
            first = n_done + int(np.flatnonzero(~finite.all(axis=1))[0])
            raise AudioError(f"{path} holds NaN or infinite samples, the first at sample {first}; repair it")
        n_done += len(block)
        yield block.mean(axis=1, dtype=np.float32)


def _check_wav_is_whole(path: Path, n_bytes: int) -> None:
    """libsndfile reads what is left of a cut WAV file without a word; its data chunk tells."""
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return
        while len(chunk := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", chunk)
            if name == b"data":
                left = n_bytes - file.tell()
                if left < size < 0xFFFF_0000:  # above: the placeholder of programs that write to a pipe
                    raise AudioError(
                        f"{path} is cut short: {left} bytes of samples of {size}; get a complete copy"
                    )
                return
            file.seek(size + size % 2, 1)


def _usable(ratio: Fraction) -> Fraction:
    """``ratio`` itself where its terms are small enough for a filter bank, else the nearest such."""
    return ratio if max(ratio.numerator, ratio.denominator) <= _MAX_RATIO_TERM else _nearest(ratio)


def _nearest(ratio: Fraction) -> Fraction:
    """The fraction closest to ``ratio`` with both terms at most `_MAX_RATIO_TERM`."""
    if ratio > 1:
        return 1 / _nearest(1 / ratio)
    return ratio.limit_denominator(_MAX_RATIO_TERM)
