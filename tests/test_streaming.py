"""Streams in pieces: the same bytes and the same samples for every way of cutting, and losses bridged."""

import io
import itertools
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from telucodec import decoding
from telucodec.bitstream.container import HEADER_BYTES, Stream, read_header, summarize
from telucodec.bitstream.packet import read_packet, write_packet
from telucodec.bitstream.parser import StreamParser
from telucodec.errors import AudioError, BitstreamError, ConfigError, ModelError
from telucodec.model.codec import load_codec
from telucodec.pipeline import EncodeOptions, decode_file, decode_pipe, encode_file, encode_pipe
from telucodec.pipes import PcmFormat
from telucodec.streaming import StreamDecoder, StreamEncoder

LENGTHS = pytest.mark.parametrize("n_samples", [0, 1, 319, 320, 321, 8_000, 16_123])


def noise(n_samples: int) -> np.ndarray:
    return np.random.default_rng(n_samples).uniform(-0.3, 0.3, n_samples).astype(np.float32)


def cut(data, sizes):
    """``data`` in pieces of ``sizes``, repeated as often as it takes."""
    at, index = 0, 0
    while at < len(data):
        yield data[at : at + sizes[index % len(sizes)]]
        at += sizes[index % len(sizes)]
        index += 1


def encoded(codec, wav, sizes=(1 << 20,), **options):
    encoder = StreamEncoder(codec, **options)
    return b"".join([*(encoder.push(piece) for piece in cut(wav, sizes)), encoder.flush()])


def decoded(codec, data, sizes=(1 << 20,)):
    decoder = StreamDecoder(codec)
    return np.concatenate([*(decoder.push(piece) for piece in cut(data, sizes)), decoder.flush()])


def packet_ends(data):
    """Offsets after the header and after every packet."""
    parser, ends = StreamParser(), []
    for at in range(len(data)):
        if parser.push(data[at : at + 1]):
            ends.append(at + 1)
    return [HEADER_BYTES, *ends]


@LENGTHS
@pytest.mark.parametrize(
    "sizes", [(1,), (7, 1, 500), (320,), (9_999,)], ids=["ones", "uneven", "hops", "large"]
)
def test_bytes_do_not_depend_on_how_samples_arrive(codec, n_samples, sizes):
    wav = noise(n_samples)
    assert encoded(codec, wav, sizes) == encoded(codec, wav)


@LENGTHS
@pytest.mark.parametrize("sizes", [(1,), (3, 50, 1), (211,)], ids=["ones", "uneven", "large"])
@pytest.mark.parametrize("frames_per_packet", [1, 25])
def test_samples_do_not_depend_on_how_bytes_arrive(codec, n_samples, sizes, frames_per_packet):
    data = encoded(codec, noise(n_samples), frames_per_packet=frames_per_packet)
    whole = decoded(codec, data)
    assert len(whole) == n_samples
    np.testing.assert_allclose(decoded(codec, data, sizes), whole, rtol=0, atol=1e-5)


@LENGTHS
def test_the_file_path_writes_the_same_bytes_and_samples(tmp_path, codec, write_noise, n_samples):
    source = write_noise(tmp_path / "a.wav", n_samples)
    encode_file(codec, source, tmp_path / "a.codes")
    decode_file(codec, tmp_path / "a.codes", tmp_path / "b.wav")
    wav, _ = soundfile.read(source, dtype="float32")
    data = (tmp_path / "a.codes").read_bytes()
    assert encoded(codec, wav, (100, 1), n_samples=n_samples) == data
    heard, _ = soundfile.read(tmp_path / "b.wav", dtype="float32")
    np.testing.assert_allclose(heard, decoded(codec, data), rtol=0, atol=0.5 / 32_768 + 1e-6)


@LENGTHS
def test_a_length_told_beforehand_changes_nothing_but_the_header(codec, n_samples):
    live, known = encoded(codec, noise(n_samples)), encoded(codec, noise(n_samples), n_samples=n_samples)
    assert live[HEADER_BYTES:] == known[HEADER_BYTES:]
    assert summarize(live).n_samples == summarize(known).n_samples == n_samples


