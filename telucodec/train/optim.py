"""Optimizer, learning-rate schedule and averaged weights."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from telucodec.config import OptimConfig

LINEAR_PATH = ("analysis", "synthesis", "linear_in", "linear_out")
"""Layers that start as a lapped transform and identities: right from the start, and easily ruined."""


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) with three groups of the parameters that learn.

    Kernels decay; gains, biases and codebooks do not; the linear path moves at its own, lower rate and
    does not decay. Each group carries its ``lr_share``, by which `set_learning_rate` multiplies.
    """
    kernels: list[Tensor] = []
    linear: list[Tensor] = []
    rest: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_linear_path = any(part.endswith(LINEAR_PATH) for part in name.split("."))
        is_kernel = parameter.dim() == 3 and "codebooks" not in name
        (linear if is_linear_path else kernels if is_kernel else rest).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": kernels, "weight_decay": config.weight_decay, "lr_share": 1.0},
        {"params": rest, "weight_decay": 0.0, "lr_share": 1.0},
        {"params": linear, "weight_decay": 0.0, "lr_share": config.linear_path_lr_share},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group ``rate`` times its share."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_share"]


def learning_rate(step: int, n_steps: int, config: OptimConfig) -> float:
    """Rate of update ``step`` from 0: linear warmup, then cosine to ``final_lr_share`` at ``n_steps``."""
    if step < config.n_warmup_steps:
        return config.lr * (step + 1) / config.n_warmup_steps
    done = min(1.0, (step - config.n_warmup_steps) / max(1, n_steps - config.n_warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return config.lr * (config.final_lr_share + (1 - config.final_lr_share) * cosine)


class WeightAverage:
    """Exponential moving average of everything in a model's ``state_dict`` (Polyak averaging).

    The decay is ramped, ``min(decay, (1 + n) / (10 + n))``, so that early averages forget the start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.n_updates = 0
        self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.n_updates += 1
        decay = min(self.decay, (1 + self.n_updates) / (10 + self.n_updates))
        for name, tensor in model.state_dict().items():
            self.weights[name].lerp_(tensor, 1 - decay)

    def state_dict(self) -> dict[str, int | dict[str, Tensor]]:
        return {"n_updates": self.n_updates, "weights": self.weights}

    def load_state_dict(self, state: dict[str, int | dict[str, Tensor]]) -> None:
        n_updates, weights = state["n_updates"], state["weights"]
        assert isinstance(n_updates, int)
        assert isinstance(weights, dict)
        self.n_updates = n_updates
        for name, tensor in weights.items():
            self.weights[name].copy_(tensor)
