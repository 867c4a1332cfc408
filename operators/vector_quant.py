"""Store each matrix as indices into a codebook of short vectors, columns one after the other, the free ones making up for the error.

Each column of W is cut into vectors of `length` consecutive rows. The codebook of a matrix is a k-means of all its vectors in which
column j counts by h_jj, the diagonal of H = (2/n) Σ x xᵀ. Columns are then coded in order: the nearest entry for each vector, and
GPTQ's update of the columns to the right. A second, residual codebook codes what the first leaves; the columns with the largest h_jj
may have a codebook of their own. Bits are log2(k)/length a weight, plus 16 bits a codebook value: on narrow matrices that is much.

Use it at about 2 bits, below what one scale per group can do, on matrices with far more vectors than entries. Not on narrow matrices,
where the codebook outweighs the indices, nor after pruning: zero is no entry. Slower to decide than GPTQ.
Source: Liu et al., “VPTQ: Extreme Low-bit Vector Post-Training Quantization”, EMNLP 2024; here with plain k-means, without its
fine-tuning of codebooks and norms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from metrics.calibration import solve_matrices
from metrics.codebook import codebook, nearest
from metrics.solvers import Compensated, InverseFactor, compensate, inverse_factor
from metrics.stored_bits import known_bits, note_bits, split_key, total_bits
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.refusal import Refused
from models.shape import Matrix, Shape, shape_of
from operators.contract import Storage

TITLE = "Vector quantisation"
VALUE_BITS = 16  # of a number in a codebook


@dataclass(frozen=True)
class Params:
    entries: int = param(256, "Codebook entries", first=True, low=2, high=4096)
    length: int = param(4, "Vector length", first=True, low=1, high=16, help="Consecutive rows of a column that are coded together")
    residual: int = param(0, "Residual entries", first=True, low=0, high=4096, help="A second codebook for what the first leaves; 0 is none")
    outliers: float = param(0.0, "Outlier columns", low=0.0, high=0.25, help="Share of columns, those with the largest inputs, that get a codebook of their own")
    which: Literal["all", "attn", "mlp"] = param("all", "Matrices")
    propagation: Literal["parallel", "sequential"] = param("parallel", "Propagation", help="Statistics on original activations, or on those of the compressed blocks before")
    damping: float = param(0.01, "Damping", low=0.0, high=1.0, help="Share of the mean diagonal added to the second moments")
    steps: int = param(10, "k-means steps", low=1, high=200)


NEUTRAL = None  # coding always moves vectors that are no entries; with an entry for each vector it is the identity
SWEEP = ("entries=64", "entries=256", "entries=256,residual=64", "entries=256,residual=256")


@dataclass(frozen=True, eq=False)
class Plan:
    codes: dict[str, torch.Tensor]  # uint8 or int16 [vectors a column, in]: index into the matrix's book, or the outliers' one
    books: dict[str, torch.Tensor]  # [k, length] float16
    residual_codes: dict[str, torch.Tensor]  # the same of the residual stage, 0 in outlier columns; no entries without it
    residual_books: dict[str, torch.Tensor]
    outlier_columns: dict[str, torch.Tensor]  # int64 [columns]
    outlier_books: dict[str, torch.Tensor]
    objective: dict[str, torch.Tensor]  # of the first k-means: start and each step, float64
    loss: dict[str, torch.Tensor]  # [in] float64, summed over rows
    damping: dict[str, torch.Tensor]  # share of the mean diagonal that succeeded
    bits: dict[str, torch.Tensor]


def calibrated(params: Params) -> bool:
    return True


def check(params: Params, shape: Shape) -> None:
    for m in shape.chosen(params.which):
        if m.n_out % params.length:
            fits = [v for v in (8, 4, 2, 1) if all(x.n_out % v == 0 for x in shape.chosen(params.which))]
            raise Refused(f"Vectors of {params.length} do not divide the {m.n_out} rows of {m.name}; here {', '.join(map(str, fits))} would.")
        vectors = m.n_out // params.length * m.n_in
        if 2 * max(params.entries, params.residual) > vectors:
            raise Refused(f"{max(params.entries, params.residual)} entries for the {vectors} vectors of {m.name} would save nothing; at most {vectors // 2} here, or other matrices.")


def stored_bits(m: Matrix, params: Params, first: int, residual: int, outliers: int) -> float:
    """Bits of a coded matrix from the sizes of its three codebooks."""
    per_column = m.n_out // params.length
    n_outliers = outlier_count(params, m.n_in)
    plain = (m.n_in - n_outliers) * per_column
    books = (first + residual + outliers) * params.length * VALUE_BITS
    places = n_outliers * (m.n_in - 1).bit_length()  # which columns they are
    return float(books + plain * (_index_bits(first) + _index_bits(residual)) + n_outliers * per_column * _index_bits(outliers) + places)


def _index_bits(entries: int) -> int:
    return max(entries - 1, 0).bit_length()


def outlier_count(params: Params, n_in: int) -> int:
    return int(params.outliers * n_in + 0.5)


def foresee(params: Params, outline: Outline) -> Outline:
    def bits(m: Matrix) -> float:
        vectors, n_outliers = m.n_out // params.length, outlier_count(params, m.n_in)
        return 0.0 if outline.value_bits(m) == 0 else stored_bits(m, params, params.entries, params.residual, min(params.entries, vectors * n_outliers))

    return outline.storing({m: bits(m) for m in outline.shape.chosen(params.which)})


@dataclass(frozen=True, eq=False)
class Books:
    """Codebooks of one matrix, rounded as they are stored, float32 [k, length]; None where there is none."""

    first: torch.Tensor
    residual: torch.Tensor | None
    outlier: torch.Tensor | None
    columns: torch.Tensor  # int64, the outlier columns
    objective: torch.Tensor


def vectors_of(weight: torch.Tensor, length: int) -> torch.Tensor:
    """[out, in] as [vectors a column, in, length]."""
    return weight.reshape(weight.shape[0] // length, length, -1).transpose(1, 2)


def whole(vectors: torch.Tensor) -> torch.Tensor:
    """The matrix [out, in] of vectors [vectors a column, in, length]."""
    return vectors.transpose(1, 2).reshape(-1, vectors.shape[1])


def rounded(entries: torch.Tensor) -> torch.Tensor:
    return entries.clamp(-65504, 65504).to(torch.float16).to(entries)


def books_of(weight: torch.Tensor, importance: torch.Tensor, params: Params, generator: torch.Generator) -> Books:
    """The codebooks of a matrix [out, in] whose column j counts by importance [in]."""
    loud = importance.argsort(descending=True, stable=True)[: outlier_count(params, weight.shape[1])].sort().values
    plain = torch.ones(weight.shape[1], dtype=torch.bool).index_fill_(0, loud, False)
    vectors = vectors_of(weight, params.length)

    def fit(part: torch.Tensor, columns, k: int):
        counts = importance[columns].clamp(min=1e-6 * float(importance.mean())).to(part).expand(part.shape[0], -1)
        return codebook(part.reshape(-1, params.length), counts.reshape(-1), k, params.steps, generator)

    here = vectors[:, plain]
    found = fit(here, plain, params.entries)
    first, residual = rounded(found.entries), None
    if params.residual:
        left = here - first[nearest(here.reshape(-1, params.length), first)[0]].view(here.shape)
        residual = rounded(fit(left, plain, params.residual).entries)
    outlier = rounded(fit(vectors[:, loud], loud, params.entries).entries) if len(loud) else None
    return Books(first, residual, outlier, loud, found.objective)


@dataclass(frozen=True, eq=False)
class Coded:
    codes: torch.Tensor  # int64 [vectors a column, in]
    residual: torch.Tensor  # the same, all 0 without a residual stage
    solved: Compensated


def coded(weight: torch.Tensor, factor: InverseFactor, books: Books) -> Coded:
    """Codes of a matrix [out, in], column by column with compensation."""
    length = books.first.shape[1]
    codes = torch.zeros(weight.shape[0] // length, weight.shape[1], dtype=torch.int64)
    residual, outliers = torch.zeros_like(codes), set(books.columns.tolist())

    def replace(j, current):
        column = current[:, 0].reshape(-1, length)
        book = books.outlier if j in outliers else books.first
        codes[:, j] = nearest(column, book)[0]
        final = book[codes[:, j]]
        if books.residual is not None and j not in outliers:
            residual[:, j] = nearest(column - final, books.residual)[0]
            final = final + books.residual[residual[:, j]]
        return final.reshape(-1)

    return Coded(codes, residual, compensate(weight.clone(), factor, replace))


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    plan = Plan({}, {}, {}, {}, {}, {}, {}, {}, {}, {})
    generator = torch.Generator().manual_seed(torch.initial_seed() % 2**31)
    kept = torch.uint8 if max(params.entries, params.residual) <= 256 else torch.int16

    def solve(matrix, weight, inputs):
        w, factor = weight.float(), inverse_factor(inputs.gram, inputs.tokens, params.damping)
        books = books_of(w, factor.hessian.diagonal().float(), params, generator)
        done, key = coded(w, factor, books), matrix.key
        plan.codes[key], plan.books[key] = done.codes.to(kept), books.first.to(torch.float16)
        if books.residual is not None:
            plan.residual_codes[key], plan.residual_books[key] = done.residual.to(kept), books.residual.to(torch.float16)
        if books.outlier is not None:
            plan.outlier_columns[key], plan.outlier_books[key] = books.columns, books.outlier.to(torch.float16)
        plan.objective[key], plan.loss[key], plan.damping[key] = books.objective, done.solved.loss, torch.tensor(factor.damping, dtype=torch.float64)
        sizes = [0 if book is None else len(book) for book in (books.first, books.residual, books.outlier)]
        plan.bits[key] = torch.tensor(0.0 if known_bits(model, matrix) == 0 else stored_bits(matrix, params, *sizes))
        return rebuilt(plan, key).to(weight)

    solve_matrices(model, calibration, shape_of(model).chosen(params.which), params.propagation, True, solve, progress)
    return plan


def rebuilt(plan: Plan, key: str) -> torch.Tensor:
    """The coded matrix [out, in] in float32."""
    codes, book = plan.codes[key].long(), plan.books[key].float()
    vectors = book[codes.clamp(max=len(book) - 1)]
    if key in plan.residual_books:
        vectors = vectors + plan.residual_books[key].float()[plan.residual_codes[key].long()]
    if key in plan.outlier_books:
        columns = plan.outlier_columns[key]
        vectors[:, columns] = plan.outlier_books[key].float()[codes[:, columns]]
    return whole(vectors)


def apply(model: Model, plan: Plan) -> None:
    for key in plan.codes:
        model.set_matrix(*split_key(key), rebuilt(plan, key))
    note_bits(model, plan.bits)


def storage(model: Model, plan: Plan) -> Storage:
    weights = sum(codes.numel() * plan.books[key].shape[1] for key, codes in plan.codes.items())
    return Storage(total_bits(plan.bits), weights, False, "indices and codebooks of 16-bit numbers; smaller, and faster only where kernels look vectors up on the fly (not here)")
