"""A mask file laid over a model: parameter names and orientations of the checkpoint become matrices [out, in]."""

from __future__ import annotations

from pathlib import Path

import torch

from metrics.subnetworks import Masks
from models import mask_files
from models.layout import is_conv1d
from models.loaded import Model
from models.refusal import Refused
from models.shape import shape_of


def read(name: str, home: Path, model: Model) -> Masks:
    """Every attention and MLP matrix of the model must have a mask of its shape; Refused with the first that has not."""
    found = mask_files.read(name, home)
    of = f" (made for {found.original})" if found.original else ""
    masks, left = {}, set(found.masks)
    for m in shape_of(model).matrices:
        parameter = f"{model.layout.blocks}.{m.layer}.{m.name}.weight"
        if parameter not in found.masks:
            raise Refused(f"{name}{of} has no mask for {parameter}, which {model.written} has; it belongs to another model.")
        mask = torch.from_numpy(found.masks[parameter])
        masks[m.key] = mask.T.contiguous() if is_conv1d(model.blocks[m.layer].get_submodule(m.name)) else mask
        if masks[m.key].shape != (m.n_out, m.n_in):
            raise Refused(f"{name}{of}: the mask of {parameter} is {list(mask.shape)}, the weight {[m.n_out, m.n_in]} as [out, in]; it belongs to another model.")
        left.discard(parameter)
    gone = {f"{model.layout.blocks}.{layer}." for layer, _ in model.removed}
    unused = [parameter for parameter in left if not any(parameter.startswith(g) for g in gone)]
    if unused:
        raise Refused(f"{name}{of} masks {unused[0]}, which is not one of {model.written}'s attention or MLP matrices; it belongs to another model.")
    return masks
