"""Audio files to float32 ``[1, T]`` at the wanted rate, and back. Door of soundfile and torchaudio.

Anything that libsndfile reads comes in, at any rate and with any number of channels: channels are
averaged, then the rate is converted by the one resampler of the project with fixed parameters, so
that the same file gives the same samples, and so the same codes, wherever it is read.

What cannot be used is refused here, once, with the file's name: missing, empty, cut short, not audio,
NaN or infinite samples. A file of 0 samples is legal and gives ``[1, 0]``.

Shapes: C audio channels, T samples.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchaudio.functional import resample as torchaudio_resample

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
_RESAMPLER = {  # the "kaiser best" preset of the torchaudio documentation
    "lowpass_filter_width": 64,
    "rolloff": 0.9475937167399596,
    "resampling_method": "sinc_interp_kaiser",
    "beta": 14.769656459379492,
}


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
    with _opened(path) as file:
        info = _info(path, file)
        blocks = list(_mono_blocks(path, file))
    mono = np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)
    if len(mono) < info.n_samples:
        raise AudioError(
            f"{path} is cut short: {len(mono)} samples decode, its header announces {info.n_samples}; "
            "get a complete copy"
        )
    wav = torch.from_numpy(mono).unsqueeze(0)  # [1, T]
    return resample(wav, info.rate_hz, rate_hz), info


def audio_info(path: Path) -> AudioInfo:
    """Rate, channels and length as the header gives them, without decoding; raises as `read_audio`."""
    with _opened(path) as file:
        return _info(path, file)


def resample(wav: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """Convert ``[..., T]`` to ``[..., ceil(T * to_hz / from_hz)]``; ``wav`` itself if the rates are equal.

    A ratio whose terms stay below 4096 after reduction, every usual pair of rates among them, is exact.
    Any other is replaced by the nearest that does: the speed is then off by less than 0.02 %.
    """
    if from_hz == to_hz:
        return wav
    n_samples = -(-wav.shape[-1] * to_hz // from_hz)
    if not n_samples:
        return wav
    ratio = Fraction(to_hz, from_hz)
    if max(ratio.numerator, ratio.denominator) > _MAX_RATIO_TERM:
        ratio = _nearest(ratio)
    out: Tensor = torchaudio_resample(wav, ratio.denominator, ratio.numerator, **_RESAMPLER)
    return torch.nn.functional.pad(out, (0, max(0, n_samples - out.shape[-1])))[..., :n_samples]


def write_audio(path: Path, wav: Tensor, rate_hz: int) -> None:
    """Write ``[T]`` or ``[C, T]`` as 16-bit PCM; ``path`` appears only when it is complete.

    Full scale is 1.0; what lies outside is clipped. A sample read from a 16-bit file is written back exactly.

    Raises:
        AudioError: the suffix is neither .wav nor .flac, a sample is NaN or infinite, or there are no samples
            for a .flac file, a format that cannot say so.
        TelucodecError: the place cannot be written.
    """
    container = writable_format(path)
    if not torch.isfinite(wav).all():
        raise AudioError(
            f"cannot write {path}: the signal holds NaN or infinite samples; the weights are damaged"
        )
    if container == "FLAC" and not wav.shape[-1]:
        raise AudioError(f"cannot write {path}: FLAC holds no signal of 0 samples; write a .wav file")
    scaled = (wav.detach().to("cpu", torch.float64) * 32_768).round().clamp(-32_768, 32_767)
    pcm = scaled.to(torch.int16).numpy().T  # [T] or [T, C]
    with replacing(path) as temporary:
        try:
            soundfile.write(temporary, pcm, rate_hz, format=container, subtype="PCM_16")
        except soundfile.LibsndfileError as error:
            raise AudioError(f"cannot write {path}: {error.error_string}") from error


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


def _mono_blocks(path: Path, file: Any) -> Iterator[NDArray[np.float32]]:
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


def _nearest(ratio: Fraction) -> Fraction:
    """The fraction closest to ``ratio`` with both terms at most `_MAX_RATIO_TERM`."""
    if ratio > 1:
        return 1 / _nearest(1 / ratio)
    return ratio.limit_denominator(_MAX_RATIO_TERM)
