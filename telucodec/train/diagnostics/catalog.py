"""Every illness the doctor knows: its cause and its remedy, in the words the user reads.

The ids are the section names of docs/doctor.md.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Illness:
    """Why it happens and what to change. ``is_warning``: told, but no reason to stop a run."""

    cause: str
    remedy: str
    is_warning: bool = False


SIGNAL = {
    "amplitude-collapse": Illness(
        "The output is much quieter than the input and does not recover: the decoder averages "
        "where it should "
        "follow, or nothing in the loss asks for level.",
        "Give the loss a level term (loss.rms of 1), keep the output scale learnable and 1.0 at "
        "the start, and "
        "start the decoder near the lapped transform.",
    ),
    "output-saturated": Illness(
        "The output is much louder than the input, most of it against full scale, where tanh has "
        "no gradient.",
        "Halve optim.lr, start decoder.output_scale at 1.0, and look for random decoder weights behind it.",
    ),
    "dc-offset": Illness(
        "The output, or the data, sits beside zero: a bias of the last layers, or recordings with an offset.",
        "Remove the offset from the recordings (a high-pass filter at 20 Hz); start output biases at zero.",
    ),
    "silent-plateau": Illness(
        "The signal-to-noise ratio stays at 0 dB and the loss does not move: the decoder gives "
        "silence, the "
        "best constant answer, and has no gradient that leads away from it.",
        "Start the decoder as a lapped transform, check that gradients reach it, warm up more slowly.",
    ),
    "latents-grow": Illness(
        "The output scale has sunk far below 1: latents grow and the scale only undoes it.",
        "Raise loss.vq: the higher, the smaller the latents.",
        is_warning=True,
    ),
}
LOSS = {
    "loss-explosion": Illness(
        "The loss is several times its running median: the updates are too large, or a batch poisoned them.",
        "Halve optim.lr, lengthen optim.n_warmup_steps, keep optim.max_grad_norm at 1.",
    ),
    "term-dominates": Illness(
        "One loss term makes up more than nine tenths of the total: the others are drowned and not "
        "optimized.",
        "Divide that term's weight in [loss], or normalize the term, until no share is above a half.",
    ),
    "term-constant": Illness(
        "A weighted term does not change, or sends no gradient to the output: it is clamped, "
        "detached or constant.",
        "Remove the clamp; clip gradients (optim.max_grad_norm) instead of losses.",
    ),
    "overfitting": Illness(
        "Validation gets worse while the training loss falls: the network learns the clips by heart.",
        "Add minutes or augmentation ([data] chances), or end the run here and take best.pt.",
        is_warning=True,
    ),
    "likelihood-unsound": Illness(
        "A discretized likelihood is none for every output of the network: its probabilities do not sum "
        "to one, it treats the two ends of the range differently, or it loses its gradient.",
        "Choose edge bins by the target, not by the value, let them integrate the whole tail, and clamp "
        "log-scales on both sides.",
    ),
    "half-precision-loss": Illness(
        "The gradient of a spectral term has been through 16-bit floats: quiet parts underflow to zero.",
        "Compute the spectral terms in float32, outside autocast and on float32 copies.",
    ),
    "non-finite": Illness(
        "Losses or gradients are not numbers. The updates were skipped, so the weights are sound.",
        "Look at the clips and the module named as evidence; use bf16-mixed or 32-true instead of 16-mixed.",
    ),
    "half-precision-underflow": Illness(
        "The loss scaler keeps finding overflow and skips updates: float16 is too narrow for these "
        "gradients.",
        "Set train.precision to bf16-mixed or 32-true.",
    ),
}
GRADIENT = {
    "no-gradient": Illness(
        "A module gets no gradient at all, so it cannot learn: something before it cuts the path "
        "(a detached "
        "value, a gate or last layer that starts at zero, a missing straight-through copy).",
        "Follow the path from the loss to the module named as evidence; start gates above zero.",
    ),
    "gradient-vanishing": Illness(
        "The gradient of a module has sunk to less than a tenth of what it was after warmup, and "
        "stays there.",
        "Look for saturation (tanh, gates) in front of the module; lower the weight of terms that "
        "rule it out.",
    ),
    "gradient-exploding": Illness(
        "The gradient of a module is more than ten times what it was after warmup, and stays there.",
        "Halve optim.lr; check the straight-through estimator and the VQ weight.",
    ),
    "gradient-band": Illness(
        "At the start the gradient norms of the parts differ by more than three orders of "
        "magnitude from healthy ones.",
        "Check the scale of the loss ([loss]) and of the first and last layers.",
    ),
    "clipping-always": Illness(
        "Every gradient is clipped, and either they have grown to a multiple of what they were, which the "
        "clip hides, or the limit is so low that AdamW's epsilon rules the steps.",
        "Halve optim.lr if they grow; else raise optim.max_grad_norm.",
        is_warning=True,
    ),
    "straight-through": Illness(
        "The quantizer's Jacobian is not the identity: the encoder gets no gradient, or one "
        "multiplied by the "
        "number of stages.",
        "Give the sum of all stages one straight-through identity: total = x + (total - x).detach().",
    ),
}
CODEBOOK = {
    "codebook-collapse": Illness(
        "A stage uses a handful of its codewords: most of its bits say nothing.",
        "Start codebooks by k-means, keep revival on (quantizer.revive_below), lower optim.lr.",
    ),
    "codebook-not-learning": Illness(
        "Codewords do not follow the latents: the codebook loss or the moving averages are missing "
        "or broken, "
        "and the quantization error stays or grows.",
        'Use codebook_update = "ema", or "gradient" with the codebook loss beside the commitment loss.',
    ),
    "revival-lost": Illness(
        "Revived codewords fall back to their dead values at the next update: their sums or "
        "moments were not "
        "replaced with them.",
        "Set the moving sums (value x usage) and clear the optimizer's moments of a revived row.",
    ),
    "vq-multiplied": Illness(
        "The VQ loss grows with the number of stages: it is a sum where a mean is meant, and rules "
        "the encoder.",
        "Divide the loss of each item by the stages it used.",
    ),
}
RATE = {
    "depth-unguarded": Illness(
        "A deep stack starts at the full learning rate, or without a clipping limit that ever acts: the "
        "first large gradient can throw it out of reach of a good start.",
        "Set optim.n_warmup_steps to 100 or more and optim.max_grad_norm to 1.",
        is_warning=True,
    ),
    "learning-rate-high": Illness(
        "At this learning rate the loss rises instead of falling.",
        "Divide optim.lr by 2 to 10.",
    ),
    "learning-rate-low": Illness(
        "The parameters hardly move: the run would end about where it started.",
        "Multiply optim.lr by 10, or look for a frozen optimizer.",
    ),
    "cannot-overfit": Illness(
        "One small batch, seen again and again, is not learned: something between loss and weights "
        "is broken, "
        "and more data cannot help.",
        "Run `telucodec doctor` and mend the first finding above this one.",
    ),
    "output-scale": Illness(
        "The output scale is not 1.0 at the start, or is applied after tanh, so that it can push "
        "the output past "
        "full scale, or it multiplies random decoder weights.",
        "Multiply by decoder.output_scale before tanh, start it at 1.0 and the decoder near the lapped "
        "transform.",
    ),
}
BUDGET = {
    "parameter-bomb": Illness(
        "The model has more parameters than the budget: often two heads that do one job, or a "
        "width typed wrong.",
        "Look at the largest module in the table; raise doctor.max_parameters_m if it is meant.",
    ),
    "heads-duplicate": Illness(
        "Two output layers read the same, make the same and serve the same losses, or one serves none: "
        "parameters and memory for nothing.",
        "Keep one head per job: remove the spare one, or give it a loss of its own.",
    ),
    "memory-over-budget": Illness(
        "The estimated peak memory of one step is larger than what the device has.",
        "Lower train.batch_size or data.crop_s, or the largest tensor named as evidence.",
    ),
    "loader-starves": Illness(
        "The device waits for the next batch for most of the time.",
        "Raise data.n_workers to the number of idle cores.",
        is_warning=True,
    ),
}
DATA = {
    "data-unreadable": Illness(
        "Many files cannot be read or are too short.",
        "Look at the skipped files named; convert or remove them.",
        is_warning=True,
    ),
    "data-silent": Illness(
        "Much of the data is silence: the codec would learn to be quiet.",
        "Trim silence, or remove the files named as evidence.",
    ),
    "data-clipped": Illness(
        "Many recordings are clipped: the codec would learn their distortion.",
        "Take the recordings again from their source at a lower level, or leave these files out.",
    ),
    "data-duplicates": Illness(
        "Some files have the same content: they count more than once, and may stand on both sides "
        "of the split.",
        "Remove the copies named as evidence.",
        is_warning=True,
    ),
    "data-band-limited": Illness(
        "Most of the data has nothing in its upper band: it was recorded or resampled at a lower "
        "rate, and the "
        "codec would learn to sound like it.",
        "Take wide-band originals, or lower model.sample_rate_hz to twice the bandwidth found.",
    ),
    "data-rates": Illness(
        "Files have different or lower rates than the model; lower ones are stretched and leave "
        "their top band empty.",
        "Leave out files below model.sample_rate_hz.",
        is_warning=True,
    ),
    "data-loudness": Illness(
        "Clips differ in level by more than 30 dB.",
        "Keep data.is_level_random on, or level the clips.",
        is_warning=True,
    ),
    "data-little": Illness(
        "There are few minutes to learn from.",
        "An hour gives a usable codec of one voice, ten hours a general one; keep augmentation on.",
        is_warning=True,
    ),
}
ADVERSARY = {
    "adversary-drowns": Illness(
        "The reconstruction loss is far above what it was before the adversary pulled: the codec "
        "gives up the signal for what the discriminators like.",
        "Lower adversary.share, or optim.lr if the share is small.",
    ),
    "discriminators-won": Illness(
        "The discriminators tell nearly all of the output from recordings, and have for long: they "
        "see something that the codec does not or cannot change.",
        "Lower adversary.lr, raise adversary.feature_part, or keep lower rates out of training "
        "(model.quantizer.dropout).",
        is_warning=True,
    ),
}
CATALOG: dict[str, Illness] = SIGNAL | LOSS | GRADIENT | CODEBOOK | RATE | BUDGET | DATA | ADVERSARY
