"""What the decoder hears where packets are lost: the last frame, softer and softer, then comfort noise.

Latents are extrapolated, not samples: the decoder's transform overlaps its frames, so nothing clicks
where the gap begins or ends. Lost frames have the magnitudes of the last latents, softer from the first one
on, for a wrong guess then disturbs less. Their signs carry the phase of a lapped transform, and repeating
those breaks the pitch; they are taken from an encoding of the sound so far, continued by its pitch period,
if it has one. (Noise has no phase to keep. The magnitudes of that encoding are worse than the repeated
ones: what was decoded once has lost its finest detail.) What remains after the fade has the level of the
quietest frames heard so far, so a long gap sounds like the room, not like a switched-off line.
benchmarks/loss.py compares with repeating and with silence.

The noise is drawn from a generator seeded by the place of the gap: the same stream with the same losses
always sounds the same.

Shapes: B batch, D latent width, L frames.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

FIRST = 0.88  # of the last magnitude in the first lost frame
FADE = 0.95  # of that, for each frame after it
N_SLOW, FAST_FADE = 10, 0.85  # what is lost for longer than this fades by so much more
N_CONTEXT = 8  # frames of sound that are continued and encoded again for their signs
PITCH_HZ = (50, 400)  # of the period that continues the sound
VOICED = 0.7  # correlation of one period with the one before it, from which on there is a pitch
_MATCH_S = 0.03  # of sound that one period and the one before it are compared over
ROOM_RISE = 1.01  # per frame: how fast the quietest level follows a room that gets louder
ROOM_SHARE = 0.7  # of the quietest frames' magnitude in the comfort noise


@dataclass(frozen=True)
class Heard:
    """What is remembered of the frames that did arrive; replaced, never changed."""

    last: Tensor  # [B, D, 1] the latest latents that arrived
    room: Tensor  # [B, D, 1] magnitudes of the quietest frames
    levels: tuple[float, ...]  # [B] their means, by which they were chosen
    n_lost: int = 0  # frames made up since the last one that arrived


def heard_nothing(like: Tensor, latent_dim: int) -> Heard:
    """Silence before the first frame."""
    zeros = like.new_zeros(like.shape[0], latent_dim, 1)
    return Heard(zeros, zeros, (math.inf,) * like.shape[0])


def hear(heard: Heard, latents: Tensor) -> Heard:
    """Remember frames ``[B, D, L]``, at least one, that arrived."""
    means = latents.abs().mean(dim=1).tolist()  # [B, L] plain numbers: a loop over tensors takes long
    room, levels = heard.room, []
    for index, before in enumerate(heard.levels):
        place, level = _quietest(means[index], before)
        if place is not None:
            room = room.clone()
            room[index] = latents[index, :, place : place + 1].abs()
        levels.append(level)
    return Heard(latents[..., -1:], room, tuple(levels))


def _quietest(means: list[float], level: float) -> tuple[int | None, float]:
    """Place of the last frame quieter than all before it, if any is, and the level to compare the next with.

    The level before the frames is ``level``; with each frame it rises by `ROOM_RISE`.
    """
    quietest = None
    for place, mean in enumerate(means):
        if mean < level:
            quietest, level = place, mean
        else:
            level *= ROOM_RISE
    return quietest, level


def conceal(heard: Heard, n_frames: int, seed: int, signs: Tensor | None = None) -> tuple[Tensor, Heard]:
    """Latents ``[B, D, n_frames]`` for frames that were lost, and what to remember after them.

    ``signs``, of the same shape, are those to give to the magnitudes that are held; their own if None.
    """
    generator = torch.Generator().manual_seed(seed)
    lost = heard.n_lost + 1 + torch.arange(n_frames, device=heard.last.device)  # [L], 1 for the first
    shape = (*heard.last.shape[:2], n_frames)
    gain = FIRST * FADE ** (lost - 1) * FAST_FADE ** (lost - N_SLOW).clamp(min=0)
    noise = torch.randn(shape, generator=generator).to(heard.last.device)
    held = heard.last if signs is None else heard.last.abs() * signs
    latents = gain * held + (1 - gain) * ROOM_SHARE * noise * heard.room
    return latents, replace(heard, n_lost=heard.n_lost + n_frames)


def context_samples(hop: int, rate_hz: int) -> int:
    """Samples of sound to keep: whole frames, enough to find the longest period in."""
    n_searched = round(_MATCH_S * rate_hz) + rate_hz // PITCH_HZ[0]
    return hop * max(N_CONTEXT, -(-n_searched // hop))


def continued(wav: Tensor, n_samples: int, rate_hz: int) -> Tensor | None:
    """``[T + n_samples]``: ``wav`` ``[T]``, at least `context_samples`, and its last pitch period, repeated.

    The period is the lag within `PITCH_HZ` at which the end of ``wav`` is most like what came before
    (normalized correlation). None if nothing is as much alike as `VOICED` asks for.
    """
    n_match = round(_MATCH_S * rate_hz)
    longest, shortest = (rate_hz // pitch_hz for pitch_hz in PITCH_HZ)
    ends = wav[-(n_match + longest) :].unfold(0, n_match, 1)[:-shortest]  # [lags, n_match], longest lag first
    target = wav[-n_match:]
    match = ends @ target / (ends.square().sum(dim=1) * target.square().sum() + 1e-12).sqrt()
    if match.max() < VOICED:
        return None
    period = longest - int(match.argmax())
    n_periods = -(-n_samples // period)
    return torch.cat([wav, wav[-period:].repeat(n_periods)[:n_samples]])
