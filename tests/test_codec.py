"""The codec as a whole: lengths, streaming, prefixes of stages, and weights on disk."""

import hashlib
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from streaming import in_chunks, reach
from torch import nn
from torch.nn import functional as fn

from telucodec.config import ModelConfig, QuantizerConfig
from telucodec.errors import ModelError
from telucodec.frames import frame_count
from telucodec.model import codec as codec_module
from telucodec.model import search
from telucodec.model.codec import (
    CONFIG,
    WEIGHTS,
    build_codec,
    count_gmacs_per_s,
    count_parameters,
    load_codec,
    save_codec,
)
from telucodec.model.decoder import N_SIGNED, random_signs

HOP = 16
SMALL = ModelConfig(
    hop=HOP,
    fine_hop=4,
    width=6,
    fine_width=5,
    n_encoder_units=2,
    n_decoder_units=2,
    n_fine_units=1,
    latent_dim=12,
    quantizer=QuantizerConfig(n_codebooks=4, codebook_size=32),
)
SIZES = pytest.mark.parametrize(
    "sizes", [(1,) * 9, (1, 5, 3), (4, 5)], ids=["frame-by-frame", "uneven", "two"]
)


def make(config=SMALL, seed=0):
    torch.manual_seed(seed)
    return build_codec(config).eval()


def noise(*shape, seed=1, dtype=torch.float32):
    return 0.2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@SIZES
def test_chunks_through_the_encoder_join_to_the_whole(sizes):
    encoder, wav = make().double().encoder, noise(2, 1, 9 * HOP, dtype=torch.float64)
    joined = in_chunks(encoder, wav, [n * HOP for n in sizes])
    torch.testing.assert_close(joined, encoder(wav), rtol=0, atol=1e-12)


@SIZES
def test_chunks_through_the_decoder_join_to_the_whole(sizes):
    decoder, latents = make().double().decoder, noise(2, 12, 9, dtype=torch.float64)
    torch.testing.assert_close(in_chunks(decoder, latents, sizes), decoder(latents), rtol=0, atol=1e-12)


@SIZES
def test_codes_made_chunk_by_chunk_are_the_codes_of_the_whole(sizes):
    codec, wav = make(), noise(1, 1, 8 * HOP)
    wav = nn.functional.pad(wav, (0, HOP))
    latents = in_chunks(codec.encoder, wav, [n * HOP for n in sizes])
    assert torch.equal(codec.quantizer.encode(latents), codec.encode(wav[..., : 8 * HOP]))


@pytest.mark.parametrize("n_frames", [1, 2, 5])
def test_the_size_of_the_chunks_a_long_file_is_cut_into_does_not_matter(monkeypatch, n_frames):
    codec, wav = make(), noise(2, 1, 11 * HOP + 3)
    codes = codec.encode(wav)
    whole = codec.decode(codes, n_samples=wav.shape[-1])
    monkeypatch.setattr(codec_module, "CHUNK_FRAMES", n_frames)
    assert torch.equal(codec.encode(wav), codes)
    torch.testing.assert_close(codec.decode(codes, n_samples=wav.shape[-1]), whole, rtol=0, atol=1e-5)


def test_an_encoder_frame_sees_its_own_samples_and_none_after():
    encoder, wav = make().double().encoder, noise(1, 1, 7 * HOP, dtype=torch.float64)
    for frame in range(7):
        seen = reach(encoder, wav, frame, 1)
        assert not seen[(frame + 1) * HOP :].any(), f"frame {frame} looks ahead"
        assert seen[frame * HOP : (frame + 1) * HOP].all()


def test_a_decoder_frame_sees_its_own_latents_and_none_after():
    decoder, latents = make().double().decoder, noise(1, 12, 7, dtype=torch.float64)
    for frame in range(7):
        seen = reach(decoder, latents, frame, HOP)
        assert not seen[frame + 1 :].any(), f"frame {frame} looks ahead"
        assert seen[frame]


def test_no_estimate_depends_on_more_future_than_the_declared_latency():
    codec, wav = make(), noise(1, 1, 8 * HOP)
    other = wav.clone()
    other[..., 5 * HOP :] = noise(1, 1, 3 * HOP, seed=2)
    ours, theirs = (codec.decode(codec.encode(x), n_samples=8 * HOP) for x in (wav, other))
    n_same = 5 * HOP - SMALL.delay  # a sample waits for its overlap, and for the frame that it ends in
    assert torch.equal(ours[..., :n_same], theirs[..., :n_same])
    assert not torch.equal(ours[..., n_same:], theirs[..., n_same:])
    assert (HOP + SMALL.delay) / SMALL.sample_rate_hz * 1000 == SMALL.latency_ms


