"""Audio through pipes: WAV or bare PCM from a stream that cannot be rewound, and to one.

libsndfile wants to seek, and a pipe cannot. A WAV file is simple enough to read forwards: chunks, of which
the format and the samples matter. The size of the samples is often a placeholder in a pipe, because the
writer could not know it; the end of the pipe is then the end of the samples.

Shapes: C audio channels, T samples.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from telucodec.errors import AudioError

BLOCK_BYTES = 1 << 16  # at most, read at a time; what a pipe has is taken at once
MAX_CHANNELS = 256
_RATES_HZ = (1_000, 1_000_000)
_MAX_CHUNK_BYTES = 1 << 24  # of what is skipped before the samples
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_PLACEHOLDER = 0xFFFF_0000  # sizes from here on mean: until the end

Samples = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class PcmFormat:
    """How samples lie in bytes: little-endian, channels interleaved."""

    rate_hz: int
    n_channels: int = 1
    bits: int = 16
    is_float: bool = False

    def __post_init__(self) -> None:
        low, high = _RATES_HZ
        if not low <= self.rate_hz <= high:
            raise AudioError(f"standard input says its rate is {self.rate_hz} Hz; expected {low} to {high}")
        if not 1 <= self.n_channels <= MAX_CHANNELS:
            raise AudioError(
                f"standard input says it has {self.n_channels} channels; expected 1 to {MAX_CHANNELS}"
            )
        if self.bits not in ((32, 64) if self.is_float else (8, 16, 24, 32)):
            kind = "floating-point" if self.is_float else "integer"
            raise AudioError(f"standard input holds {self.bits}-bit {kind} samples; convert it to 16-bit WAV")

    @property
    def block_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return self.n_channels * self.bits // 8

    def mono(self, data: bytes) -> Samples:
        """Whole blocks to the mean of their channels, float32 ``[T]``, full scale at 1.0."""
        samples: NDArray[Any]
        if self.is_float:
            samples = np.frombuffer(data, dtype=f"<f{self.bits // 8}").astype(np.float32)
        elif self.bits == 8:  # the only unsigned ones
            samples = (np.frombuffer(data, dtype=np.uint8).astype(np.float32) - 128) / 128
        elif self.bits == 24:
            parts = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3)
            wide = np.zeros((len(parts), 4), dtype=np.uint8)
            wide[:, 1:] = parts
            samples = (wide.view("<i4")[:, 0] / np.float64(2**31)).astype(np.float32)
        else:
            scale = np.float64(2 ** (self.bits - 1))
            samples = (np.frombuffer(data, dtype=f"<i{self.bits // 8}") / scale).astype(np.float32)
        mono: Samples = samples.astype(np.float32).reshape(-1, self.n_channels).mean(axis=1, dtype=np.float32)
        return mono


def read_wav_start(pipe: BinaryIO) -> tuple[PcmFormat, int | None]:
    """Read up to the samples: their format, and their bytes (None: until the pipe ends).

    Raises:
        AudioError: it is not a WAV file, or one of a kind that is not read from pipes.
    """
    head = _exactly(pipe, 12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        raise AudioError(
            f"standard input starts with {head[:4]!r}, expected a WAV file; pass --raw --rate HZ for bare PCM"
        )
    found: PcmFormat | None = None
    while True:
        name, size = struct.unpack("<4sI", _exactly(pipe, 8))
        if name == b"data":
            break
        if size > _MAX_CHUNK_BYTES:
            raise AudioError(f"standard input has a chunk {name!r} of {size} bytes before its samples")
        chunk = _exactly(pipe, size + size % 2)
        if name == b"fmt ":
            found = _parse_format(chunk)
    if found is None:
        raise AudioError("standard input is a WAV file without a format chunk before its samples")
    return found, None if size >= _PLACEHOLDER or not size else size


def _parse_format(chunk: bytes) -> PcmFormat:
    if len(chunk) < 16:
        raise AudioError(f"standard input has a WAV format chunk of {len(chunk)} bytes; expected 16 or more")
    kind, n_channels, rate_hz, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if kind == _EXTENSIBLE and len(chunk) >= 26:
        (kind,) = struct.unpack_from("<H", chunk, 24)
    if kind not in (_PCM, _FLOAT):
        raise AudioError(f"standard input is a WAV file of kind {kind}; expected PCM (1) or float (3)")
    return PcmFormat(rate_hz=rate_hz, n_channels=n_channels, bits=bits, is_float=kind == _FLOAT)


def read_pcm(pipe: BinaryIO, form: PcmFormat, n_bytes: int | None = None) -> Iterator[Samples]:
    """Mono blocks ``[T]`` as they arrive, until ``n_bytes`` were read or the pipe ends.

    Raises:
        AudioError: a sample is NaN or infinite, the pipe ends inside a sample or before ``n_bytes``.
    """
    held, n_read, n_done = b"", 0, 0
    while n_bytes is None or n_read < n_bytes:
        data = read_some(pipe, BLOCK_BYTES if n_bytes is None else min(BLOCK_BYTES, n_bytes - n_read))
        if not data:
            break
        n_read += len(data)
        held += data
        n_whole = len(held) // form.block_bytes * form.block_bytes
        block = form.mono(held[:n_whole])
        held = held[n_whole:]
        finite = np.isfinite(block)
        if not finite.all():
            first = n_done + int(np.flatnonzero(~finite)[0])
            raise AudioError(
                f"standard input holds NaN or infinite samples, the first at sample {first}; repair it"
            )
        n_done += len(block)
        yield block
    if held or (n_bytes is not None and n_read < n_bytes):
        expected = f"; {n_bytes} were announced" if n_bytes is not None else ""
        raise AudioError(f"standard input ends after {n_read} bytes of samples{expected}; it was cut short")


def read_some(pipe: BinaryIO, n_bytes: int) -> bytes:
    """What is there, at most ``n_bytes``, without waiting for more; empty at the end."""
    read1 = getattr(pipe, "read1", pipe.read)
    data: bytes = read1(n_bytes)
    return data


def wav_start(rate_hz: int, n_samples: int | None) -> bytes:
    """Header of a 16-bit mono WAV file; sizes are placeholders where ``n_samples`` is None."""
    n_bytes = 0xFFFF_FFFF if n_samples is None else min(2 * n_samples, 0xFFFF_FFFF)
    n_riff = min(n_bytes + 36, 0xFFFF_FFFF)
    form = struct.pack("<HHIIHH", _PCM, 1, rate_hz, 2 * rate_hz, 2, 16)
    return (
        struct.pack("<4sI4s4sI", b"RIFF", n_riff, b"WAVE", b"fmt ", 16)
        + form
        + struct.pack("<4sI", b"data", n_bytes)
    )


def _exactly(pipe: BinaryIO, n_bytes: int) -> bytes:
    data = pipe.read(n_bytes)
    if len(data) < n_bytes:
        raise AudioError("standard input ends before its samples begin; expected a WAV file")
    return data
