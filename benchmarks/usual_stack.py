"""The field's usual speech codec in training, beside ours: DAC's architecture, random weights, no adversary.

DAC (Kumar 2023, arXiv 2306.06546) as the library transformers has it, at 16 kHz: strided convolutions by 2,
4, 5 and 8, residual units with snake activations, weight norm on every layer, 18 residual stages of 1024
codewords chosen in 16 dimensions. Its width is that which does our work for a second of audio; at our number
of parameters it would do five times as much, and make a third of the updates. Losses and their weights are
DAC's without the adversarial ones, on our mel scales, and an L1 of the waveform.

What the library lacks for training is done here: it leaves a loss for each item, whose mean is taken; it
returns 8 samples less than it is given, so training compares what it returns, and scoring gives it a frame
more. The quantizer works in float32 whatever the precision of the rest, as ours does.

Shapes: B batch, T samples.
"""

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import DacConfig, DacModel

from telucodec.config import Config, LossConfig
from telucodec.train.assembly import batches_of
from telucodec.train.data import Corpus
from telucodec.train.engine import build_fabric
from telucodec.train.losses import MEL_SCALES, ReconstructionLoss
from telucodec.train.optim import WeightAverage, learning_rate

HOP = 320
N_STAGES = 18
LR = 1e-3
N_WARMUP_STEPS = 20
MAX_GRAD_NORM = 1e3  # DAC's
LOSS = LossConfig(
    l1=1.0,
    mel=15.0 * len(MEL_SCALES),  # 15 for the sum over scales, as in DAC; ours is their mean
    rms=0.0,
    range=0.0,
    spectrum=0.0,
    disturbance=0.0,
    envelope=0.0,
    similarity=0.0,
    average_spectrum=0.0,
)


class Passed(NamedTuple):
    """A training pass."""

    wav: Tensor  # [B, 1, T - 8]
    vq: Tensor  # codebook loss and a quarter of the commitment loss


class Stack(nn.Module):
    """DAC, with its quantizer in float32 whatever the precision of the rest, as ours."""

    def __init__(self) -> None:
        super().__init__()
        self.dac = DacModel(
            DacConfig(
                encoder_hidden_size=10,
                decoder_hidden_size=208,
                hidden_size=128,
                downsampling_ratios=[2, 4, 5, 8],
                n_codebooks=N_STAGES,
                codebook_dim=16,
                quantizer_dropout=0.5,
                sampling_rate=16_000,
            )
        )
        self.n_parameters = sum(p.numel() for p in self.parameters())
        self.dac.apply_weight_norm()

    def forward(self, wav: Tensor) -> Passed:
        """``[B, 1, T]`` through a random number of stages for half of the items."""
        latents = self.dac.encoder(wav)
        with torch.autocast(wav.device.type, enabled=False):
            quantized, _, _, commitment, codebook = self.dac.quantizer(latents.float())
        settings = self.dac.config
        vq = settings.commitment_loss_weight * commitment + settings.codebook_loss_weight * codebook
        return Passed(self.dac.decoder(quantized), vq.mean())

    @torch.no_grad()
    def reconstruct(self, wav: Tensor, n_stages: int) -> Tensor:
        """``[1, 1, T]`` through the first ``n_stages`` and back to ``[T]``."""
        padded = nn.functional.pad(wav, (0, HOP + -wav.shape[-1] % HOP))
        codes = self.dac.encode(padded, n_quantizers=n_stages).audio_codes
        return self.dac.decode(audio_codes=codes).audio_values[0, : wav.shape[-1]]


class UsualStack:
    """`Stack` in training: the batches, the averaging and the schedule are those of ours."""

    def __init__(self, config: Config, corpus: Corpus, lr: float = LR) -> None:
        self.config = config
        self.optim = dataclasses.replace(config.optim, lr=lr, n_warmup_steps=N_WARMUP_STEPS)
        self.fabric = build_fabric(config.train)
        torch.manual_seed(config.train.seed)
        self.stack = Stack()
        rates = {"lr": lr, "betas": (config.optim.beta1, config.optim.beta2)}
        self.wrapped, self.optimizer = self.fabric.setup(
            self.stack, torch.optim.AdamW(self.stack.parameters(), **rates)
        )
        self.average = WeightAverage(self.stack, config.optim.weight_ema_decay)
        self.loss = ReconstructionLoss(LOSS, config.model.sample_rate_hz).to(self.fabric.device)
        self.batches = batches_of(config, corpus)
        self.n_done = 0

    def begin(self) -> None:
        """Nothing: codebooks start random, as in DAC."""

    def step(self, n_steps: int) -> float:
        """One update of ``n_steps``; returns the loss."""
        torch.manual_seed(self.config.train.seed * 1_000_003 + self.n_done)  # of quantizer dropout
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.n_done, n_steps, self.optim)
        wav = self.batches[self.n_done].to(self.fabric.device)
        made = self.wrapped(wav)
        terms = self.loss(made.wav, wav[..., : made.wav.shape[-1]])
        total = torch.stack([getattr(LOSS, name) * value for name, value in terms.items()]).sum() + made.vq
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(total)
        norm = nn.utils.clip_grad_norm_(self.stack.parameters(), MAX_GRAD_NORM)
        if torch.isfinite(norm):
            self.optimizer.step()
            self.average.update(self.stack)
        self.n_done += 1
        return total.item()

    def state(self) -> dict[str, Any]:
        """Everything the next step depends on."""
        parts = {"stack": self.stack, "optimizer": self.optimizer, "average": self.average}
        return {"step": self.n_done} | {name: part.state_dict() for name, part in parts.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.n_done = state["step"]
        for name in ("stack", "optimizer", "average"):
            getattr(self, name).load_state_dict(state[name])

    def evaluated(self) -> Stack:
        """A copy with the averaged weights."""
        stack = Stack()
        stack.load_state_dict(self.average.weights)
        return stack.eval()

    def size(self) -> tuple[float, float]:
        """Millions of parameters, and billions of multiply-accumulates for a second of audio."""
        stack = self.evaluated()
        with FlopCounterMode(display=False) as counter:
            stack.reconstruct(torch.zeros(1, 1, self.config.model.sample_rate_hz - HOP), N_STAGES)
        return stack.n_parameters / 1e6, counter.get_total_flops() / 2e9
