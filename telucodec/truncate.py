"""Fewer stages of a finished stream: a lower rate without the network, and without torch.

Codes run coarse stage first inside a packet, so what is kept is what an encoder would have written for
fewer stages.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from telucodec.bitstream.coder import PacketCoder
from telucodec.bitstream.container import HEADER_BYTES, Summary, read_header, truncate
from telucodec.bitstream.header import Header
from telucodec.bitstream.parser import StreamParser
from telucodec.coders import coder_for
from telucodec.errors import BitstreamError, ConfigError
from telucodec.files import check_readable, check_writable, read_blocks, replacing


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """What became of a stream."""

    before: Summary
    after: Summary


def stages_to_keep(
    source: Path,
    coder: PacketCoder,
    *,
    kbps: float | None = None,
    n_codebooks: int | None = None,
) -> int:
    """The most stages of the stream in ``source`` whose payload takes at most ``kbps``, or ``n_codebooks``.

    Raises:
        BitstreamError: ``source`` is damaged, or was not written with ``coder``.
        ConfigError: not even one fits, the stream does not have that many, or neither is given.
    """
    available = header_of(source).n_codebooks
    if kbps is None:
        if n_codebooks is None or not 1 <= n_codebooks <= available:
            raise ConfigError(f"{n_codebooks} codebooks asked for; this stream has 1 to {available}")
        return n_codebooks
    fitting, too_many = 0, available + 1
    while too_many - fitting > 1:
        tried = (fitting + too_many) // 2
        if _payload_kbps(source, coder, tried) <= kbps + 1e-9:
            fitting = tried
        else:
            too_many = tried
    if not fitting:
        least = _payload_kbps(source, coder, 1)
        raise ConfigError(f"{kbps:g} kbps is less than one stage, which takes {least:.3g} kbps here")
    return fitting


def _payload_kbps(source: Path, coder: PacketCoder, n_codebooks: int) -> float:
    parser = StreamParser()
    for piece in truncate(read_blocks(source), coder, n_codebooks):
        parser.push(piece)
    parser.finish()
    return parser.summary().payload_kbps or 0.0


def header_of(source: Path) -> Header:
    """The header of a ``.codes`` file; raises `BitstreamError` with the file's name."""
    check_readable(source)
    try:
        return read_header(next(read_blocks(source, HEADER_BYTES), b""))
    except BitstreamError as error:
        raise BitstreamError(f"{source}: {error}") from error


def summary_of(source: Path) -> Summary:
    """Read a whole stream and check every checksum in it; raises `BitstreamError` with the file's name."""
    parser = StreamParser()
    try:
        for _ in _seen(source, parser):
            pass
        parser.finish()
    except BitstreamError as error:
        raise BitstreamError(f"{source}: {error}") from error
    return parser.summary()


def _seen(source: Path, parser: StreamParser) -> Iterator[bytes]:
    for piece in read_blocks(source):
        parser.push(piece)
        yield piece


def truncate_file(
    source: Path,
    target: Path,
    *,
    kbps: float | None = None,
    n_codebooks: int | None = None,
    model_folder: Path | None = None,
    overwrite: bool = False,
) -> Truncation:
    """Write the first stages of ``source`` to ``target``; ``model_folder`` only for entropy tables.

    Raises:
        BitstreamError: ``source`` is damaged, or its entropy tables are not at hand.
        ConfigError: the rate or number of stages is not one this stream has.
        TelucodecError: ``target`` exists or cannot be written.
    """
    check_writable(target, overwrite=overwrite)
    coder = coder_for(header_of(source), model_folder)
    before, after = StreamParser(), StreamParser()
    try:
        n_kept = stages_to_keep(source, coder, kbps=kbps, n_codebooks=n_codebooks)
        with replacing(target) as temporary, temporary.open("wb") as file:
            for piece in truncate(_seen(source, before), coder, n_kept):
                after.push(piece)
                file.write(piece)
    except BitstreamError as error:
        raise BitstreamError(f"{source}: {error}") from error
    before.finish()
    after.finish()
    return Truncation(before=before.summary(), after=after.summary())
