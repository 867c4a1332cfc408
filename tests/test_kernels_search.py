"""Hamming search and top tokens: hand-made examples, the definition on random codes, and what must be refused."""

import numpy as np
import pytest
import torch

from kernels import hamming
from kernels.sae_pool import SaePool
from kernels.sign_codes import SignCodes
from kernels.top_k import TopK


def random_codes(n, n_bytes, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, n_bytes), dtype=np.uint8)


def code(*bits):
    """One code of 128 bits with these bits on."""
    word = np.zeros(128, bool)
    word[list(bits)] = True
    return np.packbits(word, bitorder="little")


def test_by_hand():
    codes = np.stack([code(), code(0), code(0, 1), code(127), code(0)])
    indices, distances = hamming.nearest(codes, np.stack([code(0), code(127, 126)]), k=3)
    assert indices.tolist() == [[1, 4, 0], [3, 0, 1]]  # ties by the lowest index
    assert distances.tolist() == [[0, 0, 1], [1, 2, 3]]
    assert hamming.duplicates(codes).tolist() == [0, 1, 2, 3, 1]
    # pairs: 0-1 1, 0-2 2, 0-3 1, 0-4 1, 1-2 1, 1-3 2, 1-4 0, 2-3 3, 2-4 1, 3-4 2
    assert hamming.histogram(codes, 128)[:5].tolist() == [1, 5, 3, 1, 0]


@pytest.mark.parametrize("n, q, n_bytes", [(1, 1, 8), (63, 7, 16), (131, 17, 40), (40, 5, 256), (600, 70, 256), (21, 3, 776), (21, 9, 776), (513, 8, 8), (30, 0, 8), (30, 9, 0), (257, 4, 32), (257, 17, 256), (97, 70, 1088)])
def test_search_equals_the_definition(n, q, n_bytes):
    """Few and many queries, codes that end inside a block of 256 and widths that end inside a body of 72 bits."""
    codes, queries = random_codes(n, n_bytes), random_codes(q, n_bytes, seed=1)
    codes[n // 2 :] &= 3  # many ties
    for k in (1, 5, n + 3):
        for found, expected in zip(hamming.nearest(codes, queries, k), hamming.nearest(codes, queries, k, impl="reference")):
            np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        hamming.histogram(codes, 8 * n_bytes), hamming.histogram(codes, 8 * n_bytes, impl="reference")
    )
    assert hamming.histogram(codes, 8 * n_bytes).sum() == n * (n - 1) // 2


def test_threads_do_not_show_in_a_search():
    codes, threads, found = random_codes(700, 64), torch.get_num_threads(), []
    codes[350:] &= 3
    try:
        for n_threads in (1, 3):
            torch.set_num_threads(n_threads)
            found.append(hamming.nearest(codes, codes[::7], 6))
    finally:
        torch.set_num_threads(threads)
    assert all(np.array_equal(a, b) for a, b in zip(*found))


def test_nothing_to_search():
    indices, distances = hamming.nearest(random_codes(0, 8), random_codes(2, 8), 4)
    assert indices.shape == distances.shape == (2, 0)
    assert hamming.duplicates(random_codes(0, 8)).shape == (0,)


def test_codes_of_another_width_are_refused():
    with pytest.raises(ValueError, match="16 and 8 bytes"):
        hamming.nearest(random_codes(3, 16), random_codes(3, 8), 1)
    with pytest.raises(ValueError, match="whole 8-byte words"):
        hamming.duplicates(random_codes(3, 7))


def test_sign_codes_on_disk_are_searched_where_they_lie(tmp_path):
    x = torch.randn(40, 100, generator=torch.Generator().manual_seed(0))
    x[31] = x[4]
    statistic = SignCodes(100, sink=tmp_path / "codes.bin")
    for start in (0, 10, 20, 30):
        statistic.add(x[start : start + 10], start=start)
    assert isinstance(statistic.codes(), np.memmap) and statistic.codes().shape == (40, 16)
    np.testing.assert_array_equal(statistic.bits(), (x > 0).numpy())
    indices, distances = hamming.nearest(statistic.codes(), statistic.codes()[31:32], 2)
    assert indices.tolist() == [[4, 31]] and distances.tolist() == [[0, 0]]


def test_top_tokens_of_sparse_codes_equal_those_of_dense_ones():
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(6, 40, generator=generator), torch.zeros(40)
    sae = SaePool(weight, bias, torch.zeros(6), k=4, length=10)
    x = torch.randn(50, 6, generator=generator)
    channels, values = sae.codes_of(x)
    keep = torch.arange(50) % 5 != 0
    sparse, dense = TopK(40, 3), TopK(40, 3)
    for lo in (20, 0, 30):  # the second piece comes late
        hi = {20: 30, 0: 20, 30: 50}[lo]
        sparse.add_sparse(channels[lo:hi], values[lo:hi], keep[lo:hi], start=lo)
    table = torch.full((50, 41), -torch.inf)
    table.scatter_(1, torch.from_numpy(channels).long().where(torch.from_numpy(channels) >= 0, 40), torch.from_numpy(values))
    dense.add(table[:, :40].contiguous(), keep, impl="reference")
    torch.testing.assert_close(sparse.values, dense.values, rtol=0, atol=0)
    assert torch.equal(sparse.positions, dense.positions)


@pytest.mark.parametrize("pool", ["mean", "sum", "max"])
def test_pooled_codes_by_hand(pool):
    """Two latents read the two coordinates; b_dec moves the origin; k = 1 keeps the larger, ReLU drops the negative."""
    sae = SaePool(torch.eye(2), torch.zeros(2), torch.ones(2), k=1, length=3, pool=pool)
    x = torch.tensor([[3.0, 2.0], [1.0, 5.0], [0.0, -4.0], [9.0, 9.0], [2.0, 1.0], [7.0, 1.0]])
    sae.add(x, keep=torch.tensor([True, True, True, False, True, True]))
    first = {"mean": [2 / 3, 4 / 3], "sum": [2.0, 4.0], "max": [2.0, 4.0]}[pool]
    second = {"mean": [3.5], "sum": [7.0], "max": [6.0]}[pool]
    assert sae.sequence(0)[0].tolist() == [0, 1]
    np.testing.assert_allclose(sae.sequence(0)[1], first)
    assert sae.sequence(1)[0].tolist() == [0]
    np.testing.assert_allclose(sae.sequence(1)[1], second)
    assert sae.fired.tolist() == [3, 1]


def test_pooling_refuses_half_a_sequence():
    sae = SaePool(torch.eye(2), torch.zeros(2), torch.zeros(2), k=1, length=3)
    with pytest.raises(ValueError, match="whole sequences of 3"):
        sae.add(torch.zeros(4, 2))