def test_the_default_latency_is_at_most_40_ms():
    assert ModelConfig().latency_ms <= 40


@pytest.mark.parametrize("n_samples", range(3 * HOP + 2))
def test_as_many_samples_come_out_as_went_in(n_samples):
    codec, wav = make(), noise(2, 1, n_samples)
    codes = codec.encode(wav)
    assert codes.shape == (2, 4, frame_count(n_samples, HOP, HOP))
    assert codec.decode(codes, n_samples=n_samples).shape == (2, 1, n_samples)
    if n_samples:
        assert codec(wav).wav.shape == (2, 1, n_samples)


@pytest.mark.parametrize("n_samples", [0, 1, 319, 320, 321, 639, 640, 641, 16_000])
def test_lengths_hold_for_the_default_hop(codec, n_samples):
    codes = codec.encode(noise(1, 1, n_samples))
    assert codes.shape[-1] == frame_count(n_samples, 320, 320)
    assert codec.decode(codes, n_samples=n_samples).shape == (1, 1, n_samples)


def test_more_samples_than_the_frames_hold_are_refused():
    codec = make()
    codes = codec.encode(noise(1, 1, 3 * HOP))
    with pytest.raises(ValueError, match="cannot give 60"):
        codec.decode(codes, n_samples=60)


def test_training_and_decoding_give_the_same_waveform():
    codec, wav = make(), noise(2, 1, 5 * HOP + 3)
    estimate = codec.decode(codec.encode(wav), n_samples=wav.shape[-1])
    torch.testing.assert_close(codec(wav).wav, estimate, rtol=0, atol=1e-5)


def test_an_item_is_independent_of_its_neighbors():
    codec, wav = make(), noise(3, 1, 6 * HOP)
    other = wav.clone()
    other[1:] = 0.9
    ours, theirs = codec.encode(wav), codec.encode(other)
    assert torch.equal(ours[0], theirs[0])
    assert not torch.equal(ours[1], theirs[1])
    ours, theirs = (codec.decode(codes, n_samples=6 * HOP) for codes in (ours, theirs))
    assert torch.equal(ours[0], theirs[0])


def test_an_item_alone_has_the_codes_it_has_in_a_batch():
    codec, wav = make(), noise(3, 1, 6 * HOP)
    alone = torch.cat([codec.encode(item[None]) for item in wav])
    assert torch.equal(alone, codec.encode(wav))


def test_fewer_codebooks_are_a_prefix_of_a_greedy_search_and_every_prefix_decodes():
    codec, wav = make(), noise(1, 1, 6 * HOP)
    codec.quantizer.search_width = 1
    codes = codec.encode(wav)
    for n in range(1, 5):
        assert torch.equal(codec.encode(wav, n_codebooks=n), codes[:, :n])
        estimate = codec.decode(codes[:, :n], n_samples=6 * HOP)
        trained = codec(wav, torch.tensor([n])).wav
        torch.testing.assert_close(estimate, trained, rtol=0, atol=1e-5)


def test_signs_of_the_fine_path_are_random_and_the_same_on_every_machine():
    signs = random_signs(40)
    assert signs.shape == (N_SIGNED, 40)
    assert (signs.abs() == 1).all()
    assert (signs[:, :9] == 1).all(), "codes tell these"
    assert signs[:, 9:].mean().abs() < 0.02
    ones = (signs < 0).to(torch.uint8).numpy().tobytes()
    assert hashlib.sha256(ones).hexdigest()[:16] == "3d32dc8f1a981aa5"


def test_only_tones_that_codes_tell_the_signs_of_repeat_from_frame_to_frame():
    decoder = build_codec(ModelConfig()).decoder
    with torch.no_grad():
        decoder.fine_out.bias.fill_(0.3)
        frames = decoder(torch.zeros(1, 128, 420))[0, 0].view(420, 320)[20:]
    spectra = torch.fft.rfft(frames)
    for bins, least, most in (
        (slice(0, 32), 0.99, 1),
        (slice(44, 76), -0.1, 0.1),
        (slice(90, 160), -0.1, 0.1),
    ):
        band = torch.zeros_like(spectra)
        band[:, bins] = spectra[:, bins]
        wav = torch.fft.irfft(band)
        likeness = float(fn.cosine_similarity(wav[1:].flatten(), wav[:-1].flatten(), dim=0))
        assert least < likeness <= most + 1e-6, bins


