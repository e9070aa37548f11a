"""The training step and loop. If it is not readable on one screen, something here belongs elsewhere."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from telucodec.config import Config
from telucodec.model.codebooks import CodebookLearner, CodebookStats
from telucodec.model.codec import Codec, Reconstruction
from telucodec.model.decoder import N_SIGNED
from telucodec.model.quantizer import Quantized
from telucodec.train.engine import Fabric, clip_gradients, is_finite_everywhere, loss_scale
from telucodec.train.losses import ReconstructionLoss, Terms
from telucodec.train.optim import WeightAverage, learning_rate, set_learning_rate

PLAIN = 0.2  # of the items are judged as decoded, without the enhancer


class Adversary(Protocol):
    """Owns its discriminators and their optimizer, so the step below never sees them.

    ``update`` lets them learn; ``steer`` adds to the gradient that ``fake`` will get. Both tell figures,
    which are logged and never optimized.
    """

    def update(self, real: Tensor, fake: Tensor) -> Terms: ...
    def steer(self, real: Tensor, fake: Tensor) -> Terms: ...


@dataclass
class Trainee:
    """Everything a step changes."""

    codec: Codec
    wrapped: torch.nn.Module  # the same codec behind Fabric's precision and gradient exchange
    optimizer: torch.optim.Optimizer
    learner: CodebookLearner
    average: WeightAverage | None
    step: int = 0  # updates done
    lr_share: float = 1.0  # of the planned learning rate; the doctor halves it


@dataclass(frozen=True)
class StepResult:
    """What one update saw; tensors stay on the device until somebody reads them."""

    terms: Terms  # unweighted, with the weighted total, gradient norms and levels of the batch
    weighted: Terms
    codebooks: CodebookStats
    is_skipped: bool = False  # the loss or a gradient was not finite, so nothing was updated


def train_step(
    fabric: Fabric,
    trainee: Trainee,
    loss: ReconstructionLoss,
    config: Config,
    wav: Tensor,
    *,
    adversary: Adversary | None = None,
) -> StepResult:
    """One update on ``wav`` ``[B, 1, T]``; every random choice is keyed by seed and step."""
    codec, optimizer = trainee.codec, trainee.optimizer
    seed = config.train.seed * 1_000_003 + trainee.step
    rate = trainee.lr_share * learning_rate(trainee.step, config.train.n_steps, config.optim)
    set_learning_rate(optimizer, rate)
    n_active = draw_stages(wav.shape[0], config, seed).to(wav.device)

    made: Reconstruction = trainee.wrapped(
        wav, n_active, is_spread=True, place=draw_places(wav, ~seed), is_plain=draw_plain(wav, config, seed)
    )
    estimate = made.wav.float()
    terms = loss(estimate, wav) | {"vq": quantizer_loss(made.quantized, config)}
    weighted = {name: getattr(config.loss, name) * value for name, value in terms.items()}
    seen: Terms = {}
    if adversary is not None:
        seen = adversary.update(wav, estimate.detach()) | adversary.steer(wav, estimate)
    total = torch.stack(list(weighted.values())).sum()

    optimizer.zero_grad(set_to_none=True)
    fabric.backward(total)
    norms = clip_gradients(fabric, codec, optimizer, config.optim.max_grad_norm)
    is_sound = is_finite_everywhere(fabric, total.detach(), norms["grad_norm"])
    if is_sound or loss_scale(fabric) is not None:  # a loss scaler skips by itself, and must see the step
        optimizer.step()
    is_learned = is_sound and config.train.parts == "all"
    stats = learn_codebooks(trainee, made, seed) if is_learned else trainee.learner.stats()
    if trainee.average is not None and is_sound:
        trainee.average.update(codec)
    trainee.step += 1
    every = seen | terms | {"total": total, "lr": torch.tensor(rate)} | norms | batch_levels(made, wav)
    every["output_scale"] = codec.decoder.output_scale.clone()
    return StepResult(
        terms={name: value.detach() for name, value in every.items()},
        weighted={name: value.detach() for name, value in weighted.items()},
        codebooks=stats,
        is_skipped=not is_sound,
    )


def learn_codebooks(trainee: Trainee, made: Reconstruction, seed: int) -> CodebookStats:
    """Let the codebooks learn what the gradient does not teach them; after the optimizer moved."""
    return trainee.learner.update(
        trainee.codec.quantizer,
        made.latents,
        made.quantized.codes,
        made.quantized.n_active,
        seed=seed,
        optimizer=trainee.optimizer,
    )


def quantizer_loss(quantized: Quantized, config: Config) -> Tensor:
    """Codebook loss (where gradients train the codebooks) plus the weighted commitment loss."""
    commitment = config.model.quantizer.commitment_weight * quantized.commitment_loss
    if config.model.quantizer.codebook_update == "gradient":
        return quantized.codebook_loss + commitment
    return commitment


@torch.no_grad()
def batch_levels(made: Reconstruction, wav: Tensor) -> Terms:
    """How loud and how close the estimate of a batch ``[B, 1, T]`` is; logged, never optimized."""
    estimate = made.wav.float()
    noise, energy = (estimate - wav).square().mean(), wav.square().mean()
    return {
        "codebook": made.quantized.codebook_loss,
        "commitment": made.quantized.commitment_loss,
        "residual_share": made.quantized.residual_share[-1],
        "output_min": estimate.min(),
        "output_max": estimate.max(),
        "output_dc": estimate.mean(),
        "range_ratio": _range(estimate) / _range(wav).clamp_min(1e-6),
        "snr_db": 10 * torch.log10((energy + 1e-10) / (noise + 1e-10)),
    }


def draw_stages(n_items: int, config: Config, seed: int) -> Tensor:
    """Quantizer dropout: stages used by each item ``[B]``; all, or 1 to Q for a random share of the items."""
    generator = torch.Generator().manual_seed(seed)
    n_codebooks, dropout = config.model.quantizer.n_codebooks, config.model.quantizer.dropout
    drawn = torch.randint(1, n_codebooks + 1, (n_items,), generator=generator)
    is_dropped = torch.rand(n_items, generator=generator) < dropout
    return torch.where(is_dropped, drawn, n_codebooks)


def draw_plain(wav: Tensor, config: Config, seed: int) -> Tensor:
    """Which items of ``[B, 1, T]`` do without the enhancer, as live packets do; none if it learns alone."""
    share = 0.0 if config.train.parts == "enhancer" else PLAIN
    generator = torch.Generator().manual_seed(seed ^ 1)
    return (torch.rand(len(wav), generator=generator) < share).to(wav.device)


def draw_places(wav: Tensor, seed: int) -> Tensor:
    """Numbers of the first frame ``[B]`` of items ``[B, 1, T]``, as if each were cut from a long stream."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(N_SIGNED, (len(wav),), generator=generator).to(wav.device)


def train(
    step_fn: Callable[[], StepResult],
    *,
    start: int,
    n_steps: int,
    every: Mapping[str, int],
    actions: Mapping[str, Callable[[int, StepResult], None]],
    is_over: Callable[[], bool],
) -> int:
    """Run updates ``start + 1`` to ``n_steps``, or until ``is_over``; returns the number of the last.

    Each action is called when its period divides the step, and all of them after the last step.
    """
    step = start
    while step < n_steps:
        result = step_fn()
        step += 1
        is_last = step == n_steps or is_over()
        for name, action in actions.items():
            if is_last or step % every[name] == 0:
                action(step, result)
        if is_last:
            break
    return step


def _range(wav: Tensor) -> Tensor:
    """Mean peak-to-peak amplitude of ``[B, 1, T]``."""
    return (wav.amax(dim=(1, 2)) - wav.amin(dim=(1, 2))).mean()
