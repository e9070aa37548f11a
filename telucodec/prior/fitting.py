"""Tables from codes: classes of contexts, groups, low-rank experts, their weights, and rounding to integers.

For every stage and each of its contexts, in this order:

1. Count which codeword follows which context codeword, in packets as they will be coded: a
   context outside the packet counts as absent.
2. Cluster the context's codewords into classes that predict alike: k-means in the
   Kullback-Leibler sense, an information bottleneck (Dhillon et al. 2003, "A divisive
   information-theoretic feature clustering algorithm", JMLR 3, eq. 12).
3. Smooth each class's counts by the stage's own distribution; the expert is the log of their ratio.
4. Put codewords that follow the same classes side by side, in groups: halves along the direction in which
   experts differ most, and halves of these. Those of a lattice lie so already, nearest to zero first.
5. Factorize all experts of the stage together to rank R, of groups and of codewords inside their group,
   weighted so that the squared error approximates the bits lost.
6. Weigh the experts by Newton's method on packets whose counts were held out: contexts overlap,
   so their sum counts twice what two of them know.

Fitting is in floating point and need not repeat bit for bit on another machine: the integers
that it ends in are what encoder and decoder share.

Shapes: Q codebooks, L frames, F frames of all clips, J contexts, C classes, K codewords, G groups of S,
R rank.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from telucodec.bitstream.bitpack import Codes
from telucodec.errors import DataError
from telucodec.prior.tables import (
    SCORE_LIMIT,
    STEP_BITS,
    UNUSED,
    Tables,
    group_size,
    n_groups,
    score_bounds,
    stage_dtype,
    symbol_dtype,
    vector_bounds,
)

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Context = tuple[int, int]
"""A stage, and frames away from the code that is predicted."""

PACKET_FRAMES = 25  # that contexts may reach over
PRIOR_COUNTS = 600.0  # weight of the stage's own distribution in that of a class
PRIOR_OF_GROUPS = 100.0  # the same for distributions of groups
RANK = 32
N_CLASSES = 192  # of the contexts of stage 0, which say most; every stage after it has half of the one before
FEWEST_CLASSES = 48  # but no less than these
MIN_CLASS = 50  # counts below which a class of contexts is given up
HELD_OUT = 10  # every tenth packet weighs the experts
N_WEIGHING = 3_000  # frames of those that are used: enough for nine weights
_NEAR = ((1, 0), (2, 0), (3, 0), (1, -1), (1, 1), (2, -1), (2, 1))  # stages before, frames away
_FIRST = ((0, 0), (1, 0))  # stage, frames away


@dataclass(frozen=True)
class _Frames:
    """All clips end to end: codes ``[Q, F]``, the packet of each frame, and which packets are held out."""

    codes: Indices
    packets: Indices
    is_held_out: NDArray[np.bool_]

    def context(self, stage: int, offset: int, absent: int) -> Indices:
        """``[F]`` code of ``stage`` ``offset`` frames away, ``absent`` outside the packet."""
        n_frames = self.codes.shape[1]
        at = np.arange(n_frames) + offset
        inside = np.clip(at, 0, n_frames - 1)
        is_there = (at == inside) & (self.packets[inside] == self.packets)
        found: Indices = np.where(is_there, self.codes[stage, inside], absent)
        return found


def fit_tables(
    codes: Sequence[Codes],
    *,
    codebook_size: int,
    packet_frames: int = PACKET_FRAMES,
    n_classes: int = N_CLASSES,
    rank: int = RANK,
    contexts: Sequence[Sequence[Context]] | None = None,
    is_ordered: bool = False,
) -> Tables:
    """Integer tables for codes like these; a few seconds per stage and hour of speech.

    Args:
        codes: ``[Q, L]`` of each training clip, all with the same Q. More is better, up to hours.
        codebook_size: K; codes below it that never occur stay codable.
        packet_frames: of the packets that will be coded; other lengths work, a little less well.
        n_classes: of the codewords of one context of stage 0, at most 254; later stages have fewer.
        rank: R of the experts of one stage together.
        contexts: of each stage, by which its codes are predicted; the stages just before it if None.
        is_ordered: codewords that follow alike have neighboring numbers, which are kept as symbols.

    Raises:
        DataError: no frames, clips that differ in Q, or a code that is not below ``codebook_size``.
    """
    frames = _gather(codes, codebook_size, packet_frames)
    n_stages = len(frames.codes)
    contexts = [_contexts(stage) for stage in range(n_stages)] if contexts is None else contexts
    n_contexts = max(len(pairs) for pairs in contexts)
    stages = np.full((n_stages, n_contexts), UNUSED, dtype=stage_dtype(n_stages))
    offsets = np.zeros((n_stages, n_contexts), dtype=np.int8)
    classes = np.zeros((n_stages, n_contexts, codebook_size + 1), dtype=np.uint8)
    vectors = np.zeros((n_stages, n_contexts, n_classes + 1, rank))
    symbols = np.zeros((n_stages, codebook_size), dtype=symbol_dtype(codebook_size))
    n_columns = codebook_size + n_groups(codebook_size)
    basis = np.zeros((n_stages, rank, n_columns))
    bias = np.zeros((n_stages, n_columns))
    for stage, pairs in enumerate(contexts):
        stages[stage, : len(pairs)] = [source for source, _ in pairs]
        offsets[stage, : len(pairs)] = [offset for _, offset in pairs]
        used, n_own = slice(len(pairs)), min(n_classes, max(FEWEST_CLASSES, n_classes >> stage))
        found = _fit_stage(frames, stage, pairs, codebook_size, n_own, rank, is_ordered=is_ordered)
        classes[stage, used], symbols[stage], vectors[stage, used, : n_own + 1] = found[:3]
        basis[stage], bias[stage] = found[3:]
        log.info("entropy tables: stage %d of %d", stage + 1, n_stages)
    whole = [_round(*parts) for parts in zip(vectors, basis, bias, strict=True)]
    steps = np.arange(20 << STEP_BITS)
    return Tables(
        stages=stages,
        offsets=offsets,
        classes=classes,
        vectors=np.stack([part[0] for part in whole]),
        symbols=symbols,
        basis=np.stack([part[1] for part in whole]),
        bias=np.stack([part[2] for part in whole]),
        fractions=np.array([part[3] for part in whole], dtype=np.uint8),
        powers=np.round(2.0 ** (20 - steps / (1 << STEP_BITS))).clip(1).astype(np.int32),
    )


def _gather(codes: Sequence[Codes], codebook_size: int, packet_frames: int) -> _Frames:
    clips = [clip for clip in codes if clip.shape[-1]]
    if not clips:
        raise DataError("no codes to fit entropy tables to; give at least one clip that is not empty")
    counts = {clip.shape[0] for clip in clips}
    if len(counts) > 1:
        raise DataError(f"clips have {sorted(counts)} stages; entropy tables need one number of stages")
    joined = np.concatenate(clips, axis=1).astype(np.int64)
    if int(joined.max()) >= codebook_size:
        raise DataError(f"code {int(joined.max())} in the clips; expected codes below {codebook_size}")
    packets, n_packets = [], 0
    for clip in clips:
        packets.append(n_packets + np.arange(clip.shape[1]) // packet_frames)
        n_packets = int(packets[-1][-1]) + 1
    packet = np.concatenate(packets)
    return _Frames(joined, packet, packet % HELD_OUT == HELD_OUT - 1)


def _contexts(stage: int) -> list[Context]:
    """``(stage, offset)`` of the contexts of ``stage``, without repetition."""
    if stage == 0:
        return [(0, -1), (0, -2)]
    near = [(stage - back, offset) for back, offset in _NEAR]
    pairs = [pair for pair in (*near, *_FIRST) if 0 <= pair[0] < stage]
    return list(dict.fromkeys(pairs))


def _fit_stage(
    frames: _Frames,
    stage: int,
    pairs: Sequence[Context],
    size: int,
    n_classes: int,
    rank: int,
    *,
    is_ordered: bool,
) -> tuple[NDArray[np.uint8], Indices, Floats, Floats, Floats]:
    """Classes ``[J, K + 1]``, symbols ``[K]``, vectors ``[J, C + 1, R]``, basis ``[R, K + G]`` and bias.

    Products of vectors and basis are in bits, and so is the bias.
    """
    target, is_counted = frames.codes[stage], ~frames.is_held_out
    own = (np.bincount(target, minlength=size) + 0.5).astype(np.float64)
    own /= own.sum()
    classes = np.empty((len(pairs), size + 1), dtype=np.uint8)
    seen = []  # class of each context at each frame
    counts = np.zeros((2, len(pairs), n_classes + 1, size))  # of the packets not held out, and of all
    for j, (source, offset) in enumerate(pairs):
        context = frames.context(source, offset, size)
        kept = np.bincount((context * size + target)[is_counted], minlength=(size + 1) * size)
        classes[j] = _cluster(kept.reshape(size + 1, size)[:size], own, n_classes)
        seen.append(classes[j][context].astype(np.int64))
        for row, chosen in enumerate((is_counted, slice(None))):
            pair = seen[-1][chosen] * size + target[chosen]
            counts[row, j] = np.bincount(pair, minlength=(n_classes + 1) * size).reshape(-1, size)
    order = np.arange(size) if is_ordered else _order(counts[0], own, rank)
    symbols = order.argsort()
    counts, own, target = counts[..., order], own[order], symbols[target]
    weights = np.full(len(pairs), len(pairs) ** -0.5)
    weighing = np.flatnonzero(frames.is_held_out)
    bias = np.log(_with_groups(own))
    if len(weighing) >= N_WEIGHING // 10:
        weighing = weighing[:: -(-len(weighing) // N_WEIGHING)]
        vectors, basis = _factorize(counts[0], own, rank)
        chosen = np.stack([vectors[j, row[weighing]] for j, row in enumerate(seen)], axis=1)  # [N, J, R]
        weights = _weigh(chosen, basis, bias, target[weighing], weights, size)
    vectors, basis = _factorize(counts[1], own, rank)
    bits = 1 / np.log(2)
    return classes, symbols, vectors * weights[:, None, None] * bits, basis, bias * bits


def _cluster(counts: Indices, own: Floats, n_classes: int, n_iterations: int = 10) -> NDArray[np.uint8]:
    """Class of each context codeword, ``[K + 1]``, from its ``[K, K]`` counts; the last, absent, is alone."""
    table = counts.astype(np.float32)
    n_seen = table.sum(axis=1)
    prior = (20 * own).astype(np.float32)
    alone = (table + prior) / (n_seen[:, None] + 20)
    order = np.argsort(-n_seen, kind="stable")
    centers = alone[order[np.linspace(0, len(order) // 2, n_classes).astype(int)]]
    best = (table * np.log(alone)).sum(axis=1)  # log-likelihood of a codeword in a class of its own
    chosen = np.zeros(len(table), dtype=np.int64)
    for _ in range(n_iterations):
        score = table @ np.log(centers).T  # [K, C]
        chosen = score.argmax(axis=1)
        members = np.eye(n_classes, dtype=np.float32)[chosen]
        sums = members.T @ table
        n_members = sums.sum(axis=1)
        centers = (sums + prior) / (n_members[:, None] + 20)
        poor = np.flatnonzero(n_members < MIN_CLASS)
        worst = np.argsort(score.max(axis=1) - best, kind="stable")
        centers[poor[: len(worst)]] = alone[worst[: len(poor)]]
    return np.append(chosen, n_classes).astype(np.uint8)


def _order(counts: Floats, own: Floats, rank: int) -> Indices:
    """Codewords ``[K]`` in groups that follow alike, from counts ``[J, C, K]``."""
    shares = counts.sum(axis=2).ravel()
    vectors, basis = _reduced(_log_ratio(counts, own, PRIOR_COUNTS), shares, own, rank)
    strength = np.sqrt((vectors**2 * (shares / shares.sum())[:, None]).sum(axis=0))
    return _halved(basis * strength[:, None], own, np.arange(len(own)), group_size(len(own)))


def _halved(points: Floats, own: Floats, among: Indices, size: int) -> Indices:
    """``among``, cut where ``points`` ``[R, K]`` spread until no more than ``size`` are left together."""
    if len(among) <= size:
        return among
    weight = own[among]
    centered = points[:, among] - np.average(points[:, among], axis=1, weights=weight)[:, None]
    direction = np.linalg.eigh(centered * weight @ centered.T)[1][:, -1]
    ordered = among[np.argsort(direction @ centered, kind="stable")]
    half = -(-len(among) // size) // 2 * size
    return np.concatenate([_halved(points, own, part, size) for part in (ordered[:half], ordered[half:])])


def _with_groups(own: Floats) -> Floats:
    """``[..., K]`` and its sums over groups, ``[..., K + G]``."""
    starts = np.arange(0, own.shape[-1], group_size(own.shape[-1]))
    return np.concatenate([own, np.add.reduceat(own, starts, axis=-1)], axis=-1)


def _factorize(counts: Floats, own: Floats, rank: int) -> tuple[Floats, Floats]:
    """Counts ``[J, C, K]`` to vectors ``[J, C, R]`` and basis ``[R, K + G]`` whose product is the log ratio.

    Of groups that of their odds, of codewords that of their odds in their group.
    """
    n_contexts, n_classes, size = counts.shape
    shares = counts.sum(axis=2).ravel()
    ratio = _log_ratio(counts, own, PRIOR_COUNTS)
    both = _with_groups(own)
    implied = np.log(_with_groups(np.exp(ratio) * own)[:, size:]) - np.log(both[size:])
    inside = ratio - np.repeat(implied, group_size(size), axis=1)[:, :size]
    groups = _log_ratio(_with_groups(counts)[..., size:], both[size:], PRIOR_OF_GROUPS)
    vectors, basis = _reduced(np.concatenate([inside, groups], axis=1), shares, both, rank)
    return vectors.reshape(n_contexts, n_classes, rank), basis


def _log_ratio(counts: Floats, own: Floats, prior: float) -> Floats:
    """Log of the smoothed odds of counts ``[J, C, A]`` over ``own`` ``[A]``, ``[J * C, A]``."""
    counts = counts.reshape(-1, counts.shape[2])
    smoothed = (counts + prior * own) / (counts.sum(axis=1, keepdims=True) + prior)
    found: Floats = np.log(smoothed) - np.log(own)
    return found


def _reduced(ratio: Floats, shares: Floats, own: Floats, rank: int) -> tuple[Floats, Floats]:
    """Vectors ``[N, R]`` and basis ``[R, A]`` whose product is near ``ratio``, rows weighed by ``shares``."""
    rows = np.sqrt(shares / shares.sum() + 1e-5)[:, None]
    columns = np.sqrt(own + 1e-5)
    scaled = ratio * rows * columns
    values, axes = np.linalg.eigh(scaled @ scaled.T)  # ascending
    n_kept = min(rank, len(values))
    axes = axes[:, ::-1][:, :n_kept]
    length = np.sqrt(np.maximum(values[::-1][:n_kept], 1e-12))
    vectors, basis = np.zeros((len(ratio), rank)), np.zeros((rank, ratio.shape[1]))
    vectors[:, :n_kept] = axes * length / rows
    basis[:n_kept] = (axes.T @ scaled) / length[:, None] / columns
    return vectors, basis


def _weigh(
    chosen: Floats, basis: Floats, bias: Floats, target: Indices, start: Floats, n_symbols: int
) -> Floats:
    """Weights ``[J]`` of experts ``chosen`` ``[N, J, R]`` that suit the symbols ``target`` ``[N]`` best."""
    weights = start
    ridge = 1e-3 * np.eye(len(start))
    size = group_size(n_symbols)
    groups = np.tile(np.arange(n_symbols, len(bias)), (len(target), 1))  # [N, G] columns of the basis
    members = target[:, None] // size * size + np.arange(size)  # [N, S] those of the group that is coded
    levels = (groups, n_symbols + target // size), (np.minimum(members, n_symbols - 1), target)
    for _ in range(8):
        scores = np.einsum("njr,j->nr", chosen, weights) @ basis + bias  # [N, K + G]
        gradient, curvature = np.zeros(len(start)), np.zeros((len(start), len(start)))
        for columns, coded in levels:
            among = np.take_along_axis(scores, columns, axis=1)
            if columns is not groups:
                among[members >= n_symbols] = -np.inf
            odds = np.exp(among - among.max(axis=1, keepdims=True))
            odds /= odds.sum(axis=1, keepdims=True)
            experts = basis.T[columns]  # [N, A, R]
            mean = np.einsum("nar,na->nr", experts, odds)
            square = (experts * odds[..., None]).swapaxes(1, 2) @ experts  # [N, R, R]
            spread = square - mean[:, :, None] * mean[:, None, :]  # covariance of the basis
            gradient += np.einsum("njr,nr->j", chosen, mean - basis.T[coded]) / len(target)
            curvature += np.einsum("njr,nrs,nks->jk", chosen, spread, chosen, optimize=True) / len(target)
        step = np.linalg.solve(curvature + ridge, gradient + ridge @ (weights - start))
        weights = np.clip(weights - step, 0.0, 2.0)
        if np.abs(step).max() < 5e-3:
            break
    return weights


def _round(
    vectors: Floats, basis: Floats, bias: Floats
) -> tuple[NDArray[np.int16], NDArray[np.int8], NDArray[np.int32], int]:
    """Integers with as many binary digits of fraction as keep every sum exact; returns those digits last."""
    peaks = np.abs(basis).max(axis=1).clip(1e-9)
    whole_basis = np.round(basis / peaks[:, None] * 127).astype(np.int8)
    scaled = vectors * (peaks / 127)
    for fraction in range(16, STEP_BITS - 1, -1):
        whole_vectors = np.round(scaled * 2.0**fraction)
        if np.abs(whole_vectors).max(initial=0) > np.iinfo(np.int16).max:
            continue
        parts = whole_vectors.astype(np.int16), whole_basis, np.round(bias * 2.0**fraction).astype(np.int32)
        longest = vector_bounds(parts[0][None])
        if int(score_bounds(longest, parts[1][None], parts[2][None]).max()) < SCORE_LIMIT:
            return *parts, fraction
    raise DataError("the codes are too regular for integer tables; fit on more, and more varied, audio")