def test_training_items_begin_at_their_own_place_in_the_signs():
    codec = make(ModelConfig())
    with torch.no_grad():
        codec.decoder.fine_out.bias.fill_(0.3)
    wav = torch.zeros(2, 1, 3200)
    same, other = (codec(wav, place=torch.tensor(place)).wav for place in ([0, 0], [0, 77]))
    assert torch.equal(same[0], other[0])
    assert not torch.allclose(same[1], other[1], atol=1e-3)
    with torch.no_grad():
        whole = codec.decoder(torch.zeros(1, 128, 100))[..., 77 * 320 :]
        part = codec.decoder(torch.zeros(1, 128, 50), torch.tensor([50]))[..., 27 * 320 :]
    torch.testing.assert_close(part, whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("n_codebooks", [-1, 0, 5])
def test_a_number_of_codebooks_that_does_not_exist_is_refused(n_codebooks):
    with pytest.raises(ValueError, match=f"n_codebooks is {n_codebooks}; this codec has 1 to 4"):
        make().encode(noise(1, 1, HOP), n_codebooks=n_codebooks)


@pytest.mark.parametrize("wav", [torch.zeros(1, 1, 40), torch.ones(1, 1, 40), -5 * torch.ones(1, 1, 40)])
def test_the_output_lies_inside_full_scale_whatever_comes_in(wav):
    codec = make()
    with torch.no_grad():
        codec.decoder.log_output_scale.fill_(7.0)
    estimate = codec.decode(codec.encode(wav), n_samples=40)
    assert torch.isfinite(estimate).all()
    assert estimate.abs().max() <= 1


def test_the_output_scale_is_a_parameter_that_starts_at_one():
    codec = make()
    assert isinstance(codec.decoder.log_output_scale, nn.Parameter)
    assert codec.decoder.output_scale.item() == 1.0
    assert "decoder.log_output_scale" in codec.state_dict()
    assert any(p is codec.decoder.log_output_scale for p in codec.parameters())
    codec(noise(1, 1, 64)).wav.square().sum().backward()
    assert codec.decoder.log_output_scale.grad.abs() > 0


@pytest.mark.parametrize("scale", [0.5, 1.7])
def test_the_output_scale_sits_before_tanh(scale):
    decoder, latents = make().double().decoder, noise(1, 12, 6, dtype=torch.float64)
    with torch.no_grad():
        plain = decoder(latents)
        decoder.log_output_scale.fill_(math.log(scale))
        scaled = decoder(latents)
    torch.testing.assert_close(scaled, torch.tanh(scale * torch.atanh(plain)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("level", [0.02, 0.2])
def test_the_waveform_comes_through_before_anything_is_learned(level):
    quantizer = QuantizerConfig(n_codebooks=1, codebook_size=2)
    codec = make(ModelConfig(n_encoder_units=1, n_decoder_units=1, latent_dim=160, quantizer=quantizer))
    n = torch.arange(16_000)
    wav = level * (torch.sin(0.07 * n) + 0.5 * torch.sin(0.31 * n))[None, None]
    with torch.no_grad():
        estimate = codec.decoder(codec.encoder(nn.functional.pad(wav, (0, 320))))[..., 320:]
    snr_db = 10 * torch.log10(wav.square().sum() / (wav - estimate).square().sum())
    assert snr_db > 5


def test_every_parameter_gets_a_gradient():
    codec = make()
    made = codec(noise(2, 1, 8 * HOP))
    (made.wav.square().mean() + made.quantized.commitment_loss).backward()
    without = [name for name, p in codec.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_the_same_seed_builds_the_same_codec():
    first, second, third = make().state_dict(), make().state_dict(), make(seed=1).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)


@pytest.mark.parametrize("multiplies_bytes", [False, True])
def test_the_default_codec_keeps_its_budget_of_parameters_and_work(monkeypatch, multiplies_bytes):
    monkeypatch.setattr(search, "_multiplies_bytes", lambda: multiplies_bytes)
    codec = build_codec(ModelConfig())
    assert sum(count_parameters(codec).values()) <= 15e6
    assert 0.8 < count_gmacs_per_s(codec) < 0.9  # products of bytes are work, too


def test_parameters_are_counted_by_part_codebooks_included():
    for update in ("ema", "gradient"):
        quantizer = QuantizerConfig(n_codebooks=4, codebook_size=32, codebook_update=update)
        counts = count_parameters(make(ModelConfig(latent_dim=12, quantizer=quantizer)))
        assert list(counts) == ["encoder", "quantizer", "decoder"]
        assert counts["quantizer"] == 4 * 32 * 12


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_saved_weights_give_the_same_codes_after_loading(tmp_path, update):
    quantizer = QuantizerConfig(n_codebooks=4, codebook_size=32, codebook_update=update)
    config = ModelConfig(hop=HOP, fine_hop=4, width=6, fine_width=5, latent_dim=12, quantizer=quantizer)
    codec, wav = make(config), noise(2, 1, 100)
    save_codec(codec, tmp_path / "exact", dtype=torch.float32)
    assert torch.equal(load_codec(tmp_path / "exact").encode(wav), codec.encode(wav))


def test_half_precision_weights_are_stable_from_the_first_save_on(tmp_path):
    wav = noise(2, 1, 100)
    save_codec(make(), tmp_path / "first")
    first = load_codec(tmp_path / "first")
    save_codec(first, tmp_path / "second")
    second = load_codec(tmp_path / "second")
    for name in (WEIGHTS, CONFIG):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert torch.equal(first.encode(wav), second.encode(wav))
    assert first.model_id == second.model_id
    assert len(first.model_id) == 8
    assert {tensor.dtype for tensor in load_file(tmp_path / "first" / WEIGHTS).values()} == {torch.float16}


def test_a_loaded_codec_is_float32_ready_to_run_and_frozen(tmp_path):
    save_codec(make(), tmp_path)
    codec = load_codec(tmp_path)
    assert codec.config == SMALL
    assert not codec.training
    assert {p.dtype for p in codec.state_dict().values()} == {torch.float32}
    assert not any(p.requires_grad for p in codec.parameters())


def test_other_weights_have_another_model_id(tmp_path):
    save_codec(make(), tmp_path / "a")
    save_codec(make(seed=1), tmp_path / "b")
    ids = {make().model_id, load_codec(tmp_path / "a").model_id, load_codec(tmp_path / "b").model_id}
    assert len(ids) == 3
    assert bytes(8) in ids  # a codec that was never saved


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_folder_without_one_of_the_files_is_refused(tmp_path, name):
    save_codec(make(), tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ModelError, match=f"holds no {name}"):
        load_codec(tmp_path)


def _cut(folder):
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-7])


def _replace_weights(folder):
    save_file({"x": torch.zeros(1)}, folder / WEIGHTS)


def _edit(**changes):
    def damage(folder):
        config = json.loads((folder / CONFIG).read_text()) | changes
        (folder / CONFIG).write_text(json.dumps(config))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(_cut, id="truncated-weights"),
        pytest.param(lambda folder: (folder / WEIGHTS).write_bytes(b""), id="empty-weights"),
        pytest.param(lambda folder: (folder / WEIGHTS).write_bytes(b"not safetensors"), id="other-bytes"),
        pytest.param(_replace_weights, id="weights-of-another-program"),
        pytest.param(lambda folder: (folder / CONFIG).write_text("{"), id="broken-json"),
        pytest.param(lambda folder: (folder / CONFIG).write_text("[]"), id="json-that-is-no-table"),
        pytest.param(lambda folder: (folder / CONFIG).write_bytes(b"\xff\xfe"), id="config-not-text"),
        pytest.param(_edit(width=7), id="another-width"),
        pytest.param(_edit(widht=7), id="unknown-setting"),
        pytest.param(_edit(hop="16"), id="wrong-type"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(tmp_path, damage):
    save_codec(make(), tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelError, match=str(tmp_path)):
        load_codec(tmp_path)


def test_weights_of_versions_before_the_logarithm_are_refused_with_a_remedy(tmp_path):
    save_codec(make(), tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    weights["decoder.output_scale"] = weights.pop("decoder.log_output_scale").exp()
    save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(ModelError, match=r"of a version before 0\.4: use that one, or train anew"):
        load_codec(tmp_path)
