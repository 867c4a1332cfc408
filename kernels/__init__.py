"""Statistics that accumulate over tokens while a model runs: constant memory, one read of each activation.

Every folder is one statistic: `reference.py` is the definition (plain torch, float64), `cpu.py` and `gpu.py` are the fast
forms, `cases.py` the inputs both tests and benchmark check them on, `__init__.py` the class that accumulates:

    statistic.add(x, keep=None, start=0, impl=None)   x [token, channel]; keep bool [token]; start: flat index of the first token
    statistic.merge(other)                            equal to one pass over both, in any order, to float64 rounding

`impl` names an implementation ("reference", "cpu", "gpu"); by default the tensor's device decides. Nothing falls back silently.

There is no `__version__` here on purpose: transformers probes a package of this name and would mistake ours for it.
"""

VERSION = 1  # bump when a kernel's numbers change; guarded by tests/golden/kernels.json
