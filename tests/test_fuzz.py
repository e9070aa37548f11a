"""Damage of every kind: a stream error, or a bridged packet; never another exception, a hang or a flood."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from telucodec.bitstream.container import HEADER_BYTES, Stream, summarize
from telucodec.bitstream.packet import Packet
from telucodec.bitstream.parser import StreamParser
from telucodec.errors import BitstreamError, ModelError
from telucodec.model.codec import Codec, load_codec
from telucodec.streaming import StreamDecoder, StreamEncoder

N_MUTATIONS = 10_000
MAX_MB = 200
STATUS = Path("/proc/self/status")
MAX_SAMPLES = 3000 * 320 + 16_000  # what is made up for lost packets has a bound


def peak_mb() -> float:
    """Most memory that this program ever had; `resource` would count that of the process that started it."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM"))


@pytest.fixture(scope="module")
def data() -> bytes:
    """A second of random codes in packets of 5 frames, with a seek table."""
    return random_stream()


def random_stream() -> bytes:
    codes = np.random.default_rng(0).integers(0, 1024, (4, 51)).astype(np.uint16)
    stream = Stream(
        sample_rate_hz=16_000, hop=320, delay=320, n_codebooks=4, codeword_bits=10, n_samples=16_000,
        model_id=bytes(8), frames_per_packet=5, codes=codes,
    )  # fmt: skip
    return stream.to_bytes(has_seek_table=True)


def parsed(data: bytes) -> list:
    parser = StreamParser()
    return parser.push(data) + parser.finish()


def mutated(data: bytes, generator: np.random.Generator) -> bytes:
    """One to eight changes: bits, bytes, runs removed, repeated, inserted, swapped; the header among them."""
    out = bytearray(data)
    for _ in range(generator.integers(1, 9)):
        at = int(generator.integers(0, len(out) or 1))
        size = int(generator.integers(1, 40))
        kind = generator.integers(0, 6)
        if kind == 0 and out:
            out[at] ^= 1 << int(generator.integers(0, 8))
        elif kind == 1:
            out[at : at + size] = generator.bytes(size)
        elif kind == 2:
            del out[at : at + size]
        elif kind == 3:
            out[at:at] = generator.bytes(size)
        elif kind == 4:
            out[at:at] = out[at : at + size]
        else:
            out[at : at + 4] = b"\xff" * 4
    return bytes(out)


def test_every_truncation_gives_an_error_or_a_gap_at_the_end(data):
    intact = [item for item in parsed(data) if isinstance(item, Packet)]
    for cut in range(len(data)):
        try:
            found = parsed(data[:cut])
        except BitstreamError:
            continue
        packets = [item for item in found if isinstance(item, Packet)]
        assert packets == intact[: len(packets)]
        assert summarize(data[:cut]).damages or len(packets) == len(intact)


def test_every_flipped_bit_costs_at_most_its_packet(data):
    intact = [item for item in parsed(data) if isinstance(item, Packet)]
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        if bit < 8 * HEADER_BYTES:
            with pytest.raises(BitstreamError):
                parsed(bytes(damaged))
            continue
        packets = [item for item in parsed(bytes(damaged)) if isinstance(item, Packet)]
        assert summarize(bytes(damaged)).damages
        assert len(packets) >= len(intact) - 1
        assert all(packet in intact for packet in packets)


def test_random_damage_gives_nothing_but_stream_errors_and_true_packets(data):
    intact = {item.index: item for item in parsed(data) if isinstance(item, Packet)}
    generator = np.random.default_rng(1)
    start_s = time.perf_counter()
    for _ in range(N_MUTATIONS):
        try:
            found = parsed(mutated(data, generator))
        except BitstreamError:
            continue
        for item in found:
            assert not isinstance(item, Packet) or item == intact[item.index]
        assert sum(item.n_frames for item in found) <= 51
    assert time.perf_counter() - start_s < 60  # 6 ms each; 2 s would be a hang


def test_random_bytes_after_a_good_header_are_read_at_once(data):
    for seed in range(20):
        noise = np.random.default_rng(seed).bytes(20_000)
        with pytest.raises(BitstreamError, match="no packet can be read"):
            parsed(data[:HEADER_BYTES] + noise)


def test_pieces_of_any_size_give_what_the_whole_gives(data):
    generator = np.random.default_rng(2)
    for _ in range(200):
        damaged = mutated(data, generator)
        parser, found = StreamParser(), []
        try:
            expected = parsed(damaged)
        except BitstreamError as error:
            expected = str(error)
        try:
            at = 0
            while at < len(damaged):
                size = int(generator.integers(1, 90))
                found += parser.push(damaged[at : at + size])
                at += size
            found += parser.finish()
        except BitstreamError as error:
            found = str(error)
        assert found == expected


def damaged_and_heard(codec: Codec, n_mutations: int) -> list[np.ndarray]:
    """Samples of damaged streams, of those that have any."""
    wav = np.random.default_rng(0).uniform(-0.3, 0.3, 8_000).astype(np.float32)
    encoder = StreamEncoder(codec, frames_per_packet=3)
    data = encoder.push(wav) + encoder.flush()
    generator = np.random.default_rng(3)
    heard = []
    for _ in range(n_mutations):
        decoder = StreamDecoder(codec)
        try:
            heard.append(np.concatenate([decoder.push(mutated(data, generator)), decoder.flush()]))
        except (BitstreamError, ModelError):
            continue
    return heard


def test_damaged_streams_decode_to_bounded_finite_samples(codec):
    heard = damaged_and_heard(codec, 150)
    for samples in heard:
        assert len(samples) <= MAX_SAMPLES
        assert np.isfinite(samples).all()
        assert np.abs(samples).max(initial=0) <= 1
    assert len(heard) > 50


def growth_mb(model_folder: Path, n_mutations: int) -> float:
    """By how much the peak of memory rises while damaged streams are parsed and decoded."""
    data, generator = random_stream(), np.random.default_rng(4)
    codec = load_codec(model_folder)
    summarize(data)
    before = peak_mb()
    for _ in range(n_mutations):
        try:
            parsed(mutated(data, generator))
        except BitstreamError:
            continue
    damaged_and_heard(codec, n_mutations // 50)
    return peak_mb() - before


@pytest.mark.skipif(not STATUS.exists(), reason="only Linux tells the peak of a program")
def test_no_damage_takes_much_memory(model_folder):
    probe = "import pathlib, sys, test_fuzz; print(test_fuzz.growth_mb(pathlib.Path(sys.argv[1]), 2_000))"
    command = [sys.executable, "-c", probe, str(model_folder)]
    grown = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent)
    assert 0 < float(grown.stdout) < MAX_MB
