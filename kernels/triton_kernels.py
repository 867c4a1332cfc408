"""Triton, for gpu.py files only. On a CUDA machine without it the import says what to install; nothing falls back.

Under TRITON_INTERPRET=1 the same kernels run on CPU tensors, which proves their logic and masks, not their compilation.
"""

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError("The GPU kernels need Triton: pip install triton (PyTorch's CUDA wheels bring the matching version).") from error

__all__ = ["tl", "triton", "launch_device"]


def launch_device(x):
    """A context in which kernels launch on x's device; CPU tensors (the interpreter) need none."""
    import contextlib

    import torch

    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
