"""The enhancer: a network behind the decoder that knows the pitch, and leaves codes and streams alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY, build_tiny

from telucodec.errors import ConfigError, ModelError
from telucodec.model.codec import build_codec, load_codec, save_codec, stages_of
from telucodec.model.enhancer import Enhancer
from telucodec.model.pitch import PitchFilter
from telucodec.model.postfilter import filter_of
from telucodec.streaming import StreamDecoder, StreamEncoder

HOP, RATE, N_AHEAD = 320, 16_000, 2


def build_enhancer(seed=0, scale=0.1):
    """Random weights that change what they are given, unlike fresh ones."""
    torch.manual_seed(seed)
    enhancer = Enhancer(hop=HOP, sample_rate_hz=RATE, n_codebooks=24, width=16, n_units=2)
    with torch.no_grad():
        torch.nn.init.normal_(enhancer.weights_out.weight, std=scale)
        torch.nn.init.normal_(enhancer.weights_out.bias, std=scale)
    return enhancer.requires_grad_(False)


def build_enhanced(seed=0):
    """A tiny codec with an enhancer of random weights."""
    codec = build_codec(replace(TINY, enhancer_width=16, n_enhancer_units=1))
    codec.load_state_dict(build_tiny(seed).state_dict(), strict=False)
    torch.nn.init.normal_(codec.enhancer.weights_out.weight, std=0.1)
    return codec.eval().requires_grad_(False)


def voice(n_frames, pitch_hz=130, seed=0):
    """Harmonics and noise, ``[1, 1, T]``."""
    t = torch.arange(n_frames * HOP, dtype=torch.float64) / RATE
    tones = [torch.cos(2 * math.pi * k * pitch_hz * t + k * k) / k for k in range(1, 16)]
    noise = torch.randn(len(t), generator=torch.Generator().manual_seed(seed))
    return (0.05 * torch.stack(tones).sum(dim=0) + 0.02 * noise).float()[None, None]


def depths_of(n_frames, seed=0):
    return torch.randint(1, 25, (1, n_frames), generator=torch.Generator().manual_seed(seed))


def test_fresh_weights_change_nothing():
    enhancer = Enhancer(hop=HOP, sample_rate_hz=RATE, n_codebooks=24, width=16, n_units=1)
    wav = voice(30)
    assert torch.equal(enhancer(wav, depths_of(30)), wav)


@pytest.mark.parametrize("sizes", [(1,) * 30, (3, 27), (29, 1)])
def test_chunks_give_what_the_whole_gives(sizes):
    enhancer, wav, depths = build_enhancer(), voice(30), depths_of(30)
    whole, _ = enhancer.step(wav, enhancer.initial_state(wav), depths)
    assert (whole - wav).abs().max() > 0.01
    parts, state = [], enhancer.initial_state(wav)
    for chunk, known in zip(wav.split([HOP * n for n in sizes], -1), depths.split(sizes, 1), strict=True):
        part, state = enhancer.step(chunk, state, known)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=-1), whole, rtol=0, atol=1e-5)


def test_it_is_late_by_its_delay_and_sees_no_further():
    enhancer = build_enhancer()
    wav, depths = voice(30), depths_of(30)
    changed, deeper = wav.clone(), depths.clone()
    changed[..., 15 * HOP :] = 0.3
    deeper[:, 20:] += 1
    outs = [
        enhancer.step(x, enhancer.initial_state(x), known)[0]
        for x, known in ((wav, depths), (changed, depths), (wav, deeper))
    ]
    assert enhancer.delay == (2 + N_AHEAD) * HOP
    same = [int((outs[0] != other).flatten().nonzero()[0]) // HOP for other in outs[1:]]
    # Of sound it needs all up to the delay; stages are told with the first of the two frames they shape.
    assert same == [15, 20 + 2]
    fresh = Enhancer(hop=HOP, sample_rate_hz=RATE, n_codebooks=24, width=16, n_units=1)
    late = fresh.step(wav, fresh.initial_state(wav), depths)[0]
    assert torch.equal(late[..., fresh.delay :], wav[..., : -fresh.delay])


def test_items_of_a_batch_are_enhanced_for_themselves():
    enhancer = build_enhancer()
    wavs = torch.cat([voice(20), voice(20, 210, seed=1)])
    depths = torch.cat([depths_of(20), depths_of(20, seed=1)])
    alone = [enhancer(wav[None], known[None]) for wav, known in zip(wavs, depths, strict=True)]
    torch.testing.assert_close(enhancer(wavs, depths), torch.cat(alone), rtol=0, atol=1e-6)


def test_silence_stays_silent_and_full_scale_is_not_exceeded():
    enhancer = build_enhancer(scale=1.0)
    silence = torch.zeros(1, 1, 20 * HOP)
    assert torch.equal(enhancer(silence, depths_of(20)), silence)
    loud = enhancer(20 * voice(20), depths_of(20))
    assert loud.abs().max() == 1


def test_what_lies_above_is_left_alone():
    enhancer, wav = build_enhancer(), voice(40)
    change = (enhancer(wav, depths_of(40)) - wav)[0, 0].numpy()
    spectrum = np.abs(np.fft.rfft(change * np.hanning(len(change)))) ** 2
    hz = np.fft.rfftfreq(len(change), 1 / RATE)
    assert spectrum[hz > 2_700].sum() < 1e-4 * spectrum.sum()


@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_the_network_that_the_format_describes(seed):
    """docs/format.md, frame by frame, in numpy."""
    enhancer = build_enhancer(seed)
    wav, depths = voice(16, 73 + 90 * seed, seed), depths_of(16, seed)
    found, _ = PitchFilter(hop=HOP, sample_rate_hz=RATE).hear(
        wav, PitchFilter(hop=HOP, sample_rate_hz=RATE).initial_state(wav)
    )  # tested sample by sample in test_postfilter.py
    periods, matches = found.periods[0].numpy(), found.correlations[0].numpy()
    x = np.pad(
        wav[0, 0].numpy().astype(np.float64), (2 * HOP, 0)
    )  # frame n - 1 is known when frame n has come
    w = {name: value.numpy().astype(np.float64) for name, value in enhancer.state_dict().items()}
    sine = np.sin(np.pi * np.arange(2 * HOP) / (2 * HOP))
    fade = (np.arange(HOP) + 0.5) / HOP

    def sounds(frame):
        """Frame as it is, one period before and after; the latter two fade from the period before."""
        if frame < 0:
            return np.zeros((3, HOP))
        places = np.arange(HOP) + (1 + frame) * HOP
        by = [
            (1 - fade) * x[places + side * periods[frame]] + fade * x[places + side * periods[frame + 1]]
            for side in (-1, 1)
        ]
        return np.stack([x[places], *by])

    heard = [sounds(frame) for frame in range(-1, 16)]  # frame 0 here is the one before the first
    spectra = [
        np.fft.rfft(np.concatenate([heard[n], heard[n + 1]], axis=1) * sine)[:, :100] for n in range(16)
    ]
    history = [np.zeros((2, 16)) for _ in range(2)]
    out, tail = [], np.zeros(HOP)
    for n in range(16):
        here, before, after = spectra[n]
        e, b, a = (np.abs(part) ** 2 for part in spectra[n])
        mean = e.mean() + 1e-4
        stages = depths[0, n - 2].item() if n >= 2 else 0
        features = np.concatenate(
            [
                0.3 * np.log((e + 1e-6 * mean + 1e-5) / mean),
                2 * (here * before.conj()).real / (e + b + 1e-5),
                2 * (here * after.conj()).real / (e + a + 1e-5),
                [stages / 8 - 1, matches[n + 1], np.log2(16_000 / 60 / periods[n + 1]), matches[n]],
            ]
        )
        y = w["features_in.weight"][..., 0] @ features + w["features_in.bias"]
        for unit in range(2):
            name = f"units.units.{unit}."
            normed = y / np.sqrt(np.mean(y**2) + 1e-6) * w[name + "norm.gain"][:, 0]
            taps = np.stack([*history[unit], normed])
            history[unit] = taps[1:]
            mixed = np.einsum("oik,ki->o", w[name + "mix.conv.weight"], taps) + w[name + "mix.conv.bias"]
            gelu = mixed * 0.5 * (1 + np.vectorize(math.erf)(mixed / math.sqrt(2)))
            point = w[name + "point.weight"][..., 0] @ gelu + w[name + "point.bias"]
            y = y + w[name + "scale"][:, 0] * point
        gain, by_before, by_after = np.split(w["weights_out.weight"][..., 0] @ y + w["weights_out.bias"], 3)
        late, late_before, late_after = spectra[n - N_AHEAD] if n >= N_AHEAD else np.zeros((3, 100))
        change = np.exp(np.clip(gain, -3, 1.5)) * (late + by_before * late_before + by_after * late_after)
        frame = np.fft.irfft(np.pad(change - late, (0, 221)), 2 * HOP) * sine
        base = heard[n - N_AHEAD][0] if n >= N_AHEAD else np.zeros(HOP)
        out.append(np.clip(base + tail + frame[:HOP], -1, 1))
        tail = frame[HOP:]
    got = enhancer.step(wav, enhancer.initial_state(wav), depths)[0][0, 0]
    np.testing.assert_allclose(got, np.concatenate(out), rtol=0, atol=2e-5)


@pytest.mark.parametrize("frames_per_packet", [25, 40])
def test_files_are_decoded_with_it(frames_per_packet):
    codec, wav = build_enhanced(), voice(60)
    encoder = StreamEncoder(codec, frames_per_packet=frames_per_packet)
    data = encoder.push(wav[0, 0].numpy()) + encoder.flush()
    decoder = StreamDecoder(codec)
    heard = np.concatenate([decoder.push(data), decoder.flush()])
    codes = codec.encode(wav)
    expected = codec.decode(codes, n_samples=wav.shape[-1])[0, 0].numpy()
    np.testing.assert_allclose(heard, expected, rtol=0, atol=1e-5)
    plain = build_tiny(0).eval().requires_grad_(False).decode(codes, n_samples=wav.shape[-1])[0, 0].numpy()
    assert np.abs(heard - plain).max() > 1e-3


def test_training_hears_what_files_are_decoded_to():
    codec, wav = build_enhanced(), voice(60)
    codes = codec.encode(wav)
    made = codec(wav)
    assert torch.equal(made.quantized.codes[..., : codes.shape[-1]], codes)
    expected = codec.decode(codes, n_samples=wav.shape[-1])
    torch.testing.assert_close(made.wav, expected, rtol=0, atol=1e-5)


def test_training_hears_plain_items_as_live_packets_are_decoded():
    codec = build_enhanced()
    wav = voice(20).repeat(2, 1, 1)
    plain = codec(wav, is_plain=torch.tensor([True, False])).wav
    decoder_alone = build_enhanced()
    decoder_alone.enhancer = None
    torch.testing.assert_close(plain[:1], decoder_alone(wav).wav[:1])
    torch.testing.assert_close(plain[1:], codec(wav).wav[1:])
    codec.requires_grad_(True)(wav, is_plain=torch.tensor([True, True])).wav.square().sum().backward()
    gradients = [parameter.grad for parameter in codec.enhancer.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_training_in_bfloat16_enhances_in_float32():
    codec, wav = build_enhanced(), voice(60)
    seen = []
    codec.enhancer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    codec.enhancer.register_forward_hook(lambda *found: seen.append(found[2]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        codec(wav)
    (decoded, depths), enhanced = seen
    assert torch.equal(codec.enhancer(decoded, depths), enhanced)


def test_live_packets_do_not_wait_for_it():
    codec = build_enhanced()
    live = filter_of(codec, is_live=True)
    assert isinstance(live, PitchFilter)
    assert live.is_live
    assert filter_of(codec) is codec.enhancer


def test_absent_stages_are_not_counted():
    codes = torch.tensor([[[3, 1, 0], [5, -1, 7], [-1, -1, 2]]])
    assert stages_of(codes).tolist() == [[2, 1, 3]]


def test_weights_come_back_as_they_were_saved(tmp_path):
    codec = build_enhanced()
    save_codec(codec, tmp_path, dtype=torch.float32)
    again = load_codec(tmp_path)
    wav = voice(20)
    codes = codec.encode(wav)
    assert torch.equal(again.decode(codes, n_samples=5000), codec.decode(codes, n_samples=5000))


def test_weights_without_it_do_not_fit_a_configuration_with_it(tmp_path):
    save_codec(build_enhanced(), tmp_path / "with")
    save_codec(build_tiny(0), tmp_path / "without")
    (tmp_path / "without" / "config.json").write_bytes((tmp_path / "with" / "config.json").read_bytes())
    with pytest.raises(ModelError, match="do not fit"):
        load_codec(tmp_path / "without")


def test_a_lattice_has_none():
    with pytest.raises(ConfigError, match="enhancer_width is 8; expected 0"):
        replace(
            TINY,
            enhancer_width=8,
            quantizer=replace(TINY.quantizer, sweeps=(4,), n_codebooks=3, codebook_size=256),
        )
