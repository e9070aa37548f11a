"""The search of held-back frames at low rates: less work, hardly other depths, and no rate left unused."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from telucodec.bitstream.container import summarize
from telucodec.coders import measured_rates
from telucodec.ladders import DepthLadder, Frames
from telucodec.model.live import Analysis, analysis
from telucodec.model.quantizer import ResidualVectorQuantizer
from telucodec.pipeline import PRETRAINED
from telucodec.prior.depths import MIN_DEPTH
from telucodec.searching import Searcher, build_searcher
from telucodec.streaming import StreamEncoder

FOLDER = PRETRAINED / "speech-16k"
Q, D, L = 12, 8, 25
BITS = np.cumsum(np.linspace(10, 6, Q))  # later stages are cheaper


@pytest.fixture(scope="module")
def searcher():
    torch.manual_seed(0)
    quantizer = ResidualVectorQuantizer(
        n_codebooks=Q, codebook_size=64, latent_dim=D, update="ema", search_width=4
    )
    with torch.no_grad():
        quantizer.codebooks.normal_()
        quantizer.codebooks *= 0.77 ** torch.arange(Q)[:, None, None]
    half = Analysis(torch.nn.Identity(), quantizer, quantizer.stages(), Q)
    errors = half.searched(torch.from_numpy(np.stack([packet.latents for packet in draw(8)])))[1]
    left = (errors.mean(dim=(0, 2)) / errors[:, 0].mean()).numpy()
    return lambda kbps: Searcher(half, BITS, left, 0.01, kbps, torch.device("cpu"))


def waiting(latents):
    """As `Searcher.waiting` where all latents weigh alike."""
    return Frames(np.zeros((0, latents.shape[1]), np.uint16), np.square(latents).sum(axis=0)[None], latents)


def draw(n_packets):
    rng = np.random.default_rng(0)
    return [waiting(rng.standard_normal((D, L)).astype(np.float32)) for _ in range(n_packets)]


def seconds_of(packets):
    return len(packets) * L / 50


def price_of(packets, kbps):
    return DepthLadder(packets, BITS, 0.01).price_within(1000 * kbps * seconds_of(packets))


def n_searched(packets):
    """Stages that frames were searched for, ``[L]`` of all packets."""
    errors = np.concatenate([packet.errors for packet in packets], axis=1)
    return Q - (errors[:0:-1] != errors[-2::-1]).argmax(axis=0)


def encoded(codec, wav, **settings):
    encoder = StreamEncoder(codec, is_held=True, **settings)
    return encoder.push(wav) + encoder.flush()


@pytest.mark.parametrize("kbps", [1.2, 2.0])
def test_frames_are_searched_a_little_further_than_they_are_coded(searcher, kbps):
    packets = draw(8)
    found = searcher(kbps).searched(packets, seconds_of(packets))
    whole = searcher(kbps).searched_whole(packets)
    assert price_of(found, kbps) == pytest.approx(price_of(whole, kbps), rel=0.05)
    n_coded = np.searchsorted(BITS, 1000 * kbps / 50)
    assert n_coded < n_searched(found).mean() < n_coded + 0.5 * (Q - n_coded)
    assert n_searched(found).min() >= MIN_DEPTH
    assert n_searched(whole).mean() > Q - 0.5
    for packet, latents in zip(found, packets, strict=True):
        assert packet.codes.shape == (Q, L)
        np.testing.assert_allclose(packet.errors[:1], latents.errors, rtol=1e-5)


def test_frames_end_earlier_where_bits_are_foreseen_to_be_dear(searcher):
    packets = draw(8)
    usual = n_searched(searcher(2.0).searched(packets, seconds_of(packets))).mean()
    dear = n_searched(searcher(1.2).searched(packets, seconds_of(packets)))
    slow = replace(searcher(2.0), left=np.linspace(1, 0.4, Q + 1))  # late stages would take off as much
    assert dear.mean() < usual - 1
    assert dear.min() == MIN_DEPTH
    assert n_searched(slow.searched(packets, seconds_of(packets))).mean() < usual - 1
    short = [packets[0], waiting(packets[1].latents[:, :3]), *packets[2:]]  # packets of other lengths
    assert [item.codes.shape for item in searcher(2.0).searched(short, 3.5)[:2]] == [(Q, L), (Q, 3)]


def test_a_rate_that_is_left_is_noticed(searcher):
    assert searcher(2.0).is_short([bytes(100), bytes(140)], 1.0)  # 1.92 kbps
    assert not searcher(2.0).is_short([bytes(100), bytes(145)], 1.0)


@pytest.mark.parametrize(("n_silent", "kbps"), [(150_000, 1.2), (0, 2.0)])
def test_speech_gets_the_bits_that_silence_leaves(shipped, clip, n_silent, kbps):
    wav = np.concatenate([clip, np.zeros(n_silent, dtype=np.float32)])
    taken = summarize(encoded(shipped, wav, kbps=kbps)).payload_kbps
    assert 0.96 * kbps < taken <= kbps


def test_quiet_speech_takes_its_rate_too(shipped, clip):
    quiet = 10 ** (-50 / 20) * clip
    assert summarize(encoded(shipped, quiet, kbps=1.2)).payload_kbps > 0.97 * 1.2


def test_only_low_rates_of_measured_weights_are_searched_so(shipped, tmp_path):
    half, rate_hz = analysis(shipped, 24), shipped.config.frame_rate_hz
    assert build_searcher(half, FOLDER, 24, 3.2, rate_hz) is not None
    assert build_searcher(half, FOLDER, 24, 4.5, rate_hz) is None
    assert build_searcher(half, FOLDER, 8, 2.0, rate_hz) is None  # most of eight stages are needed
    text = (FOLDER / "rates.json").read_text()
    (tmp_path / "rates.json").write_text(text.replace("left", "unknown"))
    assert build_searcher(half, tmp_path, 24, 3.2, rate_hz) is None  # fitted by an earlier version


def test_what_cannot_wait_is_searched_at_once(shipped):
    assert StreamEncoder(shipped, kbps=1.6, is_held=True)._searcher is not None
    for settings in (
        {},
        {"is_held": True, "frames_per_packet": 5, "n_codebooks": 4},
        {"is_held": True, "entropy": "static"},
    ):
        assert StreamEncoder(shipped, kbps=1.6, **settings)._searcher is None


def test_stages_leave_less_and_less():
    left = measured_rates(FOLDER).left
    assert len(left) == 25
    assert left[0] == 1
    assert all(after < before for before, after in pairwise(left))


@pytest.mark.parametrize("size", [977, 16_000])
def test_bytes_do_not_depend_on_the_pieces(shipped, clip, size):
    encoder = StreamEncoder(shipped, kbps=1.6, is_held=True)
    parts = [encoder.push(clip[at : at + size]) for at in range(0, len(clip), size)]
    assert b"".join(parts) + encoder.flush() == encoded(shipped, clip, kbps=1.6)
