"""The postfilter: noise between the harmonics of a voice goes, the voice and everything else stay."""

import math

import numpy as np
import pytest
import torch
from conftest import build_tiny
from streaming import in_chunks

from telucodec.bitstream.container import Stream
from telucodec.config import ModelConfig
from telucodec.evaluate.waveform import snr_db
from telucodec.model.codec import build_codec
from telucodec.model.pitch import LOUDER, PITCH_HZ, PitchFilter, low_pass
from telucodec.model.postfilter import filter_of
from telucodec.pipeline import open_codec
from telucodec.streaming import StreamDecoder, StreamEncoder

HOP, RATE = 320, 16_000


@pytest.fixture(scope="module", params=[False, True], ids=["file", "live"])
def postfilter(request):
    return PitchFilter(hop=HOP, sample_rate_hz=RATE, is_live=request.param)


def voice(pitch_hz, n_frames=50, level=0.05):
    """A dozen harmonics, ``[1, 1, T]``."""
    t = torch.arange(n_frames * HOP, dtype=torch.float64) / RATE
    tones = [torch.cos(2 * math.pi * k * pitch_hz * t + k * k) / k**0.5 for k in range(1, 13)]
    return (level * torch.stack(tones).sum(dim=0)).float()[None, None]


def noise(n_frames=50, seed=0, level=0.05):
    return level * torch.randn(1, 1, n_frames * HOP, generator=torch.Generator().manual_seed(seed))


def filtered(postfilter, wav):
    """What comes out for ``wav`` itself, on time and as loud."""
    ended = torch.nn.functional.pad(wav, (0, HOP))
    late = postfilter.step(ended, postfilter.initial_state(wav))[0] / LOUDER
    return late[..., postfilter.delay :][..., : wav.shape[-1]]


def of(clean, heard):
    middle = slice(6 * HOP, -6 * HOP)
    return snr_db(clean[0, 0, middle].numpy(), heard[0, 0, middle].numpy(), RATE)


@pytest.mark.parametrize("pitch_hz", [80, 123, 200, 320])
def test_noise_under_a_voice_is_lowered(postfilter, pitch_hz):
    clean = voice(pitch_hz)
    low = torch.nn.functional.conv1d(noise(), low_pass(100, 1000 / RATE)[None, None], padding=100)
    dirty = clean + low
    assert of(clean, filtered(postfilter, dirty)) > of(clean, dirty) + (0.8 if postfilter.is_live else 1.5)


@pytest.mark.parametrize("pitch_hz", [100, 125, 250])
def test_a_voice_without_noise_stays_as_it_is(postfilter, pitch_hz):
    clean = voice(pitch_hz)
    assert of(clean, filtered(postfilter, clean)) > 30


@pytest.mark.parametrize("wav", [noise(), torch.zeros(1, 1, 50 * HOP)], ids=["noise", "silence"])
def test_what_has_no_pitch_comes_out_as_it_went_in(postfilter, wav):
    torch.testing.assert_close(filtered(postfilter, wav), wav, rtol=0, atol=1e-6)


def test_high_frequencies_are_left_alone_under_a_voice(postfilter):
    hiss = noise(level=0.01)
    hiss = hiss - torch.nn.functional.conv1d(hiss, low_pass(100, 4000 / RATE)[None, None], padding=100)
    change = filtered(postfilter, voice(120) + hiss) - filtered(postfilter, voice(120))
    assert of(hiss, change) > 20


@pytest.mark.parametrize("pitch_hz", [65, 98, 140, 230, 390])
def test_the_period_is_that_of_the_voice_and_not_a_multiple(postfilter, pitch_hz):
    wav = voice(pitch_hz)
    _, (_, period, match) = postfilter.step(wav, postfilter.initial_state(wav))
    assert period.item() == pytest.approx(RATE / pitch_hz, abs=1)
    assert match.item() > 0.95