def test_groups_of_packets_join_over_their_borders(codec):
    wav = noise(2 * 200 * 320 + 5)
    data = encoded(codec, wav)
    assert encoded(codec, wav, (12_345,)) == data
    assert Stream.from_bytes(data).codes.shape == (4, 402)
    np.testing.assert_allclose(decoded(codec, data, (999,)), decoded(codec, data), rtol=0, atol=1e-5)


def test_what_is_held_back_is_copied_out_of_the_network(codec):
    encoder = StreamEncoder(codec)
    frames = encoder._analyzed(noise(2 * codec.config.hop))
    assert frames.codes.flags.owndata
    assert frames.errors.flags.owndata


@pytest.mark.parametrize("frames_per_packet", [1, 3, 25])
def test_packets_of_any_size_say_what_the_codec_says_as_a_whole(codec, monkeypatch, frames_per_packet):
    monkeypatch.setattr(decoding, "filter_of", lambda *_, **__: None)  # see test_postfilter.py
    wav = noise(8_000)
    stream = Stream.from_bytes(encoded(codec, wav, frames_per_packet=frames_per_packet))
    codes = codec.encode(torch.from_numpy(wav)[None, None])
    assert torch.equal(torch.from_numpy(stream.codes.astype(np.int64)), codes[0])
    whole = codec.decode(codes, n_samples=8_000)[0, 0].numpy()
    data = encoded(codec, wav, frames_per_packet=frames_per_packet)
    np.testing.assert_allclose(decoded(codec, data), whole, rtol=0, atol=1e-5)


def test_two_streams_at_once_do_not_disturb_each_other(codec):
    wavs = noise(3_000), noise(3_001)
    encoders = [StreamEncoder(codec, frames_per_packet=2) for _ in wavs]
    parts = [b"", b""]
    for pieces in zip(*(cut(wav, (160,)) for wav in wavs), strict=True):
        for i, piece in enumerate(pieces):
            parts[i] += encoders[i].push(piece)
    for i, wav in enumerate(wavs):
        assert parts[i] + encoders[i].flush() == encoded(codec, wav, frames_per_packet=2)


@pytest.mark.parametrize("n_bytes", [0, 10, HEADER_BYTES])
def test_a_stream_without_a_packet_is_refused_and_flushed_again_for_nothing(codec, n_bytes):
    decoder = StreamDecoder(codec)
    decoder.push(encoded(codec, noise(400))[:n_bytes])
    with pytest.raises(BitstreamError):
        decoder.flush()
    assert len(decoder.flush()) <= 320


def test_the_first_sample_comes_out_after_one_packet_and_the_overlap(codec):
    encoder, decoder = StreamEncoder(codec, frames_per_packet=1), StreamDecoder(codec)
    n_out = [len(decoder.push(encoder.push(piece))) for piece in cut(noise(3_200), (20,))]
    first = next(i for i, n in enumerate(n_out) if n)
    assert (first + 1) * 20 == 640  # 40 ms: a frame of 20 ms, and 20 ms of overlap
    assert sum(n_out) == 3_200 - 320 - 32  # and 2 ms of the postfilter


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_numbers_are_refused_and_located(codec, bad):
    encoder = StreamEncoder(codec)
    encoder.push(noise(100))
    with pytest.raises(AudioError, match="sample 105 is NaN or infinite"):
        encoder.push([*noise(5), bad])


def test_a_session_is_used_in_order(codec):
    encoder = StreamEncoder(codec, n_samples=10)
    encoder.push(noise(9))
    with pytest.raises(ValueError, match="9 samples came; 10 were announced"):
        encoder.flush()
    encoder.push(noise(1))
    encoder.flush()
    for call in (lambda: encoder.push(noise(1)), encoder.flush):
        with pytest.raises(ValueError, match="flush"):
            call()
    with pytest.raises(ValueError, match=r"expected \[T\]"):
        StreamEncoder(codec).push(np.zeros((2, 5)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_codebooks": 5}, "5 codebooks asked for; this model has 1 to 4"),
        ({"frames_per_packet": 3001}, "frames_per_packet is 3001; expected 1 to 3000"),
        ({"entropy": "magic"}, "entropy is 'magic'; expected none"),
    ],
    ids=["stages", "packet", "entropy"],
)
def test_impossible_settings_are_refused(codec, options, message):
    with pytest.raises(ConfigError, match=message):
        StreamEncoder(codec, **options)


