"""What a run and its preflight put together in the same way: network, optimizer, losses, codebooks."""

from dataclasses import dataclass

import torch
from torch import nn

from telucodec.config import Config
from telucodec.model.codebooks import CodebookLearner
from telucodec.model.codec import Codec, build_codec
from telucodec.train.data import Batches
from telucodec.train.engine import Fabric, build_fabric
from telucodec.train.loop import Trainee
from telucodec.train.losses import ReconstructionLoss
from telucodec.train.optim import WeightAverage, build_optimizer

N_INIT_VECTORS = 24_000  # latents that the codebooks' k-means starts from


@dataclass(frozen=True)
class Assembly:
    """A trainee, the device it lives on and the losses it is trained with."""

    fabric: Fabric
    trainee: Trainee
    loss: ReconstructionLoss


def assemble(config: Config, fabric: Fabric | None = None) -> Assembly:
    """Fresh weights of ``config.train.seed``; codebooks are random until `initialize_codebooks`."""
    fabric = fabric or build_fabric(config.train)
    torch.manual_seed(config.train.seed)
    codec = build_codec(config.model)
    loss = ReconstructionLoss(config.loss, config.model.sample_rate_hz).to(fabric.device)
    quantizer = config.model.quantizer
    learner = CodebookLearner(codec.quantizer, decay=quantizer.ema_decay, revive_below=quantizer.revive_below)
    wrapped, optimizer = fabric.setup(codec, build_optimizer(codec, config.optim))
    trainee = Trainee(codec, wrapped, optimizer, learner.to(fabric.device), fresh_average(codec, config))
    return Assembly(fabric, trainee, loss)


def fresh_average(codec: Codec, config: Config) -> WeightAverage | None:
    """Averaged weights that start from the weights as they are; None if the settings keep none."""
    decay = config.optim.weight_ema_decay
    return WeightAverage(codec, decay) if decay else None


def initialize_codebooks(assembly: Assembly, batches: Batches, config: Config) -> None:
    """K-means on the latents of the first batches, before any update."""
    codec, device = assembly.trainee.codec, assembly.fabric.device
    found: list[torch.Tensor] = []
    while sum(len(latents) for latents in found) < N_INIT_VECTORS:
        wav = batches[len(found)].to(device)
        with torch.no_grad():
            latents = codec.encoder(nn.functional.pad(wav, (0, -wav.shape[-1] % config.model.hop)))
        found.append(latents.transpose(1, 2).flatten(0, 1))
    assembly.trainee.learner.initialize(codec.quantizer, torch.cat(found), seed=config.train.seed)
    assembly.trainee.average = fresh_average(codec, config)
