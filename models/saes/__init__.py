"""Sparse autoencoders: an activation written as a few of many learned directions, and back.

    sae = load_sae("demo/saes/storyteller-a.resid_post.3", home)
    z = sae.encode(x)            # [..., d_in] -> [..., d_sae] float32, mostly zeros, never negative
    sae.decode(z, x)             # the reconstruction; x only where the SAE normalises each token

Read from sae-lens's and EleutherAI sparsify's folders (models/saes/reading.py), safetensors only; trained by
models/saes/training.py. `saes_for(variant, home)` lists what is at hand for a model.
"""

from __future__ import annotations

from models.saes.dictionary import ARCHITECTURES, NORMALISATIONS, Sae
from models.saes.shelf import KnownSae, fingerprint, load_sae, saes_for

__all__ = ["ARCHITECTURES", "NORMALISATIONS", "KnownSae", "Sae", "fingerprint", "load_sae", "saes_for"]