@pytest.mark.parametrize("sizes", [(HOP,) * 20, (HOP * 3, HOP * 17), (HOP * 19, HOP)])
def test_chunks_give_what_the_whole_gives(postfilter, sizes):
    wav = voice(110, 20) + noise(20)
    whole, _ = postfilter.step(wav, postfilter.initial_state(wav))
    torch.testing.assert_close(in_chunks(postfilter, wav, sizes), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_is_the_filter_that_the_format_describes(seed):
    """docs/format.md, sample by sample, in numpy."""
    postfilter = PitchFilter(hop=HOP, sample_rate_hz=RATE)
    wav = voice(73 + 90 * seed, 12) + noise(12, seed=seed, level=0.1)
    n = np.arange(-32, 33)
    kernel = np.sinc(2 * 1200 / RATE * n) * np.hamming(65)
    x = np.pad(wav[0, 0].numpy().astype(np.float64), (2_000, 0))
    v = np.convolve(x, kernel / kernel.sum(), mode="same")

    def found(end):
        """Period and correlation when all samples before ``end`` are known."""
        now = v[end - 672 : end - 32]

        def m(period):
            past = v[end - 672 - period : end - 32 - period]
            return now @ past / np.sqrt((now @ now + 1e-6) * (past @ past + 1e-6))

        all_m = {period: m(period) for period in range(40, 267)}
        period = max(all_m, key=all_m.get)
        best = all_m[period]
        for divisor in (2, 3):
            shorter = round(period / divisor)
            around = range(max(40, shorter - 2), min(266, shorter + 2) + 1)
            if shorter >= 40 and max(all_m[near] for near in around) > 0.85 * best:
                period = max(around, key=all_m.get)
        return period, min(max(all_m[period], 0), 1)

    def change(places, period, m):
        s = 0.6 * max(0, 2 * m - 1)
        g = 1 / np.sqrt(1 + 2 * s * m + s * s)
        return g * s * (v[places - period] + v[places + period]) / 2 + (g - 1) * v[places]

    expected, before = [], (40, 0.0)
    for end in range(2_000 + HOP, len(x) + 1, HOP):
        places, now = np.arange(end - 640, end - 320), found(end)
        fade = (np.arange(HOP) + 0.5) / HOP
        added = (1 - fade) * change(places, *before) + fade * change(places, *now)
        expected.append(np.clip(1.025 * (x[places] + added), -1, 1))
        before = now
    out = postfilter.step(wav, postfilter.initial_state(wav))[0][0, 0]
    np.testing.assert_allclose(out[:-HOP], np.concatenate(expected)[:-HOP], rtol=0, atol=1e-5)


def test_items_of_a_batch_are_filtered_for_themselves(postfilter):
    wavs = torch.cat([voice(110, 20), noise(20), voice(240, 20)])
    together, _ = postfilter.step(wavs, postfilter.initial_state(wavs))
    alone = [postfilter.step(wav[None], postfilter.initial_state(wav[None]))[0] for wav in wavs]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-6)


def test_it_is_late_by_its_delay_and_sees_no_further(postfilter):
    wav = voice(110, 20)
    changed = wav.clone()
    changed[..., 10 * HOP :] = 0.3
    outs = [postfilter.step(x, postfilter.initial_state(x))[0] for x in (wav, changed)]
    assert postfilter.delay == (32 if postfilter.is_live else HOP)
    assert torch.equal(outs[0][..., : 10 * HOP], outs[1][..., : 10 * HOP])
    assert not torch.equal(outs[0], outs[1])
    click = torch.zeros(1, 1, 20 * HOP)
    click[..., 5 * HOP + 7] = 1e-4
    out, _ = postfilter.step(click, postfilter.initial_state(click))
    assert out.argmax() == 5 * HOP + 7 + postfilter.delay


def test_full_scale_is_not_exceeded(postfilter):
    wav = voice(100, level=0.4).clamp(-1, 1)
    out, _ = postfilter.step(wav, postfilter.initial_state(wav))
    assert out.abs().max() == 1


