"""The lapped transform gives the signal back before the first step; companding has an inverse."""

import pytest
import torch
from streaming import in_chunks

from telucodec.nn.lapped import compress, expand, lapped_analysis, lapped_synthesis, mdct_basis

HOPS = pytest.mark.parametrize("hop", [2, 8, 40])


@HOPS
def test_the_basis_is_orthonormal_within_a_frame_and_across_the_overlap(hop):
    basis = mdct_basis(hop).double()
    torch.testing.assert_close(basis @ basis.T, torch.eye(hop, dtype=torch.float64), rtol=0, atol=1e-6)
    overlap = basis[:, hop:] @ basis[:, :hop].T  # a frame with the next one
    torch.testing.assert_close(overlap, torch.zeros_like(overlap), rtol=0, atol=1e-6)


@HOPS
def test_synthesis_of_the_analysis_is_the_signal_one_hop_late(hop):
    torch.manual_seed(0)
    x = torch.randn(2, 1, 6 * hop, dtype=torch.float64)
    y = lapped_synthesis(hop).double()(lapped_analysis(hop).double()(x))
    assert y.shape == x.shape
    torch.testing.assert_close(y[..., hop:], x[..., :-hop], rtol=0, atol=1e-5)
    assert y[..., :hop].abs().max() < 1e-5


def test_the_analysis_keeps_energy():
    torch.manual_seed(0)
    x = torch.nn.functional.pad(torch.randn(1, 1, 64, dtype=torch.float64), (0, 8))
    coefficients = lapped_analysis(8).double()(x)
    assert coefficients.square().sum().item() == pytest.approx(x.square().sum().item(), rel=1e-5)


def test_a_tone_lands_in_the_band_of_its_frequency():
    hop, band = 40, 11
    n = torch.arange(10 * hop, dtype=torch.float64)
    tone = torch.cos(torch.pi / hop * (band + 0.5) * n)[None, None]
    energy = lapped_analysis(hop).double()(tone)[0, :, 1:].square().sum(dim=1)
    assert energy.argmax().item() == band
    assert energy[band - 1 : band + 2].sum() > 0.95 * energy.sum()


@pytest.mark.parametrize("sizes", [(1,) * 6, (1, 3, 2)], ids=["frame-by-frame", "uneven"])
def test_both_directions_join_from_chunks(sizes):
    torch.manual_seed(0)
    x = torch.randn(2, 1, 48, dtype=torch.float64)
    analysis, synthesis = lapped_analysis(8).double(), lapped_synthesis(8).double()
    coefficients = analysis(x)
    joined = in_chunks(analysis, x, [8 * n for n in sizes])
    torch.testing.assert_close(joined, coefficients, rtol=0, atol=1e-12)
    joined = in_chunks(synthesis, coefficients, sizes)
    torch.testing.assert_close(joined, synthesis(coefficients), rtol=0, atol=1e-12)


@pytest.mark.parametrize("exponent", [0.4, 0.6, 1.0])
def test_expanding_undoes_compressing_above_the_floor(exponent):
    size = torch.logspace(-1.5, 2, 200, dtype=torch.float64)
    x = torch.cat([-size, size])
    torch.testing.assert_close(expand(compress(x, exponent), exponent), x, rtol=2e-3, atol=0)


def test_an_exponent_of_one_changes_nothing():
    x = torch.linspace(-3, 3, 101, dtype=torch.float64)
    assert torch.equal(compress(x, 1.0), x)
    assert torch.equal(expand(x, 1.0), x)


def test_companding_is_odd_rising_and_has_a_finite_slope_at_zero():
    x = torch.linspace(-1, 1, 2001, dtype=torch.float64, requires_grad=True)
    for function in (compress, expand):
        y = function(x, 0.6)
        (slope,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close(y, -y.flip(0), rtol=0, atol=1e-12)
        assert (y.diff() > 0).all()
        assert torch.isfinite(slope).all()
    assert compress(torch.tensor([1e-6]), 0.6).item() == pytest.approx(1e-6 * 1e-3**-0.4, rel=1e-3)
