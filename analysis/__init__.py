"""The analyses, by name, in the order of the menu. Imported one at a time, so that a page pays only for its own."""

from __future__ import annotations

import importlib
from types import ModuleType

from models.refusal import Refused

ANALYSES = ("layer_redundancy", "bigram_subnetwork", "arithmetic_heads", "memorization_subspace", "memorized_images", "feature_browser", "sae_training", "data_selection", "hash_codes", "hash_codes_lab", "compression_cost",
            "sensitivity", "compression_skills", "feature_survival", "chain_search", "evopress", "singular_alignment", "convergent_learning", "merging", "alignment_lab")


def load(name: str) -> ModuleType:
    """The analysis module of that name; Refused with the known names otherwise."""
    if name not in ANALYSES:
        raise Refused(f"There is no analysis “{str(name)[:40]}”; known: {', '.join(ANALYSES)}.")
    return importlib.import_module(f"analysis.{name}")
