"""Two questions to every streaming brick: do chunks join to the whole, and does anything see the future?"""

import torch


def in_chunks(brick, x, sizes):
    """Outputs of ``brick.step`` over chunks of ``sizes`` samples of ``x`` ``[B, C, T]``, joined."""
    assert sum(sizes) == x.shape[-1], "the chunks must make up the signal"
    state, parts = brick.initial_state(x), []
    for chunk in x.split(sizes, dim=-1):
        y, state = brick.step(chunk, state)
        parts.append(y)
    return torch.cat(parts, dim=-1)


def reach(brick, x, frame, frame_size):
    """Which input samples output frame ``frame`` (``frame_size`` samples) depends on, ``[T]`` booleans."""
    x = x.detach().clone().requires_grad_()
    y = brick(x)[..., frame * frame_size : (frame + 1) * frame_size]
    (grad,) = torch.autograd.grad((y * torch.randn_like(y)).sum(), x)
    return (grad != 0).any(dim=1).any(dim=0)
