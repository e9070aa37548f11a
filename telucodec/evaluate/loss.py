"""Lost packets, simulated: a stream decoded as a bad line would deliver it, against itself intact.

The line is Gilbert's (1960, 10.1002/j.1538-7305.1960.tb03959.x): it is good or bad; from good it turns bad
with probability P at each packet, from bad to good with R, and every packet of a bad line is lost. The
share lost is P / (P + R), a burst lasts 1 / R packets in the mean.

Shapes: T samples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from telucodec.audio import Samples, writing
from telucodec.bitstream.packet import Packet
from telucodec.bitstream.parser import StreamParser
from telucodec.errors import BitstreamError, ConfigError
from telucodec.evaluate.metrics import measure
from telucodec.files import check_writable, read_blocks
from telucodec.model.codec import Codec
from telucodec.streaming import StreamDecoder


@dataclass(frozen=True, kw_only=True)
class LossReport:
    """What losing packets did; figures compare with the intact stream, not with the recording."""

    n_packets: int
    n_lost: int
    metrics: dict[str, float]
    missing: dict[str, str]  # figures that could not be computed, and why

    @property
    def loss_rate(self) -> float:
        """Share of the packets that was lost."""
        return self.n_lost / self.n_packets if self.n_packets else 0.0


def gilbert(n_packets: int, to_bad: float, to_good: float, seed: int) -> NDArray[np.bool_]:
    """Which of ``n_packets`` are lost; the line starts good.

    Raises:
        ConfigError: a probability is outside 0 to 1, or a bad line never recovers.
    """
    for name, value in (("P", to_bad), ("R", to_good)):
        if not 0 <= value <= 1:
            raise ConfigError(f"--gilbert has {name} = {value:g}; expected a probability from 0 to 1")
    draws = np.random.default_rng(seed).random(n_packets)
    lost = np.zeros(n_packets, dtype=np.bool_)
    is_bad = False
    for index, draw in enumerate(draws):
        is_bad = draw >= to_good if is_bad else draw < to_bad
        lost[index] = is_bad
    return lost


def read_packets(source: Path) -> tuple[bytes, list[Packet]]:
    """Header bytes and packets of an intact stream; `BitstreamError` for a damaged one."""
    parser = StreamParser()
    packets: list[Packet] = []
    try:
        for piece in read_blocks(source):
            packets += [item for item in parser.push(piece) if isinstance(item, Packet)]
        packets += [item for item in parser.finish() if isinstance(item, Packet)]
        if parser.damages:
            raise BitstreamError(f"damaged stream: {parser.damages[0]}; losses are simulated on whole ones")
    except BitstreamError as error:
        raise BitstreamError(f"{source}: {error}") from error
    return parser.summary().header.to_bytes(), packets


def decode_with_losses(codec: Codec, begin: bytes, packets: list[Packet], lost: NDArray[np.bool_]) -> Samples:
    """The signal ``[T]`` when the packets that ``lost`` marks do not arrive."""
    decoder = StreamDecoder(codec)
    parts = [decoder.push(begin)]
    parts += [decoder.lose(p) if gone else decoder.take(p) for p, gone in zip(packets, lost, strict=True)]
    return np.concatenate(parts)


def simulate_loss(
    codec: Codec,
    source: Path,
    target: Path,
    choose: Callable[[int], NDArray[np.bool_]],
    *,
    overwrite: bool = False,
) -> LossReport:
    """Write what is heard of ``source`` when the packets that ``choose(n_packets)`` marks are lost.

    Raises:
        TelucodecError: ``source`` is damaged or of another model, or ``target`` cannot be written.
    """
    check_writable(target, overwrite=overwrite)
    begin, packets = read_packets(source)
    lost = choose(len(packets))
    intact = decode_with_losses(codec, begin, packets, np.zeros(len(packets), dtype=np.bool_))
    heard = decode_with_losses(codec, begin, packets, lost)
    with writing(target, codec.config.sample_rate_hz) as write:
        write(heard)
    measured = measure(intact, heard, codec.config.sample_rate_hz)
    return LossReport(
        n_packets=len(packets), n_lost=int(lost.sum()), metrics=measured.values, missing=measured.missing
    )
