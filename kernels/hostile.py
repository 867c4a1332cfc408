"""Inputs that break careless kernels, shared by every statistic's cases, by the tests and by the benchmark."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class Case:
    name: str
    tensors: tuple[torch.Tensor, ...]  # arguments of add: [token, channel] each, or [token] ids
    keep: torch.Tensor | None = None


def activations(n_inputs: int = 1) -> list[Case]:
    """Sizes 0, 1, 63, 64 and primes; masked; strided; bfloat16 and float16; a channel at 10⁴ ± 0.1; ties, zeros and extremes."""
    cases = []
    for n, c in ((0, 8), (1, 1), (1, 63), (63, 64), (64, 65), (127, 131), (521, 67)):
        cases.append(Case(f"{n}x{c}", _normal(n, c, n_inputs)))
    cases.append(Case("masked 257x130", _normal(257, 130, n_inputs), _mask(257, 0.4)))
    cases.append(Case("all masked", _normal(17, 24, n_inputs), torch.zeros(17, dtype=torch.bool)))
    cases.append(Case("strided rows", tuple(x[::2] for x in _normal(130, 70, n_inputs)), _mask(65, 0.2)))
    cases.append(Case("transposed", tuple(x.T for x in _normal(70, 65, n_inputs))))
    cases.append(Case("column slice", tuple(x[:, 5:76] for x in _normal(64, 97, n_inputs))))
    cases.append(Case("bfloat16", tuple(x.to(torch.bfloat16) for x in _normal(129, 96, n_inputs)), _mask(129, 0.3)))
    cases.append(Case("float16", tuple(x.to(torch.float16) for x in _normal(65, 128, n_inputs))))
    far = tuple(1e4 + 0.1 * x for x in _normal(523, 33, n_inputs))
    cases.append(Case("mean 1e4 spread 0.1", far))
    outlier = _normal(300, 40, n_inputs)
    for x in outlier:
        x[0] *= 1e3
    cases.append(Case("first token 1000 times larger", outlier))
    zeros = _normal(40, 48, n_inputs)
    for x in zeros:
        x[::3] = 0.0
    cases.append(Case("zero tokens and ties", zeros))
    return cases


def _normal(n: int, c: int, n_inputs: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(n * 1009 + c)
    scale = torch.rand(c, generator=generator) * 3 + 0.1
    return tuple(torch.randn(n, c, generator=generator) * scale for _ in range(n_inputs))


def _mask(n: int, share_out: float) -> torch.Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(n)) >= share_out
