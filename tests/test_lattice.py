"""The quantizer of high rates: its noise, its steps, its stages, and the rate that the encoder keeps to.

Shapes: B batch, D latent width, L frames, Q codebooks.
"""

import math

import numpy as np
import pytest
import soundfile
import torch
from torch.autograd.functional import jacobian

from telucodec.allocation import Stepped
from telucodec.config import Config, DataConfig, ModelConfig, QuantizerConfig, TrainConfig
from telucodec.errors import ConfigError
from telucodec.evaluate.waveform import snr_db
from telucodec.ladders import Frames
from telucodec.model.codec import linear_codec, load_codec
from telucodec.model.lattice import DEAD_ZONE, LatticeQuantizer, lattice_points, step_for, step_of
from telucodec.prior.fitting import fit_tables
from telucodec.prior.tables import Tables
from telucodec.streaming import StreamDecoder, StreamEncoder
from telucodec.train.run import train_run

D, L = 32, 5
SWEEPS = (8, 32, 32)
Q = 1 + sum(SWEEPS) // 2
TINY = ModelConfig(
    hop=32,
    fine_hop=16,
    width=4,
    fine_width=4,
    n_encoder_units=0,
    n_decoder_units=0,
    n_fine_units=0,
    latent_dim=D,
    companding=1.0,
    quantizer=QuantizerConfig(n_codebooks=Q, codebook_size=256, sweeps=SWEEPS),
)


@pytest.fixture
def quantizer():
    return LatticeQuantizer(sweeps=SWEEPS, codebook_size=256, latent_dim=D)


def draw(n_items=2, seed=1, loudness=1.0):
    return loudness * torch.randn(n_items, D, L, generator=torch.Generator().manual_seed(seed))


def tone(n_samples=8000, level=0.1):
    n = np.arange(n_samples)
    noise = np.random.default_rng(0).standard_normal(n_samples)
    wav = level * (np.sin(0.1 * n) + 0.5 * np.sin(0.31 * n) + 0.03 * noise)
    return wav.astype(np.float32)


class Silent:
    """A screen that shows nothing."""

    def line(self, text):
        self.text = text


def test_the_points_are_the_nearest_to_zero_and_all_different():
    points = lattice_points(256)
    length = points.square().sum(dim=1)
    assert points[0].tolist() == [0, 0]
    assert len({tuple(point) for point in points.tolist()}) == 256
    assert (length.diff() >= 0).all()
    outside = [(x, y) for x in range(-20, 21) for y in range(-20, 21) if x * x + y * y < int(length[-1])]
    assert {tuple(point) for point in points.tolist()} >= set(outside)


@pytest.mark.parametrize("loudness", [1e-3, 1.0, 300.0], ids=["quiet", "usual", "loud"])
def test_no_latent_is_off_by_more_than_half_a_step_and_the_dead_zone(quantizer, loudness):
    latents = draw(loudness=loudness)
    codes = quantizer.encode_at(latents, step_for(latents.square().mean(dim=(1, 2)), 30.0))
    error = (quantizer.decode(codes) - latents).abs() / step_of(codes[:, :1])
    assert float(error.max()) <= 0.5 + DEAD_ZONE + 1e-3
    assert float(error.max()) > 0.4  # the step was not finer than it says


def test_a_larger_step_makes_more_noise_and_more_zeros(quantizer):
    latents = draw()
    fine, coarse = (quantizer.encode_at(latents, torch.full((2,), step)) for step in (120, 150))
    noise = [float((quantizer.decode(codes) - latents).square().sum()) for codes in (fine, coarse)]
    assert noise[1] > 10 * noise[0]
    assert (coarse[:, 1:] == 0).sum() > (fine[:, 1:] == 0).sum()


def test_only_a_frame_too_loud_for_the_lattices_takes_a_larger_step(quantizer):
    latents = draw(1)
    latents[0, 20, 2] = 500.0
    steps = quantizer.encode_at(latents, torch.tensor([150]))[0, 0]
    assert steps[2] > 150
    assert steps[[0, 1, 3, 4]].tolist() == [150] * 4


def test_the_errors_are_those_of_what_the_first_stages_decode(quantizer):
    latents = draw()
    codes, errors = quantizer.encode_with_errors(latents)
    assert errors.shape == (2, Q + 1, L)
    for n_stages in (1, 3, 20, Q):
        left = (latents - quantizer.decode(codes[:, :n_stages])).square().sum(dim=1)
        torch.testing.assert_close(errors[:, n_stages], left, rtol=1e-3, atol=1e-4)
    fewer, fewer_errors = quantizer.encode_with_errors(latents, 3)
    assert torch.equal(fewer, codes[:, :3])
    assert fewer_errors.shape == (2, 4, L)


def test_an_absent_code_adds_nothing(quantizer):
    codes = quantizer.encode(draw())
    shortened = codes.clone()
    shortened[:, 9:, 2] = -1
    changed = quantizer.decode(shortened)
    assert torch.equal(changed[..., 2], quantizer.decode(codes[:, :9])[..., 2])
    assert torch.equal(changed[..., 3], quantizer.decode(codes)[..., 3])


def test_silence_is_decoded_as_silence(quantizer):
    assert not quantizer.decode(quantizer.encode(torch.zeros(1, D, L))).any()


