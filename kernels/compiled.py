"""How the CPU kernels are compiled. Imported only by cpu.py files, themselves imported when first used: numba costs a second."""

from __future__ import annotations

from numba import njit

# nogil: tokens.over_chunks runs them on plain threads. No fastmath: sums keep their written order unless a kernel says otherwise.
kernel = njit(nogil=True, cache=True, error_model="numpy")
