"""Levels of bands: what is measured, what codes say, and what is heard of them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from telucodec.bitstream.coder import N_LEVEL_STAGES
from telucodec.frames import pad_to_frames
from telucodec.ladders import Frames
from telucodec.model.levels import LARGEST, N_BANDS, N_POINTS, STEP_DB, BandLevels
from telucodec.prior.depths import steady
from telucodec.refining import Refiner, refinement_of
from telucodec.streaming import StreamDecoder, StreamEncoder

HOP = 320
N_FRAMES = 12


@pytest.fixture(scope="module")
def levels():
    return BandLevels(HOP)


def noise(n_frames=N_FRAMES, seed=0):
    return 0.1 * torch.randn(1, 1, (1 + n_frames) * HOP, generator=torch.Generator().manual_seed(seed))


def added(levels, wav, codes, **settings):
    return levels.step(levels.spectra(wav), codes, levels.initial_state(wav), **settings)[0]


def told(levels, steps):
    """Codes ``[1, Q, L]`` of ``[F, L]`` levels."""
    return levels.encode(torch.as_tensor(steps))[None]


def drawn(seed, n_frames=N_FRAMES):
    """Levels that stay for a while, of any size."""
    generator = np.random.default_rng(seed)
    return np.repeat(generator.integers(-LARGEST, LARGEST + 1, (N_BANDS, n_frames)), 3, axis=1)[:, :n_frames]


def test_what_is_four_decibels_louder_measures_one_step_more(levels):
    spectra = levels.spectra(noise())
    louder = levels.measure(spectra * 10 ** (STEP_DB / 20)) - levels.measure(spectra)
    torch.testing.assert_close(louder, torch.ones_like(louder), rtol=0, atol=1e-3)
    silence = levels.measure(torch.zeros_like(spectra))
    assert torch.isfinite(silence).all()


@pytest.mark.parametrize("band", [0, 5, 15])
def test_a_band_becomes_as_loud_as_its_level_says_and_others_stay(levels, band):
    wav, steps = noise(), np.zeros((N_BANDS, N_FRAMES), dtype=np.int64)
    steps[band] = 2
    out = wav[..., :-HOP] + added(levels, wav, told(levels, steps))
    inside = slice(4 * HOP, -2 * HOP)  # behind the first frame, which has no level before it
    measured = levels.measure(levels.spectra(out[..., inside])).mean(dim=(0, 2))
    measured -= levels.measure(levels.spectra(wav[..., :-HOP][..., inside])).mean(dim=(0, 2))
    expected = np.zeros(N_BANDS)
    expected[band] = 2
    np.testing.assert_allclose(measured, expected, atol=0.25)  # blocks that overlap mix neighbors


@given(seed=st.integers(0, 99))
def test_codes_say_levels_whatever_they_were_before(levels, seed):
    steps = drawn(seed)
    codes = told(levels, steps)
    assert (codes[..., 0] >= N_POINTS).all(), "the first frame of a packet stands alone"
    wav = noise()
    _, state = levels.step(levels.spectra(wav), codes, levels.initial_state(wav))
    np.testing.assert_array_equal(state.levels[0].flatten(), steps[:, -1])
    other = levels.initial_state(wav)._replace(levels=torch.full((1, N_LEVEL_STAGES, 2), 3))
    _, same = levels.step(levels.spectra(wav), codes, other)
    torch.testing.assert_close(same.levels, state.levels)


def test_levels_that_stay_have_the_code_zero(levels):
    codes = told(levels, np.full((N_BANDS, N_FRAMES), -3))[0]
    assert (codes[:, 1:] == 0).all()


@given(seed=st.integers(0, 99), cut=st.integers(1, N_FRAMES - 1))
def test_pieces_give_what_the_whole_gives(levels, seed, cut):
    wav, codes = noise(), told(levels, drawn(seed))
    codes[:, :, seed % N_FRAMES] = -1
    spectra, state = levels.spectra(wav), levels.initial_state(wav)
    whole, _ = levels.step(spectra, codes, state)
    first, state = levels.step(spectra[:, :cut], codes[..., :cut], state)
    second, _ = levels.step(spectra[:, cut:], codes[..., cut:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=2), whole)


def test_lost_frames_stay_as_decoded_and_so_do_those_behind_them(levels):
    wav, steps = noise(), np.full((N_BANDS, N_FRAMES), 2)
    codes = told(levels, steps)
    codes[..., 4:6] = -1
    out = added(levels, wav, codes)
    assert out[..., 5 * HOP :].abs().max() < 1e-6
    assert out[..., : 4 * HOP].abs().max() > 0.01


def test_fewer_stages_change_the_lowest_bands_and_refined_bins_stay(levels):
    wav, codes = noise(), told(levels, np.full((N_BANDS, N_FRAMES), 2))
    assert added(levels, wav, codes[:, :0]).abs().max() == 0

    def spectrum(out):
        return levels.spectra(out)[:, 2:-2].abs().amax(dim=(0, 1))

    low = spectrum(added(levels, wav, codes[:, :1]))
    assert low[30] > 0.1
    assert low[60:].max() < 1e-2 * low.max()
    high = spectrum(added(levels, wav, codes, first_bin=60))
    assert high[:55].max() < 1e-2 * high.max()
    assert high[70] > 0.1


@given(seed=st.integers(0, 99))
def test_a_steady_choice_costs_no_more_than_any_other(seed):
    generator = np.random.default_rng(seed)
    costs, change = generator.random((5, 2, 3)), np.array([[0.2], [0.6]])

    def cost(row, choice):
        return costs[np.arange(5), row, choice].sum() + change[row, 0] * (np.diff(choice) != 0).sum()

    chosen = steady(costs, change)
    for row in range(2):
        every = np.stack(np.meshgrid(*[range(3)] * 5), axis=-1).reshape(-1, 5)
        best = min(cost(row, choice) for choice in every)
        assert cost(row, chosen[:, row]) == pytest.approx(best)


def test_levels_of_files_come_near_to_those_of_the_recording(shipped, clip):
    wav = torch.from_numpy(clip)[None, None]
    refiner, layer = Refiner(shipped, 24, 6.0), refinement_of(shipped)
    codes, errors = shipped.encode_with_errors(wav, n_codebooks=8)
    heard = refiner.targets(pad_to_frames(wav, shipped.config.hop, shipped.config.delay))
    frames = Frames(codes[0].numpy().astype(np.uint16), errors[0].numpy(), targets=heard)
    packets = [frames.part(at, at + 25) for at in range(0, codes.shape[2], 25)]
    plain = Refiner(shipped, 24, 6.0)
    off = np.hstack([plain._left(packet.codes, packet.targets)[:N_BANDS] for packet in packets])
    left = np.hstack(refiner.residuals(packets, [packet.codes for packet in packets]))
    said = torch.from_numpy(left[None, :N_LEVEL_STAGES].astype(np.int64))
    assert (said < N_POINTS).float().mean() > 0.9, "changes are cheap, whole levels rare"
    chosen, state = [], layer.levels.initial_state(wav)
    for frame in range(said.shape[2]):
        spectra = torch.zeros(1, 1, HOP, dtype=torch.complex64)
        _, state = layer.levels.step(spectra, said[..., frame : frame + 1], state)
        chosen.append(state.levels[0].flatten().numpy())
    chosen = np.stack(chosen, axis=1)
    assert abs(chosen).max() <= LARGEST
    before, after = np.sqrt(np.mean(off**2)), np.sqrt(np.mean((off - chosen) ** 2))
    assert after < 0.6 * before, (before, after)
    changes = (np.diff(chosen, axis=1) != 0).mean()
    assert changes < (np.diff(off.round(), axis=1) != 0).mean() / 2
    assert 0.15 < (off - chosen)[abs(off) < LARGEST].mean() < 0.45, "a little too quiet on purpose"


def test_levels_change_more_often_where_bits_are_many(shipped, clip):
    wav, changes = torch.from_numpy(clip)[None, None], []
    codes, errors = shipped.encode_with_errors(wav, n_codebooks=8)
    for kbps in (6.0, 15.0):
        refiner = Refiner(shipped, 24, kbps)
        heard = refiner.targets(pad_to_frames(wav, shipped.config.hop, shipped.config.delay))
        frames = Frames(codes[0].numpy().astype(np.uint16), errors[0].numpy(), targets=heard)
        (left,) = refiner.residuals([frames], [frames.codes])
        changes.append((left[:N_LEVEL_STAGES, 1:] != 0).mean())
    assert changes[1] > 1.3 * changes[0]


def test_refined_files_have_the_levels_of_the_recording(shipped, clip, levels):
    def measured(wav):
        return levels.measure(levels.spectra(torch.from_numpy(wav)[None, None]))[:, 6:]  # above coefficients

    off = []
    for entropy in ("variable", "refined"):
        encoder, decoder = (
            StreamEncoder(shipped, kbps=9.2, entropy=entropy, is_held=True),
            StreamDecoder(shipped),
        )
        data = encoder.push(clip) + encoder.flush()
        out = np.concatenate([decoder.push(data), decoder.flush()])
        off.append((measured(out) - measured(clip)).square().mean().sqrt())
    assert off[1] < 0.8 * off[0]
