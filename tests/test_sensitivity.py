"""Weights of the search for codes: how much an error of each latent is heard."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import TINY, build_tiny
from test_training import voiced

from telucodec.coders import RATES
from telucodec.errors import ModelError
from telucodec.model.codec import save_codec
from telucodec.model.quantizer import ResidualVectorQuantizer
from telucodec.pipeline import open_codec
from telucodec.train.sensitivity import EXPONENT, search_weights

D = TINY.latent_dim


def weighted_folder(tmp_path, weights):
    save_codec(build_tiny(0), tmp_path)
    rates = {"kbps": [0.5, 1.0, 1.5, 2.0], "search_weights": weights}
    (tmp_path / RATES).write_text(json.dumps(rates), encoding="utf-8")
    return tmp_path


def test_the_weighted_error_is_what_the_search_lowers():
    torch.manual_seed(0)
    quantizer = ResidualVectorQuantizer(
        n_codebooks=3, codebook_size=64, latent_dim=D, update="ema", search_width=8
    )
    quantizer.codebooks.normal_()
    latents = torch.randn(1, D, 200)
    weights = torch.linspace(0.1, 3, D)

    def errors():
        codes, found = quantizer.encode_with_errors(latents)
        return (latents - quantizer.decode(codes)).square(), found[0, -1]

    plain, found = errors()
    torch.testing.assert_close(found, plain.sum(dim=1)[0])
    quantizer.weigh_search(weights.tolist())
    weighted, found = errors()
    torch.testing.assert_close(found, (weights @ weighted)[0])
    assert (weights @ weighted).mean() < 0.98 * (weights @ plain).mean()
    assert plain.mean() < 0.98 * weighted.mean()


def test_weights_that_are_all_alike_change_no_code():
    codec = build_tiny(0)
    wav = voiced()[None, None]
    before = codec.encode(wav)
    codec.quantizer.weigh_search([4.0] * D)  # a power of two is exact
    assert torch.equal(codec.encode(wav), before)


def test_they_come_with_the_rates(tmp_path):
    weights = np.linspace(0.5, 2, D).round(3).tolist()
    codec = open_codec(str(weighted_folder(tmp_path, weights)), device="cpu")
    torch.testing.assert_close(codec.quantizer.search_scale.square(), torch.tensor(weights))
    assert "search_scale" not in " ".join(codec.state_dict()), "weights and their id stay as they are"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0] * (D - 1), f"search weights of {D - 1} latents.*expected {D}"),
        ([0.0] * D, "not all above 0"),
        ([math.nan] * D, "not all above 0"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, weights, message):
    with pytest.raises(ModelError, match=f"{message}.*telucodec fit-entropy"):
        open_codec(str(weighted_folder(tmp_path, weights)), device="cpu")


def test_a_latent_that_is_heard_more_weighs_more():
    codec = build_tiny(0).requires_grad_(False)
    clips = [voiced(8000, 100.0)[None, None], voiced(8000, 160.0)[None, None]]
    before = search_weights(codec, clips)
    assert len(before) == D
    assert search_weights(codec, clips) == before, "the same at every call"
    for conv in (codec.decoder.deep_in.conv, codec.decoder.linear_in):
        conv.weight[:, 3] = 0  # nothing hears it
    after = search_weights(codec, clips)
    assert min(before) > 0.1
    assert after[3] == min(after) == pytest.approx((1e-6) ** EXPONENT, rel=0.01)


def test_the_shipped_ones_are_a_good_part_of_one(shipped):
    weights = shipped.quantizer.search_scale.square()
    assert 0.4 < weights.mean() < 1.1
    assert weights.max() > 1.5 * weights.min()
