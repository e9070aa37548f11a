"""Properties of the streaming convolutions, on shapes small enough to read in a failure."""

import pytest
import torch
from streaming import in_chunks, reach
from torch.nn import functional as fn

from telucodec.nn.conv import SHORT_FRAMES, CausalConv1d, CausalConvTranspose1d

DOWN = pytest.mark.parametrize(
    ("kernel", "stride"),
    [
        pytest.param(1, 1, id="pointwise"),
        pytest.param(3, 1, id="context-2"),
        pytest.param(4, 2, id="kernel-2x-stride"),
        pytest.param(7, 3, id="odd-kernel"),
        pytest.param(5, 5, id="no-context"),
    ],
)
UP = pytest.mark.parametrize(
    ("kernel", "stride"),
    [
        pytest.param(2, 2, id="no-overlap"),
        pytest.param(4, 2, id="kernel-2x-stride"),
        pytest.param(6, 2, id="kernel-3x-stride"),
        pytest.param(3, 1, id="stride-1"),
    ],
)
SIZES = pytest.mark.parametrize(
    "sizes", [(8,), (1,) * 8, (1, 3, 4), (5, 1, 2)], ids=["whole", "frame-by-frame", "growing", "uneven"]
)


FRAMES = pytest.mark.parametrize("n_frames", [1, 8, SHORT_FRAMES, SHORT_FRAMES + 1])


def make_down(kernel, stride, n_frames=8):
    torch.manual_seed(0)
    conv = CausalConv1d(2, 3, kernel, stride=stride).double()
    return conv, torch.randn(2, 2, n_frames * stride, dtype=torch.float64)


def make_up(kernel, stride, n_frames=8):
    torch.manual_seed(0)
    conv = CausalConvTranspose1d(3, 2, kernel, stride=stride).double()
    return conv, torch.randn(2, 3, n_frames, dtype=torch.float64)


@DOWN
@SIZES
def test_chunks_of_a_convolution_join_to_the_whole(kernel, stride, sizes):
    conv, x = make_down(kernel, stride, 8 * 5)  # more than are few
    y = in_chunks(conv, x, [n * stride for n in sizes] * 5)
    torch.testing.assert_close(y, conv(x), rtol=0, atol=1e-12)


@UP
@SIZES
def test_chunks_of_a_transposed_convolution_join_to_the_whole(kernel, stride, sizes):
    conv, x = make_up(kernel, stride, 8 * 5)
    torch.testing.assert_close(in_chunks(conv, x, sizes * 5), conv(x), rtol=0, atol=1e-12)


@DOWN
def test_a_convolution_reaches_exactly_its_context_and_no_future(kernel, stride):
    conv, x = make_down(kernel, stride)
    for frame in range(8):
        stop = (frame + 1) * stride
        start = max(0, stop - stride - conv.context)
        expected = torch.zeros(8 * stride, dtype=torch.bool)
        expected[start:stop] = True
        assert torch.equal(reach(conv, x, frame, 1), expected), f"frame {frame}"


@UP
def test_a_transposed_convolution_reaches_no_future_frame(kernel, stride):
    conv, x = make_up(kernel, stride)
    n_past = -(-conv.tail // stride)
    for frame in range(8):
        expected = torch.zeros(8, dtype=torch.bool)
        expected[max(0, frame - n_past) : frame + 1] = True
        assert torch.equal(reach(conv, x, frame, stride), expected), f"frame {frame}"


@DOWN
@FRAMES
def test_a_whole_convolution_is_the_library_convolution_after_silence(kernel, stride, n_frames):
    conv, x = make_down(kernel, stride, n_frames)
    padded = fn.pad(x, (kernel - stride, 0))
    expected = fn.conv1d(padded, conv.conv.weight, conv.conv.bias, stride=stride)
    torch.testing.assert_close(conv(x), expected, rtol=0, atol=1e-12)
    assert conv(x).shape == (2, 3, n_frames)


@UP
@FRAMES
def test_a_whole_transposed_convolution_is_the_library_one_without_its_tail(kernel, stride, n_frames):
    conv, x = make_up(kernel, stride, n_frames)
    expected = fn.conv_transpose1d(x, conv.weight, stride=stride)[..., : n_frames * stride]
    torch.testing.assert_close(conv(x), expected, rtol=0, atol=1e-12)


@DOWN
@FRAMES
def test_few_frames_and_many_learn_alike(kernel, stride, n_frames):
    conv, x = make_down(kernel, stride, n_frames)
    padded = fn.pad(x, (kernel - stride, 0))
    (ours,) = torch.autograd.grad(conv(x).square().sum(), conv.conv.weight)
    y = fn.conv1d(padded, conv.conv.weight, conv.conv.bias, stride=stride)
    (theirs,) = torch.autograd.grad(y.square().sum(), conv.conv.weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_two_streams_through_one_module_do_not_meet():
    conv, x = make_down(3, 1)
    ours, theirs = x[:1], x[1:]
    state, other = conv.initial_state(ours), conv.initial_state(theirs)
    parts = []
    for start in (0, 4):
        y, state = conv.step(ours[..., start : start + 4], state)
        _, other = conv.step(theirs[..., start : start + 4], other)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, dim=-1), conv(ours), rtol=0, atol=1e-12)


def test_a_chunk_that_cuts_a_frame_is_refused():
    conv, x = make_down(4, 2)
    with pytest.raises(ValueError, match="chunk of 3 samples is not a multiple of the stride 2"):
        conv.step(x[..., :3], conv.initial_state(x))


def test_a_stride_longer_than_the_kernel_is_refused():
    with pytest.raises(ValueError, match="spans 2 samples but stride is 3"):
        CausalConv1d(1, 1, 2, stride=3)


@pytest.mark.parametrize("kernel", [2, 4])
def test_a_transposed_kernel_that_leaves_hops_uneven_is_refused(kernel):
    with pytest.raises(ValueError, match=f"spans {kernel} samples; expected a multiple of the stride 3"):
        CausalConvTranspose1d(1, 1, kernel, stride=3)
