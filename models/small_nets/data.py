"""Images for small networks: scikit-learn's digits always, MNIST and the like from a file."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models.refusal import Refused

MOST_BYTES = 1 << 30  # of the arrays in a file


@dataclass(frozen=True, eq=False)
class Images:
    """Training and test images. x [sample, channel, height, width] in 0–1, y int64 [sample], x_test and y_test alike."""

    name: str
    x: torch.Tensor
    y: torch.Tensor
    x_test: torch.Tensor
    y_test: torch.Tensor
    n_classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input: (channel, height, width)."""
        return tuple(self.x.shape[1:])

    def to(self, dtype) -> Images:
        return Images(self.name, self.x.to(dtype), self.y, self.x_test.to(dtype), self.y_test, self.n_classes)


def digits(n_train: int = 1200, seed: int = 0) -> Images:
    """scikit-learn's 1,797 handwritten digits, 8 × 8, ten classes, split at random by `seed`."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(seed).permutation(len(found.target))
    x = torch.from_numpy((found.images / 16).astype(np.float32))[:, None]
    y = torch.from_numpy(found.target.astype(np.int64))
    train, test = order[:n_train], order[n_train:]
    return Images("digits", x[train], y[train], x[test], y[test], 10)


def from_file(path: Path) -> Images:
    """Images of an .npz file with x_train, y_train, x_test, y_test: x [sample, height, width] or [sample, height, width,
    channel] in 0–255 (whole numbers) or 0–1, y whole numbers from 0. Refused with what was found otherwise."""
    path = Path(path)
    if not path.is_file():
        raise Refused(f"There is no file {path.name}; give the path of an .npz with x_train, y_train, x_test and y_test.")
    try:
        with zipfile.ZipFile(path) as archive:
            if (size := sum(member.file_size for member in archive.infolist())) > MOST_BYTES:
                raise Refused(f"{path.name} unpacks to {size / 2**30:.1f} GiB; at most {MOST_BYTES >> 30} GiB are read.")
        with np.load(path, allow_pickle=False) as file:
            missing = {"x_train", "y_train", "x_test", "y_test"} - set(file.files)
            if missing:
                raise Refused(f"{path.name} has no {', '.join(sorted(missing))}; found {', '.join(sorted(file.files)[:8]) or 'nothing'}.")
            arrays = {name: file[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise Refused(f"{path.name} is not an .npz of plain arrays ({str(error)[:80]}).") from None
    (x, y), (x_test, y_test) = (_pair(path, arrays, part) for part in ("train", "test"))
    if x.shape[1:] != x_test.shape[1:]:
        raise Refused(f"{path.name} has training images {list(x.shape[1:])} and test images {list(x_test.shape[1:])}; expected one size.")
    return Images(path.stem, x, y, x_test, y_test, int(max(y.max(), y_test.max())) + 1)


def _pair(path: Path, arrays: dict, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = arrays[f"x_{part}"], arrays[f"y_{part}"].reshape(-1)
    if x.dtype.kind not in "uif" or x.ndim not in (3, 4) or len(x) < 2 or len(x) != len(y):
        raise Refused(f"{path.name}: x_{part} is {x.dtype} {list(x.shape)} with {len(y)} labels; expected images [sample, height, width] and as many labels.")
    if y.dtype.kind not in "ui" or y.min() < 0 or y.max() > 999:
        raise Refused(f"{path.name}: y_{part} is {y.dtype} from {y.min()} to {y.max()}; expected whole numbers from 0 to at most 999.")
    x = x.astype(np.float32) / (255.0 if x.dtype.kind in "ui" else 1.0)
    if not np.isfinite(x).all():
        raise Refused(f"{path.name}: x_{part} holds numbers that are not finite.")
    x = x[:, None] if x.ndim == 3 else np.moveaxis(x, -1, 1)
    return torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(y.astype(np.int64))


def tiled(n: int, length: int, n_train: int, seed: int | None = None) -> np.ndarray:
    """Rows of a sample of n, repeated to `length`, so that the number of updates does not depend on n; the first n rows of the
    training set, or n drawn by `seed`. int64 [length]."""
    if not 1 <= n <= n_train:
        raise Refused(f"A sample of {n} out of {n_train} training images; expected 1 to {n_train}.")
    chosen = np.arange(n) if seed is None else np.random.default_rng(seed).permutation(n_train)[:n]
    return np.resize(chosen, length).astype(np.int64)


def noisy(y: np.ndarray, fraction: float, n_classes: int, seed: int) -> np.ndarray:
    """Labels of which this fraction (rounded to whole samples, drawn by `seed`) is replaced by another class, each other class
    alike. int64 [sample]."""
    generator = np.random.default_rng(seed)
    out = np.array(y, np.int64)
    at = generator.permutation(len(out))[: round(fraction * len(out))]
    out[at] = (out[at] + generator.integers(1, n_classes, len(at))) % n_classes
    return out


def drawn(images: Images, n_train: int, n_test: int, seed: int) -> Images:
    """At most so many of each, drawn by `seed`."""
    generator = np.random.default_rng(seed)
    train, test = (torch.from_numpy(generator.permutation(len(y))[:n]) for y, n in ((images.y, n_train), (images.y_test, n_test)))
    return Images(images.name, images.x[train], images.y[train], images.x_test[test], images.y_test[test], images.n_classes)
