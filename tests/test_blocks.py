"""Residual units: they stream, they look back only, and they start harmless."""

import pytest
import torch
from streaming import in_chunks, reach

from telucodec.nn.blocks import ChannelRMSNorm, ResidualUnit, UnitStack

BRICKS = pytest.mark.parametrize(
    ("build", "n_past"),
    [
        pytest.param(lambda: ResidualUnit(4), 2, id="unit"),
        pytest.param(lambda: ResidualUnit(4, kernel_size=1), 0, id="pointwise-unit"),
        pytest.param(lambda: UnitStack(4, 3), 6, id="stack-of-3"),
        pytest.param(lambda: UnitStack(4, 0), 0, id="empty-stack"),
    ],
)


def make(build):
    torch.manual_seed(0)
    return build().double(), torch.randn(2, 4, 10, dtype=torch.float64)


@BRICKS
@pytest.mark.parametrize("sizes", [(1,) * 10, (1, 7, 2), (4, 6)], ids=["frame-by-frame", "uneven", "two"])
def test_chunks_join_to_the_whole(build, n_past, sizes):
    brick, x = make(build)
    torch.testing.assert_close(in_chunks(brick, x, sizes), brick(x), rtol=0, atol=1e-12)


@BRICKS
def test_a_frame_depends_on_its_past_and_not_on_its_future(build, n_past):
    brick, x = make(build)
    for frame in range(10):
        expected = torch.zeros(10, dtype=torch.bool)
        expected[max(0, frame - n_past) : frame + 1] = True
        assert torch.equal(reach(brick, x, frame, 1), expected), f"frame {frame}"


def test_the_norm_gives_every_time_step_a_unit_rms_of_its_own():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 6, dtype=torch.float64) * torch.logspace(-2, 3, 6, dtype=torch.float64)
    rms = ChannelRMSNorm(5).double()(x).square().mean(dim=1).sqrt()
    torch.testing.assert_close(rms, torch.ones_like(rms), rtol=0, atol=0.01)


def test_the_norm_of_silence_is_silence_with_a_finite_gradient():
    x = torch.zeros(1, 3, 2, requires_grad=True)
    y = ChannelRMSNorm(3)(x)
    y.sum().backward()
    assert not y.any()
    assert torch.isfinite(x.grad).all()


def test_a_unit_of_scale_zero_passes_its_input():
    torch.manual_seed(0)
    unit = ResidualUnit(4, scale=0.0)
    x = torch.randn(1, 4, 5)
    assert torch.equal(unit(x), x)


def test_a_fresh_stack_neither_blows_up_nor_swallows_the_signal():
    torch.manual_seed(0)
    x = torch.randn(4, 32, 50)
    ratio = UnitStack(32, 8)(x).std() / x.std()
    assert 0.7 < ratio < 1.5