def test_the_jacobian_is_exactly_the_identity(quantizer):
    matrix = jacobian(lambda x: quantizer(x).latents, draw(1))
    assert torch.equal(matrix.reshape(D * L, D * L), torch.eye(D * L))


def test_contexts_are_known_when_a_code_is_decoded(quantizer):
    contexts = quantizer.contexts()
    assert len(contexts) == Q
    assert contexts[0] == [(0, -1), (0, -2)]
    for stage, pairs in enumerate(contexts[1:], start=1):
        assert len(set(pairs)) == len(pairs) <= 9
        assert all(0 <= source < stage for source, _ in pairs)
    assert (1, 0) in contexts[5]  # the same pair, one sweep before
    assert (4, 0) in contexts[4 + 1 + 3]
    assert (5, -1) in contexts[6]  # the pair below, one frame before


def test_tables_hold_more_stages_than_a_byte_can_count(tmp_path):
    rng = np.random.default_rng(0)
    codes = [np.minimum(rng.geometric(0.5, (140, 60)) - 1, 3).astype(np.uint16) for _ in range(4)]
    contexts = [[(0, -1)], *([(stage - 1, 0)] for stage in range(1, 140))]
    tables = fit_tables(codes, codebook_size=4, n_classes=8, rank=3, contexts=contexts)
    tables.save(tmp_path / "entropy.npz")
    assert tables.contexts(139) == [(0, 138, 0)]
    assert Tables.load(tmp_path / "entropy.npz").hash == tables.hash


def test_the_linear_codec_alone_gives_the_waveform_back():
    wav = tone()
    codec = linear_codec(TINY)
    estimate = codec(torch.from_numpy(wav)[None, None]).wav[0, 0].detach().numpy()
    assert 27.0 < snr_db(wav, estimate, 16_000) < 40.0


class Counting:
    """A coder whose bits are the magnitudes of the codes."""

    def encode_all(self, packets):
        return [bytes(int(codes.sum()) // 8) for codes in packets]


@pytest.mark.parametrize("kbps", [1.0, 4.0, 16.0])
def test_the_allocator_takes_the_finest_step_within_the_budget(kbps):
    def codes_at(latents, step):
        return np.full((1, 10), round(2000 * 2 ** (-step / 14)), dtype=np.uint16)

    packets = [
        Frames(np.full((1, 10), 40), np.zeros((2, 10)), np.zeros((D, 10), dtype=np.float32)) for _ in range(4)
    ]
    payloads = Stepped(Counting(), codes_at, kbps).payloads(packets, 1.0)
    assert 0.9 * 1000 * kbps <= 8 * sum(map(len, payloads)) <= 1000 * kbps


def test_packets_that_never_fit_take_the_largest_step():
    seen = []

    def codes_at(latents, step):
        seen.append(step)
        return np.full((1, 10), 800, dtype=np.uint16)

    packets = [Frames(np.full((1, 10), 40), np.zeros((2, 10)), np.zeros((D, 10), dtype=np.float32))]
    assert len(Stepped(Counting(), codes_at, 0.1).payloads(packets, 1.0)) == 1
    assert seen[-1] == 255


@pytest.mark.parametrize(
    "settings",
    [
        {"n_codebooks": Q - 1, "codebook_size": 256, "sweeps": SWEEPS},
        {"n_codebooks": Q, "codebook_size": 1024, "sweeps": SWEEPS},
        {"n_codebooks": 4, "codebook_size": 256, "sweeps": (3, 3)},
    ],
    ids=["stages", "size", "odd"],
)
def test_settings_that_do_not_fit_a_lattice_are_refused(settings):
    with pytest.raises(ConfigError, match="quantizer"):
        QuantizerConfig(**settings)


def test_a_lattice_does_not_train_and_nothing_else_is_only_tables():
    with pytest.raises(ConfigError, match=r"train\.parts"):
        Config(model=TINY)
    with pytest.raises(ConfigError, match=r"train\.parts"):
        Config(train=TrainConfig(parts="tables"))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lattice")
    for number, level in enumerate((0.02, 0.05, 0.1, 0.2)):
        soundfile.write(folder / f"{number}.wav", tone(24_000, level), 16_000)
    config = Config(
        model=TINY, train=TrainConfig(parts="tables"), data=DataConfig(validation_share=0.3, crop_s=0.5)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TELUCODEC_CACHE", str(folder / "cache"))
        outcome = train_run(config, folder, folder / "run", Silent())
    assert outcome.weights is not None
    return load_codec(outcome.weights)


def test_streams_keep_to_their_rate_and_more_bits_give_more_snr(fitted):
    wav, found = tone(), []
    for kbps in (24.0, 48.0):
        encoder = StreamEncoder(fitted, kbps=kbps, is_held=True)
        data = encoder.push(wav) + encoder.flush()
        assert 0.85 * kbps < encoder.summary().payload_kbps <= kbps
        decoder = StreamDecoder(fitted)
        found.append(snr_db(wav, np.concatenate([decoder.push(data), decoder.flush()]), 16_000))
    assert found[1] > found[0] + 3.0
    assert math.isfinite(found[0])


def test_without_a_rate_the_stream_has_about_the_default_snr(fitted):
    wav = tone()
    encoder, decoder = StreamEncoder(fitted), StreamDecoder(fitted)
    data = encoder.push(wav) + encoder.flush()
    estimate = np.concatenate([decoder.push(data), decoder.flush()])
    assert 26.0 < snr_db(wav, estimate, 16_000) < 40.0