def test_a_stream_of_other_weights_is_refused(codec, other_model_folder):
    with pytest.raises(ModelError, match="pass --model with the weights that made it"):
        StreamDecoder(load_codec(other_model_folder)).push(encoded(codec, noise(400)))


@pytest.mark.parametrize("gone", [(0,), (1,), (2, 3), (0, 5), (5,), (1, 2, 3, 4)])
@pytest.mark.parametrize("is_known", [True, False], ids=["known", "live"])
def test_packets_cut_out_of_a_stream_are_bridged_in_place(codec, gone, is_known):
    wav = noise(9_600)
    data = encoded(codec, wav, frames_per_packet=6, n_samples=9_600 if is_known else None)
    ends = packet_ends(data)
    assert len(ends) == 7
    kept = data[:HEADER_BYTES] + b"".join(data[ends[i] : ends[i + 1]] for i in range(6) if i not in gone)
    decoder = StreamDecoder(codec)
    heard = np.concatenate([decoder.push(kept), decoder.flush()])
    whole = decoded(codec, data)
    is_end_gone = 5 in gone and not is_known
    assert len(heard) == (len(whole) if not is_end_gone else 5 * 6 * 320 - 320)
    assert decoder.summary().n_lost == len(gone)
    before = (6 * min(gone) - 1) * 320 - 32  # samples finished before the first gap
    np.testing.assert_allclose(heard[: max(0, before)], whole[: max(0, before)], rtol=0, atol=1e-5)


def test_the_signal_recovers_after_a_gap(codec):
    """The network's memory is finite: well after a gap the intact samples are back."""
    data = encoded(codec, noise(32_000), frames_per_packet=5)
    ends = packet_ends(data)
    heard, whole = decoded(codec, data[: ends[1]] + data[ends[2] :]), decoded(codec, data)
    np.testing.assert_allclose(heard[-8_000:], whole[-8_000:], atol=1e-5)
    assert np.abs(heard - whole).max() > 1e-3


def test_a_gap_has_no_clicks_and_fades(codec):
    n = np.arange(32_000)
    wav = (0.3 * np.sin(2 * np.pi * 200 * n / 16_000)).astype(np.float32)
    data = encoded(codec, wav, frames_per_packet=10)
    ends = packet_ends(data)
    heard, whole = decoded(codec, data[: ends[3]] + data[ends[7] :]), decoded(codec, data)
    jumps = np.abs(np.diff(heard)).max() / np.sqrt(np.mean(whole**2))
    assert jumps < 1.5 * np.abs(np.diff(whole)).max() / np.sqrt(np.mean(whole**2))
    assert np.abs(heard).max() <= 1


def test_losses_do_not_depend_on_how_bytes_arrive(codec):
    data = bytearray(encoded(codec, noise(9_600), frames_per_packet=4))
    for at in (100, 101, 150):
        data[at] ^= 0x55
    data = bytes(data[:180] + data[209:])
    whole = decoded(codec, data)
    for sizes in ((1,), (13, 200)):
        np.testing.assert_allclose(decoded(codec, data, sizes), whole, rtol=0, atol=1e-5)


