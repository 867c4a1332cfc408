"""Definition of sign codes: bit c of a token's code says whether channel c is above the threshold."""

from __future__ import annotations

import numpy as np
import torch


def n_bytes(n_channels: int) -> int:
    """Bytes of one code: whole 64-bit words, the last padded with zero bits."""
    return (n_channels + 63) // 64 * 8


def sign_codes(x: torch.Tensor, keep: torch.Tensor | None, threshold: float) -> tuple[np.ndarray, torch.Tensor]:
    """(codes uint8 [n, n_bytes(c)], on-counts int64 [c]); channel 0 is the lowest bit of byte 0; codes of tokens not kept are 0.

    NaN is off; x is compared in its own dtype with the threshold rounded to float32.
    """
    on = x.to(torch.float64) > float(np.float32(threshold))
    if keep is not None:
        on = on & keep[:, None]
    codes = np.zeros((x.shape[0], n_bytes(x.shape[1])), np.uint8)
    packed = np.packbits(on.cpu().numpy(), axis=1, bitorder="little")
    codes[:, : packed.shape[1]] = packed
    return codes, on.sum(0)
