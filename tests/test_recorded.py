"""Recorded steps: what the network computes, for every size of chunk, and never from weights of the past."""

import pytest
import torch
from conftest import build_tiny
from streaming import in_chunks

from telucodec.model.live import live_analysis, live_synthesis
from telucodec.nn.blocks import UnitStack
from telucodec.nn.conv import CausalConvTranspose1d
from telucodec.nn.packed import packed
from telucodec.nn.recorded import Recorded


@pytest.mark.parametrize("is_packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize(
    "build",
    [lambda: UnitStack(24, 2), lambda: CausalConvTranspose1d(24, 5, 8, stride=4)],
    ids=["units", "transposed"],
)
@pytest.mark.parametrize("sizes", [(3, 3, 3, 3), (3, 1, 3, 5)], ids=["alike", "uneven"])
@torch.inference_mode()
def test_a_recording_computes_what_was_recorded(build, sizes, is_packed):
    torch.manual_seed(0)
    with torch.inference_mode(mode=False):
        brick = build().half().float()
        network = packed(torch.nn.ModuleList([brick]))[0] if is_packed else brick
        x = torch.randn(1, 24, sum(sizes))
        recorded = Recorded(network, x[..., :3], brick.initial_state(x))
    state, parts = brick.initial_state(x), []
    for chunk in x.split(list(sizes), dim=-1):
        y, state = recorded.step(chunk, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, dim=-1), in_chunks(network, x, sizes), rtol=0, atol=1e-6)


def test_sessions_share_recordings_until_a_weight_changes():
    codec = build_tiny(seed=0).half().float()
    first = live_analysis(codec, 4, 1)
    assert live_analysis(codec, 4, 1) is first
    assert live_analysis(codec, 3, 1) is not first
    codes = torch.tensor([[[3], [5], [-1], [-1]]])
    state = codec.decoder.initial_state(torch.zeros(1, 16, 1))
    live_synthesis(codec, 4, 1)
    with torch.no_grad():
        codec.decoder.linear_in.weight.mul_(0.5)  # packed, where this machine can
        expected, _ = codec.decoder.step(codec.quantizer.decode(codes), state)
        (heard, _), _ = live_synthesis(codec, 4, 1).step(codes, state)
    torch.testing.assert_close(heard, expected, rtol=0, atol=1e-6)
    assert live_analysis(codec, 4, 1) is not first
