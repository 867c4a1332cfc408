"""Per-token outputs that would grow with the corpus: rows in a memory-mapped file, or in memory where no path is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np


class Sink:
    """Rows [token, ...row_shape] of one dtype, addressed by flat token index (sequence × length + position).

    With a path, rows are written to a raw file (little-endian, C order) that `rows()` maps; tokens never written read as zero.
    Without one they are kept in a growing array.
    """

    def __init__(self, path: str | Path | None, row_shape: tuple[int, ...], dtype):
        self.row_shape, self.dtype = tuple(row_shape), np.dtype(dtype)
        self.row_bytes = int(np.prod(self.row_shape, dtype=np.int64)) * self.dtype.itemsize
        self.path = Path(path) if path is not None else None
        self.n_rows = 0
        self.written: list[tuple[int, int]] = []  # token ranges, in the order they came
        if self.path is not None:
            self.path.write_bytes(b"")
        self._rows = np.zeros((0, *self.row_shape), self.dtype)

    def write(self, start: int, rows: np.ndarray) -> None:
        if rows.shape[1:] != self.row_shape:
            raise ValueError(f"Expected rows of shape {self.row_shape}, found {rows.shape[1:]}.")
        rows = np.ascontiguousarray(rows, self.dtype)
        if self.written and self.written[-1][1] == start:
            self.written[-1] = (self.written[-1][0], start + len(rows))
        else:
            self.written.append((start, start + len(rows)))
        end = start + len(rows)
        if self.path is None:
            if end > len(self._rows):
                grown = np.zeros((max(end, 2 * len(self._rows)), *self.row_shape), self.dtype)
                grown[: self.n_rows] = self._rows[: self.n_rows]
                self._rows = grown
            self._rows[start:end] = rows
        else:
            with self.path.open("r+b") as file:
                file.seek(start * self.row_bytes)
                file.write(rows.data)
        self.n_rows = max(self.n_rows, end)

    def rows(self) -> np.ndarray:
        """[token, ...row_shape]; a read-only map of the file where there is one."""
        if self.path is None:
            return self._rows[: self.n_rows]
        if self.n_rows == 0 or self.row_bytes == 0:
            return np.zeros((self.n_rows, *self.row_shape), self.dtype)
        return np.memmap(self.path, self.dtype, "r", shape=(self.n_rows, *self.row_shape))

    def merge(self, other: Sink) -> None:
        """Copy the rows that the other sink wrote; where both wrote a token, the other's stand."""
        theirs = other.rows()
        for lo, hi in other.written:
            self.write(lo, theirs[lo:hi])
