"""Deep paths in bfloat16: how much it changes, what stays as it was, and where it is used."""

from pathlib import Path

import pytest
import torch
from conftest import build_tiny
from streaming import in_chunks

from telucodec.audio import read_audio
from telucodec.model import live
from telucodec.nn.rounded import Rounded, rounded
from telucodec.refining import Refiner
from telucodec.streaming import StreamEncoder

CLIP = Path(__file__).parents[1] / "data" / "clips" / "te-cv-42973999.flac"
HOP = 320


def error_db(rough, exact):
    """Energy of the difference, relative to that of ``exact``."""
    return 10 * ((rough - exact).square().sum() / exact.square().sum()).log10().item()


@torch.inference_mode()
def test_rounding_stays_far_below_latents_and_sound_of_speech(shipped):
    wav = read_audio(CLIP, 16_000)[0][None, :, : 150 * HOP]
    latents = shipped.encoder(wav)
    rough = in_chunks(rounded(shipped.encoder), wav, (50 * HOP, 100 * HOP))
    assert -70 < error_db(rough, latents) < -47
    heard = in_chunks(rounded(shipped.decoder), latents, (50, 100))
    assert -75 < error_db(heard, shipped.decoder(latents)) < -54


@torch.inference_mode()
def test_the_linear_path_is_not_rounded(codec):
    for network, x in (
        (codec.encoder, torch.randn(1, 1, 40 * HOP) / 10),
        (codec.decoder, torch.randn(1, codec.config.latent_dim, 40)),
    ):
        network = rounded(network)
        parts = [part for part in network.modules() if isinstance(part, Rounded)]
        assert len(parts) >= 3
        weights = {weight.dtype for part in parts for weight in part.parameters()}
        assert weights == {torch.bfloat16}
        assert {weight.dtype for name, weight in network.named_parameters() if "linear" in name} == {x.dtype}
        assert network.step(x, network.initial_state(x))[0].dtype == x.dtype


def test_the_network_itself_is_left_alone_and_shares_what_is_not_rounded(codec):
    before = {name: weight.clone() for name, weight in codec.encoder.state_dict().items()}
    fast = rounded(codec.encoder)
    assert fast.linear_out.weight is codec.encoder.linear_out.weight
    assert not any(isinstance(module, Rounded) for module in codec.encoder.modules())
    for name, weight in codec.encoder.state_dict().items():
        assert torch.equal(weight, before[name])


@pytest.mark.parametrize("is_faster", [True, False])
def test_only_encoders_of_files_round_and_only_where_it_is_faster(monkeypatch, is_faster):
    monkeypatch.setattr(live, "rounds_fast", lambda _: is_faster)
    codec = build_tiny(seed=0)  # another one each time: halves are kept
    assert has_rounded(StreamEncoder(codec)._analysis.encoder) is is_faster
    assert has_rounded(Refiner(codec, 16, 6.0)._synthesis.decoder) is is_faster
    assert not has_rounded(StreamEncoder(codec, frames_per_packet=1)._analysis.network)
    assert not has_rounded(live.synthesis(codec).decoder)


def has_rounded(network):
    return any(isinstance(module, Rounded) for module in network.modules())
