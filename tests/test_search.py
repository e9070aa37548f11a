"""The search for codes: greedy with one path, exhaustive with enough, better in between.

Shapes: N vectors, D latent width, Q codebooks, K codewords.
"""

import itertools

import pytest
import torch

from telucodec.model.search import N_WIDE, _largest, fits, nearest, search

D = 6


def draw(n_codebooks, size, n_vectors=50):
    generator = torch.Generator().manual_seed(n_codebooks)
    codebooks = torch.randn(n_codebooks, size, D, generator=generator)
    codebooks *= 0.7 ** torch.arange(n_codebooks)[:, None, None]
    return torch.randn(n_vectors, D, generator=generator), codebooks


def errors(vectors, codebooks, codes):
    """Squared error of each vector, ``[N]``."""
    total = sum(codebook[chosen] for codebook, chosen in zip(codebooks, codes, strict=True))
    return (vectors - total).square().sum(dim=1)


def found(vectors, codebooks, width):
    return search(vectors, codebooks, fits(codebooks), width)


def test_one_path_takes_the_nearest_codeword_of_every_stage():
    vectors, codebooks = draw(4, 16)
    residual = vectors
    for codebook, chosen in zip(codebooks, found(vectors, codebooks, 1), strict=True):
        assert torch.equal(chosen, torch.cdist(residual, codebook).argmin(dim=1))
        residual = residual - codebook[chosen]


def test_as_many_paths_as_there_are_sums_find_the_best_of_all():
    vectors, codebooks = draw(3, 8)
    sums = torch.tensor(list(itertools.product(range(8), repeat=3))).T  # [Q, 512]
    best = torch.stack([errors(vector.expand(512, D), codebooks, sums) for vector in vectors]).amin(dim=1)
    torch.testing.assert_close(errors(vectors, codebooks, found(vectors, codebooks, 64)), best)
    assert (errors(vectors, codebooks, found(vectors, codebooks, 1)) > best + 1e-3).any()


@pytest.mark.parametrize("n_codebooks", [8, N_WIDE + 4])
def test_more_paths_leave_less_error(n_codebooks):
    vectors, codebooks = draw(n_codebooks, 128, n_vectors=200)
    left = [
        float(errors(vectors, codebooks, found(vectors, codebooks, width)).mean()) for width in (1, 2, 4, 16)
    ]
    assert left == sorted(left, reverse=True)
    assert left[2] < 0.9 * left[0]


@pytest.mark.parametrize("width", [1, 4])
def test_every_vector_is_searched_for_itself(width):
    vectors, codebooks = draw(5, 128)
    together = found(vectors, codebooks, width)
    alone = torch.cat([found(vector[None], codebooks, width) for vector in vectors], dim=1)
    assert torch.equal(together, alone)
    assert found(vectors[:0], codebooks, width).shape == (5, 0)


def test_fewer_stages_than_codebooks_give_as_many_codes():
    vectors, codebooks = draw(5, 16)
    assert search(vectors, codebooks, fits(codebooks[:2]), 4).shape == (2, 50)


@pytest.mark.parametrize("n_values", [5, 64, 640, 1024, 4096, 4100])
@pytest.mark.parametrize("n", [1, 4])
def test_the_largest_values_are_found_in_order(n_values, n):
    values = torch.randn(20, n_values, generator=torch.Generator().manual_seed(n_values))
    values[:, 1] = values[:, 3] = 9.0  # equal ones
    largest, places = _largest(values, n)
    torch.testing.assert_close(largest, values.topk(n).values, rtol=0, atol=0)
    torch.testing.assert_close(values.gather(1, places), largest, rtol=0, atol=0)
    assert all(len(set(row)) == n for row in places.tolist())


def test_the_nearest_codeword_is_the_lowest_on_a_tie():
    twins = torch.tensor([[3.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert nearest(torch.tensor([[1.0, 0.0]]), twins).tolist() == [1]
    vectors, codebooks = draw(1, 16)
    together = nearest(vectors.view(5, 10, D), codebooks[0])
    assert torch.equal(together, torch.cdist(vectors, codebooks[0]).argmin(dim=1).view(5, 10))