def test_a_packet_that_nothing_is_written_as_is_bridged_among_its_neighbors(codec):
    """Its checksum is right; the bits that fill its last byte are not zero."""
    data = encoded(codec, noise(9_600), frames_per_packet=5, n_codebooks=3, entropy="none")
    ends, spoilt = packet_ends(data), 2
    packet, _ = read_packet(data, ends[spoilt], read_header(data))
    payload = packet.payload[:-1] + bytes([packet.payload[-1] | 1])
    parts = [data[start:end] for start, end in itertools.pairwise([0, *ends])]
    parts[1 + spoilt] = write_packet(replace(packet, payload=payload))
    decoder, alone = StreamDecoder(codec), StreamDecoder(codec)
    together = np.concatenate([decoder.push(b"".join(parts)), decoder.flush()])
    one_by_one = np.concatenate([*(alone.push(part) for part in parts), alone.flush()])
    np.testing.assert_allclose(together, one_by_one, rtol=0, atol=1e-5)
    assert [(damage.first, damage.n_frames) for damage in decoder.damages] == [(spoilt, 5)]
    assert decoder.damages == alone.damages
    lost = decoded(codec, b"".join(parts[: 1 + spoilt] + parts[2 + spoilt :]))
    np.testing.assert_allclose(together, lost, rtol=0, atol=1e-5)


def test_a_stream_without_a_packet_is_refused(codec):
    with pytest.raises(BitstreamError, match="no packet can be read"):
        decoded(codec, encoded(codec, noise(400))[:60])


def wav_bytes(samples, rate_hz, **options):
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format="WAV", **options)
    return file.getvalue()


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize(("rate_hz", "n_channels"), [(16_000, 1), (44_100, 2), (8_000, 1)])
def test_a_pipe_gives_the_bytes_of_a_file(tmp_path, codec, subtype, rate_hz, n_channels):
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, (2_000, n_channels))
    data = wav_bytes(samples, rate_hz, subtype=subtype)
    (tmp_path / "a.wav").write_bytes(data)
    encode_file(codec, tmp_path / "a.wav", tmp_path / "a.codes")
    piped = io.BytesIO()
    encode_pipe(codec, io.BytesIO(data), piped, raw=None, options=EncodeOptions())
    assert piped.getvalue()[HEADER_BYTES:] == (tmp_path / "a.codes").read_bytes()[HEADER_BYTES:]


@pytest.mark.parametrize("is_raw", [True, False], ids=["raw", "wav"])
def test_a_pipe_makes_the_round_trip(codec, is_raw):
    pcm = (noise(5_000) * 32_767).astype("<i2")
    raw = PcmFormat(rate_hz=16_000) if is_raw else None
    source = io.BytesIO(pcm.tobytes() if is_raw else wav_bytes(pcm, 16_000))
    stream, heard = io.BytesIO(), io.BytesIO()
    encode_pipe(codec, source, stream, raw=raw, options=EncodeOptions(n_codebooks=2, frames_per_packet=1))
    summary = decode_pipe(codec, io.BytesIO(stream.getvalue()), heard, is_raw=is_raw)
    assert (summary.n_samples, summary.header.n_codebooks, summary.header.n_samples) == (5_000, 2, None)
    assert len(heard.getvalue()) == 2 * 5_000 + (0 if is_raw else 44)
    expected = np.rint(decoded(codec, stream.getvalue()) * 32_768).astype("<i2")
    assert heard.getvalue().endswith(expected.tobytes())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends before its samples begin"),
        (b"fLaC" + bytes(40), r"starts with b'fLaC', expected a WAV file; pass --raw"),
        (wav_bytes(np.zeros(100), 16_000)[:-10], "ends after 190 bytes of samples; 200 were announced"),
        (
            wav_bytes(np.full(9, np.nan), 16_000, subtype="FLOAT"),
            "NaN or infinite samples, the first at sample 0",
        ),
        (wav_bytes(np.zeros(9), 16_000, subtype="ULAW"), "WAV file of kind 7"),
        (wav_bytes(np.zeros(9), 999), "its rate is 999 Hz"),
    ],
    ids=["nothing", "flac", "cut", "nan", "kind", "rate"],
)
def test_what_is_not_audio_in_a_pipe_is_refused(codec, data, message):
    with pytest.raises(AudioError, match=message):
        encode_pipe(codec, io.BytesIO(data), io.BytesIO(), raw=None, options=EncodeOptions())
