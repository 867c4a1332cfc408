"""How a model turns its residual stream from the input token's embedding towards its output.

For each state l (into the first block, then after each block) two ridge regressions with intercept, penalty 1: X_l to the raw
token embedding (no position), and X_l to the last state before the final norm. The rotation of a map is the median over the
eigenvalues of its d × d matrix of |arg|, in degrees, 0 to 180. Covariance similarity of two states: centre, leave the direction
of largest variance out, Frobenius cosine of the covariances (Chang & Bergen, arXiv 2504.15471, section 5 and its code).
Everything is read from second moments, so nothing is kept but sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

RIDGE = 1.0


@dataclass(eq=False)
class Streams:
    """Sums in float64 over tokens: mean [state, d], own [state, d, d] = Σ x xᵀ, to_input and to_output [state, d, d] = Σ x yᵀ."""

    n: int
    total: torch.Tensor
    own: torch.Tensor
    to_input: torch.Tensor
    to_output: torch.Tensor
    total_input: torch.Tensor

    @staticmethod
    def empty(n_states: int, d: int, d_input: int) -> Streams:
        square = lambda width: torch.zeros(n_states, d, width, dtype=torch.float64)
        return Streams(0, torch.zeros(n_states, d, dtype=torch.float64), square(d), square(d_input), square(d), torch.zeros(d_input, dtype=torch.float64))

    def add(self, states: list[torch.Tensor], embedded: torch.Tensor) -> None:
        """states: n_states tensors [token, d], the last of them the output; embedded [token, d_input]."""
        x = torch.stack(states).cpu().double()
        y = embedded.cpu().double()
        self.n += x.shape[1]
        self.total += x.sum(1)
        self.total_input += y.sum(0)
        self.own += x.mT @ x
        self.to_input += x.mT @ y
        self.to_output += x.mT @ x[-1]

    @property
    def scatter(self) -> torch.Tensor:
        """Σ (x − mean)(x − mean)ᵀ, [state, d, d]."""
        return self.own - self.total[:, :, None] * self.total[:, None] / self.n

    def maps(self) -> tuple[LinearMaps, LinearMaps]:
        """(to the input embedding, to the output) of every state."""
        damped = self.scatter + RIDGE * torch.eye(self.own.shape[1], dtype=torch.float64)
        factor, mean = torch.linalg.cholesky(damped), self.total / self.n
        out = []
        for cross, target in ((self.to_input, self.total_input / self.n), (self.to_output, mean[-1])):
            weight = torch.cholesky_solve(cross - self.n * mean[:, :, None] * target, factor)
            out.append(LinearMaps(weight, target - (mean[:, None] @ weight)[:, 0]))
        return tuple(out)

    def covariance_similarity(self) -> np.ndarray:
        """[state, state], 0 to 1 for covariances that are not opposed; NaN for a state that does not vary."""
        values, vectors = torch.linalg.eigh(self.scatter)
        values = values.clamp(min=0)
        values[:, -1] = 0
        rest = (vectors * values[:, None]) @ vectors.mT
        norm = rest.flatten(1).norm(dim=1)
        norm[norm <= 1e-12 * self.own.flatten(1).norm(dim=1)] = torch.nan
        flat = rest.flatten(1) / norm[:, None]
        return (flat @ flat.T).numpy()


@dataclass(frozen=True, eq=False)
class LinearMaps:
    """y = x @ weight[state] + bias[state]; weight [state, d, d], bias [state, d], float64."""

    weight: torch.Tensor
    bias: torch.Tensor

    def rotations(self) -> np.ndarray:
        """Median angle in degrees of each state's map [state]; zero eigenvalues count as 0°, negative real ones as 180°. NaN
        where input and output differ in width."""
        if self.weight.shape[1] != self.weight.shape[2]:
            return np.full(len(self.weight), np.nan)
        angles = torch.linalg.eigvals(self.weight).angle().abs().rad2deg()
        return np.median(angles.numpy(), axis=1)
