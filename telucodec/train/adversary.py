"""The adversary of a run: discriminators with an optimizer of their own, and how far they pull the codec.

The pull is not a term of the loss. It is a gradient at the estimate, added to what the reconstruction terms
send there and scaled to a share of its norm, as the balancer of EnCodec does (arXiv 2210.13438, section 3.4).
So it weighs the same whatever the scale of losses, discriminators or precision, and the total keeps its
meaning: it is the reconstruction loss before and after an adversary comes in.

Shapes: B batch, T samples.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as fn

from telucodec.config import Config
from telucodec.errors import ModelError
from telucodec.train.checkpoint import checkpoints, load_checkpoint
from telucodec.train.discriminators import Discriminators, Verdict
from telucodec.train.engine import Fabric, clip_gradients, is_finite_everywhere, loss_scale
from telucodec.train.losses import Terms

FLOOR = 1e-3  # RMS below which an item counts as silence, and is not brought to level


class Discriminating:
    """The `telucodec.train.loop.Adversary` of a run."""

    def __init__(self, config: Config, fabric: Fabric) -> None:
        settings = config.adversary
        self.settings, self.fabric = settings, fabric
        self.n_updates = 0
        self.judges = Discriminators(settings.fft_sizes, settings.periods, settings.channels)
        betas = (config.optim.beta1, config.optim.beta2)
        optimizer = torch.optim.AdamW(self.judges.parameters(), settings.lr, betas, weight_decay=0.0)
        self.wrapped, self.optimizer = fabric.setup(self.judges, optimizer)

    def update(self, real: Tensor, fake: Tensor) -> Terms:
        """Let the discriminators learn from ``[B, 1, T]`` each; tells how they did before."""
        gain = gain_of(real)
        scores = self.wrapped(gain.repeat(2, 1, 1) * torch.cat([real, fake]))
        pairs = [score.float().flatten(1).chunk(2) for score in scores]
        loss = torch.stack([self._loss(theirs, ours) for theirs, ours in pairs]).mean()
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        norms = clip_gradients(self.fabric, self.judges, self.optimizer, self.settings.max_grad_norm)
        is_sound = is_finite_everywhere(self.fabric, loss.detach(), norms["grad_norm"])
        if is_sound or loss_scale(self.fabric) is not None:  # as in `train_step`
            self.optimizer.step()
        self.n_updates += 1
        middle = 0.0 if self.settings.loss == "hinge" else 0.5
        right = [
            ((theirs > middle).float().mean() + (ours < middle).float().mean()) / 2 for theirs, ours in pairs
        ]
        return {
            "adversary/loss": loss,
            "adversary/accuracy": torch.stack(right).mean(),
            "adversary/grad_norm": norms["grad_norm"],
        }

    def steer(self, real: Tensor, fake: Tensor) -> Terms:
        """Add the pull to the gradient that ``fake`` ``[B, 1, T]`` will get; nothing while they only learn.

        Nothing is accumulated in the discriminators.
        """
        if self.n_updates <= self.settings.n_lead_steps:
            return {}
        gain = gain_of(real)
        leaf = fake.detach().requires_grad_()
        with self.fabric.autocast():
            with torch.no_grad():
                targets = self.judges.verdicts(gain * real)
            verdicts = self.judges.verdicts(gain * leaf)
        deceit = torch.stack([self._deceit(verdict.scores.float()) for verdict in verdicts]).mean()
        features = torch.stack([mismatch(*pair) for pair in zip(verdicts, targets, strict=True)]).mean()
        part = self.settings.feature_part
        pull = (1 - part) * self._direction(deceit, leaf) + part * self._direction(features, leaf)
        share = self.settings.share
        fake.register_hook(lambda rest: rest + share * rest.norm() * pull)  # type: ignore[no-untyped-call]
        return {"adversary/deceit": deceit.detach(), "adversary/features": features.detach()}

    def _loss(self, real: Tensor, fake: Tensor) -> Tensor:
        if self.settings.loss == "hinge":
            return fn.relu(1 - real).mean() + fn.relu(1 + fake).mean()
        return (1 - real).square().mean() + fake.square().mean()

    def _deceit(self, fake: Tensor) -> Tensor:
        """What the codec would lower to be taken for a recording."""
        return -fake.mean() if self.settings.loss == "hinge" else (1 - fake).square().mean()

    def _direction(self, term: Tensor, leaf: Tensor) -> Tensor:
        """The gradient of ``term`` at ``leaf``, of norm 1."""
        scale = loss_scale(self.fabric) or 1.0  # half precision would lose it
        (gradient,) = torch.autograd.grad(scale * term, leaf, retain_graph=True)
        direction: Tensor = gradient / gradient.norm().clamp_min(1e-30)
        return direction

    def state_dict(self) -> dict[str, Any]:
        """What further training needs: weights, optimizer and age."""
        return {
            "judges": self.judges.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "n_updates": self.n_updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.judges.load_state_dict(state["judges"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr  # the settings win over the rate of the checkpoint
        self.n_updates = state["n_updates"]

    def take_over(self, run: Path) -> None:
        """Go on with the discriminators of another run: its folder, or one of its checkpoints.

        Raises:
            ModelError: there is no checkpoint, it holds no discriminators, or they have another shape.
        """
        found = checkpoints(run / "checkpoints") if run.is_dir() else [run]
        state = load_checkpoint(found[-1]).get("adversary") if found else None
        if not state:
            raise ModelError(
                f"{run} holds no discriminators; name a run with adversary.share above 0, "
                "or leave adversary.init_from empty"
            )
        try:
            self.load_state_dict(state)
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"{run} holds discriminators of other settings: {error}; give the same [adversary] "
                "settings as that run, or leave adversary.init_from empty"
            ) from error

    def line(self) -> str:
        """What a person is told at the start."""
        n_parameters = sum(p.numel() for p in self.judges.parameters())
        settings = self.settings
        return (
            f"adversary: {n_parameters / 1e6:.2f} M parameters, {self.n_updates} updates old, learns from "
            f"step {settings.start_step} on, pulls after {settings.n_lead_steps} updates"
        )


def build_adversary(config: Config, fabric: Fabric) -> Discriminating | None:
    """Fresh discriminators of ``config.train.seed``; None if the settings want none."""
    if not config.adversary.share:
        return None
    with torch.random.fork_rng():
        torch.manual_seed(config.train.seed)
        return Discriminating(config, fabric)


def gain_of(real: Tensor) -> Tensor:
    """Factors ``[B, 1, 1]`` that bring items to an RMS of 1; the same go to the estimates."""
    return 1 / (real.square().mean(dim=(1, 2), keepdim=True).sqrt() + FLOOR)


def mismatch(ours: Verdict, theirs: Verdict) -> Tensor:
    """Mean over layers of the L1 between features, of the mean size of the recording's."""
    terms = [
        (a.float() - b.float()).abs().mean() / b.float().abs().mean().clamp_min(1e-5)
        for a, b in zip(ours.features, theirs.features, strict=True)
    ]
    return torch.stack(terms).mean()
