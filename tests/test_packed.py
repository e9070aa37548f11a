"""Packed networks: what the plain ones compute, from the same weights, and only where nothing is rounded."""

import pytest
import torch
from streaming import in_chunks

from telucodec.nn.blocks import UnitStack
from telucodec.nn.conv import SHORT_FRAMES, CausalConv1d, CausalConvTranspose1d
from telucodec.nn.packed import can_pack, packed

pytestmark = pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="no FBGEMM on this machine"
)
BRICKS = pytest.mark.parametrize(
    ("build", "stride"),
    [
        pytest.param(lambda: CausalConv1d(24, 40, 3), 1, id="conv"),
        pytest.param(lambda: CausalConv1d(24, 40, 8, stride=4, bias=False), 4, id="conv-stride-4"),
        pytest.param(lambda: CausalConvTranspose1d(24, 5, 8, stride=4), 1, id="transposed"),
        pytest.param(lambda: UnitStack(24, 2), 1, id="units"),
    ],
)


def make(build):
    """A brick inside a network, as it is after it was saved and loaded."""
    torch.manual_seed(0)
    return build().half().float()


@BRICKS
@pytest.mark.parametrize("n_frames", [1, 7, SHORT_FRAMES, SHORT_FRAMES + 1])
@torch.inference_mode()
def test_packed_bricks_compute_the_same(build, stride, n_frames):
    network = torch.nn.ModuleList([make(build)])
    brick, fast = network[0], packed(network)[0]
    x = torch.randn(2, 24, (n_frames + 3) * stride)
    sizes = (n_frames * stride, 3 * stride)
    torch.testing.assert_close(in_chunks(fast, x, sizes), brick(x), rtol=1e-5, atol=1e-5)


def test_a_packed_network_shares_its_weights_and_leaves_the_other_alone():
    network = torch.nn.ModuleList([make(lambda: UnitStack(24, 2))])
    kinds = [type(module) for module in network.modules()]
    fast = packed(network)
    assert [type(module) for module in network.modules()] == kinds
    assert [type(module) for module in fast.modules()] != kinds
    for (name, ours), (same, theirs) in zip(network.named_parameters(), fast.named_parameters(), strict=True):
        assert name == same
        assert ours is theirs


def test_weights_that_would_be_rounded_are_not_packed():
    network = torch.nn.ModuleList([make(lambda: CausalConv1d(4, 4, 3))])
    assert can_pack(network[0].conv.weight)
    with torch.no_grad():
        network[0].conv.bias[0] = 1 / 3
    assert not can_pack(network[0].conv.bias)
    assert packed(network) is network