@pytest.mark.parametrize(
    ("hop", "rate_hz"), [(80, 8_000), (160, 16_000), (640, 16_000), (320, 24_000), (480, 48_000)]
)
def test_other_hops_and_rates_have_room_for_the_longest_period(hop, rate_hz):
    postfilter = PitchFilter(hop=hop, sample_rate_hz=rate_hz)
    assert postfilter.delay % hop == 0
    assert postfilter.delay >= rate_hz // PITCH_HZ[0]
    t = torch.arange(60 * hop) / rate_hz
    wav = 0.1 * torch.sign(torch.sin(2 * math.pi * 1.03 * PITCH_HZ[0] * t))[None, None]
    whole, (_, period, _) = postfilter.step(wav, postfilter.initial_state(wav))
    assert whole.shape == wav.shape
    assert period.item() == pytest.approx(rate_hz / (1.03 * PITCH_HZ[0]), rel=0.02)
    torch.testing.assert_close(in_chunks(postfilter, wav, (hop,) * 60), whole, rtol=0, atol=1e-6)


def test_a_lattice_keeps_its_waveform_and_is_not_filtered():
    assert filter_of(open_codec("transparent-16k", device="cpu")) is None
    assert filter_of(build_tiny(seed=0)) is filter_of(build_tiny(seed=1))
    assert filter_of(build_tiny(seed=0), is_live=True).is_live
    assert filter_of(build_codec(ModelConfig(hop=160, fine_hop=40))).hop == 160


@pytest.mark.parametrize("n_samples", [1, 319, 8_000, 9_001])
@pytest.mark.parametrize("frames_per_packet", [25, 3], ids=["file", "live"])
def test_streams_are_filtered_to_their_last_sample(codec, n_samples, frames_per_packet):
    wav = np.random.default_rng(0).uniform(-0.3, 0.3, n_samples).astype(np.float32)
    encoder, decoder = StreamEncoder(codec, frames_per_packet=frames_per_packet), StreamDecoder(codec)
    data = encoder.push(wav) + encoder.flush()
    heard = np.concatenate([decoder.push(data), decoder.flush()])
    codes = torch.from_numpy(Stream.from_bytes(data).codes.astype(np.int64))[None]
    with torch.inference_mode():
        plain = codec.decoder(codec.quantizer.decode(codes))
        expected = LOUDER * filtered(filter_of(codec, is_live=frames_per_packet == 3), plain)
    delay = codec.config.delay
    np.testing.assert_allclose(heard, expected[0, 0, delay : delay + n_samples], rtol=0, atol=1e-5)


def test_a_stream_cut_short_or_damaged_at_its_end_is_filtered_to_its_last_sample_too(codec):
    wav = np.random.default_rng(0).uniform(-0.3, 0.3, 30_000).astype(np.float32)
    encoder = StreamEncoder(codec, n_samples=len(wav))
    data = encoder.push(wav) + encoder.flush()
    whole = decoded(codec, data)
    for damaged in (data[:-40], data[:-9] + bytes(9), data[: len(data) // 2]):
        heard = decoded(codec, damaged)
        assert heard.shape == whole.shape
        n_same = 24 * codec.config.hop - 2 * filter_of(codec).delay  # of the first packet
        np.testing.assert_allclose(heard[:n_same], whole[:n_same], rtol=0, atol=1e-5)
    unknown, decoder = StreamEncoder(codec), StreamDecoder(codec)
    data = unknown.push(wav) + unknown.flush()
    parts = [decoder.push(data[: len(data) // 2]), decoder.flush()]
    assert len(parts[1]) == filter_of(codec).delay
    assert (
        len(np.concatenate(parts))
        == decoder.summary().n_samples
        == 25 * codec.config.hop - codec.config.delay
    )


def decoded(codec, data):
    decoder = StreamDecoder(codec)
    return np.concatenate([decoder.push(data), decoder.flush()])
