"""What an SAE computes: encode, decode, and the few largest features of a token."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch

from models.layout import Site

ARCHITECTURES = ("standard", "topk", "jumprelu", "gated")
NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale")


@dataclass(frozen=True, eq=False)
class Sae:
    """A trained dictionary at one site of one model; all tensors float32, nothing requires a gradient.

    W_enc [d_in, d_sae], b_enc [d_sae], W_dec [d_sae, d_in], b_dec [d_in]
    k           topk: the k largest pre-activations are kept, then ReLU
    threshold   jumprelu: [d_sae], a feature fires above it
    r_mag, b_mag  gated: [d_sae], magnitudes relu((x W_enc) · exp(r_mag) + b_mag); b_enc is the gate's bias
    normalise   none; layer_norm or constant_norm_rescale: each token is scaled on its way in, and back on its way out
    centred     b_dec is subtracted from the input (sae-lens's `apply_b_dec_to_input`)
    site        where it reads, in this house's names, e.g. Site(3, "resid_post"); model: what it was trained for ("" unknown)
    """

    W_enc: torch.Tensor
    b_enc: torch.Tensor
    W_dec: torch.Tensor
    b_dec: torch.Tensor
    architecture: str
    site: Site
    k: int | None = None
    threshold: torch.Tensor | None = None
    r_mag: torch.Tensor | None = None
    b_mag: torch.Tensor | None = None
    normalise: str = "none"
    centred: bool = True
    name: str = ""
    model: str = ""

    @property
    def d_in(self) -> int:
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        return self.W_enc.shape[1]

    @property
    def layer(self) -> int:
        return self.site.layer

    def to(self, device) -> Sae:
        """The same on another device."""
        return replace(self, **{f.name: v.to(device) for f in fields(self) if isinstance(v := getattr(self, f.name), torch.Tensor)})

    def pre_acts(self, x: torch.Tensor) -> torch.Tensor:
        """What the nonlinearity sees, [..., d_in] -> [..., d_sae] float32; of a gated SAE, the gate's side."""
        return self._incoming(x) @ self.W_enc + self.b_enc

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Feature activations [..., d_in] -> [..., d_sae], float32, ≥ 0."""
        pre = self.pre_acts(x)
        if self.architecture == "topk":
            values, places = pre.topk(min(self.k, self.d_sae), dim=-1)
            return torch.zeros_like(pre).scatter_(-1, places, values.relu())
        if self.architecture == "jumprelu":
            return pre.relu() * (pre > self.threshold)
        if self.architecture == "gated":
            return ((pre - self.b_enc) * self.r_mag.exp() + self.b_mag).relu() * (pre > 0)
        return pre.relu()

    def sparse(self, x: torch.Tensor, most: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """(features int64, activations float32) [..., most], largest first; −1 and 0 in places left over. `most` None: the
        SAE's k, or 32 where it has none; what fires beyond it is left out."""
        values, features = self.encode(x).topk(min(most or self.k or 32, self.d_sae), dim=-1)
        return features.masked_fill(values <= 0, -1), values

    def decode(self, acts: torch.Tensor, x: torch.Tensor | None = None) -> torch.Tensor:
        """acts [..., d_sae] -> reconstruction [..., d_in]; x [..., d_in] is the token's input, needed where `normalise` is not none."""
        out = acts @ self.W_dec + self.b_dec
        if self.normalise == "none":
            return out
        if x is None:
            raise ValueError(f"An SAE with {self.normalise} needs the input to scale its reconstruction back.")
        mean, scale = self._scaling(x.to(torch.float32))
        return out * scale + mean

    def reconstruct(self, x: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(x), x)

    def _incoming(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(torch.float32)
        if self.normalise != "none":
            mean, scale = self._scaling(x)
            x = (x - mean) / (scale + (1e-5 if self.normalise == "layer_norm" else 0.0))
        return x - self.b_dec if self.centred else x

    def _scaling(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(mean, scale) of each token as sae-lens takes them: the spread with n − 1, the ε only on the way in."""
        if self.normalise == "layer_norm":
            return x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        return torch.zeros_like(x[..., :1]), x.norm(dim=-1, keepdim=True) / self.d_in**0.5
