"""The compression operators, by name, and the reading of recipes.

An operator is one module with

    TITLE                                  shown in the lab; the docstring is its Method
    Params                                 frozen dataclass (models.params)
    Plan                                   frozen dataclass of tensors, arrays, scalars: what was decided, as stored
    NEUTRAL                                (params, tolerance) that leave the logits unchanged, or None
    calibrated(params) -> bool             whether decide looks at text
    check(params, shape) -> None           refuses in words, before any computation; the page asks it before anything is loaded
    decide(model, params, calibration, progress) -> Plan    expensive; calibration is a Capture of the parent, or None
    apply(model, plan) -> None             mechanical; replays at every load on a private copy
    CALIBRATION                            optional: the text of a recipe that names none
    storage(model, plan) -> Storage        honest bits, and whether it is faster or only smaller

and, where it can,

    foresee(params, outline) -> Outline    what it will leave and store, from shapes alone: the size before it is made (models.outline)
    physical(model, plan) -> Module        the really smaller module with the same logits; `model` is the parent of the step
    TOGETHER                               True where what is stored for a matrix serves others too, so that one matrix cannot have a level of its own
    SWEEP                                  written parameters worth comparing on the frontier, such as ("bits=4", "bits=3")

Operators over several parents are in operators/merging, with the same contract.
"""

from __future__ import annotations

from dataclasses import replace

from metrics.calibration import FEWEST
from models.corpus import Corpus, require_context
from models.corpus import parse as parse_corpus
from models.outline import Outline
from models.params import key_params, read_params
from models.refusal import Refused
from models.variant import Step, Variant, parse as parse_grammar
from operators import (
    awq, contextual_sparsity, crash, cut_memorized, dense_sparse, drop_layers, error_correction, flap, gptq, heal, hqq, low_rank, magnitude, masa, masks_2_4, mixed_levels,
    modegpt, relaxed_recursive, round_to_nearest, share_blocks, skip_loop, slice_gpt, sparsegpt, split_quant, subnetwork, tune_heads,
    tensor_network, vector_quant, wanda,
)
from operators.merging import average, breadcrumbs, fisher, pcb, pleas, reversible, task_arithmetic, ties

CALIBRATION = "demo/mixed:train:64x128"  # where a recipe names no text

OPERATORS = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        drop_layers, skip_loop, share_blocks, crash, flap, modegpt, magnitude, wanda, sparsegpt, masks_2_4, low_rank, slice_gpt, round_to_nearest, gptq, awq, hqq, split_quant,
        vector_quant, tensor_network, dense_sparse, masa, relaxed_recursive, error_correction,
        tune_heads, cut_memorized, subnetwork, mixed_levels, heal, contextual_sparsity,
    )
}

MERGES = {module.__name__.rpartition(".")[2]: module for module in (average, task_arithmetic, ties, breadcrumbs, pcb, fisher, pleas, reversible)}
ALL = OPERATORS | MERGES  # what a step may name; the first step over parents is one of MERGES, every other one of OPERATORS

NARROWS, FACTORS, PRUNES = ("flap", "modegpt"), ("low_rank", "tensor_network", "dense_sparse", "masa", "relaxed_recursive"), ("magnitude", "wanda", "sparsegpt", "masks_2_4")
SHARES = ("share_blocks", "crash", "relaxed_recursive")
QUANTISES = ("round_to_nearest", "gptq", "awq", "hqq", "split_quant", "vector_quant")


def default_text(name: str) -> str:
    """The calibration text of a step that names none: the operator's own, or the common one."""
    return getattr(ALL[name], "CALIBRATION", CALIBRATION)


def parse(text: str) -> Variant:
    """Read a variant's written form with every step's operator and parameters checked; canonical, so one recipe has one form."""
    return canonical(parse_grammar(text))


def canonical(variant: Variant) -> Variant:
    steps = tuple(_checked(step) for step in variant.steps)
    _refuse_parents(variant)
    refuse_order(steps)
    return replace(variant, steps=steps, parents=tuple(canonical(p) for p in variant.parents))


def _refuse_parents(variant: Variant) -> None:
    """Refuses a merge without parents or with too many, and parents that nothing merges."""
    first, *later = [step.operator for step in variant.steps] or [""]
    if variant.parents and first not in MERGES:
        raise Refused(f"The first step over several models must merge them; {first or 'there is none'} does not. Merging operators: {', '.join(MERGES)}.")
    alone = [name for name in (*later, *(() if variant.parents else (first,))) if name in MERGES]
    if alone:
        raise Refused(f"{alone[0]} merges several models; write it as the first step over them, (model+model)~{alone[0]}.")
    if variant.parents:
        low, high = MERGES[first].PARENTS
        if not low <= len(variant.parents) <= high:
            raise Refused(f"{first} merges {low if low == high else f'{low} to {high}'} models; found {len(variant.parents)}.")


def foreseen(variant: Variant, outline: Outline) -> Outline:
    """What the recipe will leave of a checkpoint; Refused where a step cannot be done. Nothing is loaded for it."""
    for step in variant.steps:
        operator = ALL[step.operator]
        params = read_params(operator.Params, dict(step.params))
        operator.check(params, outline.shape)
        if step.on:
            _require_text(parse_corpus(step.on), outline.context, variant.base)
        outline = operator.foresee(params, outline) if hasattr(operator, "foresee") else replace(outline, known=False)
    return outline


def _require_text(corpus: Corpus, context: int | None, model: str) -> None:
    """Refuses a calibration text that is too short by its own description, or longer than the model can read."""
    require_context(corpus, context, model)
    if corpus.n_sequences * corpus.length < FEWEST:
        raise Refused(f"The calibration text {corpus.written} has at most {corpus.n_sequences * corpus.length} tokens; expected at least {FEWEST}. "
                      "Take more or longer sequences.")


def leaves_out(step: Step) -> bool:
    """Whether the step takes blocks or sublayers out, so that what is left really runs faster."""
    return _kind(step) == "drop_layers" or bool(_param(step, "skip"))


def refuse_order(steps: tuple[Step, ...]) -> None:
    """Refuses a recipe in which a step destroys what an earlier one stored; steps on different matrices never meet."""
    for i, later in enumerate(steps):
        for earlier in steps[:i]:
            reason = _conflict(earlier, later)
            if reason:
                raise Refused(f"{later.operator} after {earlier.operator} makes no sense: {reason}.")


def _conflict(earlier: Step, later: Step) -> str | None:
    """Why `later` undoes `earlier`, or None. The rules follow from what each family stores."""
    first, second = _kind(earlier), _kind(later)
    if first == "skip_loop" and second in ("drop_layers", "skip_loop", "share_blocks", "crash") or first in (*SHARES, "masa") and second == "skip_loop":
        return "which blocks run, and which of them share their weights, would be said twice; say it in one chain"
    if first in SHARES and second == "drop_layers":
        return "a block that goes may be the one that holds the shared weights; drop first, then share"
    if "drop_layers" in (first, second) or first == "tune_heads" and second != "error_correction":
        return None
    if first == "contextual_sparsity" and second != "heal":
        return "it changes only how the model runs, and what comes after would be decided on that; put it last, or before healing alone"
    if second == "contextual_sparsity":
        return None
    if "heal" in (first, second):
        return _unhealable(earlier, later)
    if first == "error_correction":
        return "its factors stand beside a matrix and would not survive what is done to the matrix; correct last"
    if second == "error_correction":
        if first in ("tune_heads", "cut_memorized", "subnetwork"):
            return "what was trained or cut on purpose would be taken for an error and undone; quantise and correct first"
        return "the blocks or matrices stand in another place or another basis than the original's, so their difference is no error" if first in ("modegpt", "skip_loop", "crash", "slice_gpt") else None
    if second == "tune_heads" and first in (*PRUNES, *QUANTISES, *NARROWS, *FACTORS):
        return "the tuned weights would leave their zeros, their grid or their factors; tune first, then compress"
    if first == "slice_gpt" and second != "share_blocks":
        return "the matrices are shown in their old basis, while a sliced model stores them in the new one; slice alone, or drop and share around it"
    if second == "slice_gpt":
        return "cutting the stream mixes all channels, so zeros, integer grids and thin factors are lost; slice first, without other steps on the weights"
    if "masa" in (first, second) and {first, second} & {"share_blocks", "skip_loop"}:
        return "blocks that share whole matrices have no atoms of their own to share; use one of the two"
    if {"relaxed_recursive", "crash"} & {first, second} and {first, second} <= {*SHARES, "masa", "skip_loop"}:
        return "the same blocks would share their weights in two ways; use one of the two"
    if first in ("share_blocks", "crash", "skip_loop"):
        weights_only = second in ("magnitude", "round_to_nearest", "split_quant", "tensor_network", "share_blocks") or _param(later, "metric") in ("svd", "none")
        return None if weights_only else "every copy of a shared block would be given its own values by its own inputs and stop being shared; calibrate first, share last"
    if second == "crash":
        return None
    if second == "share_blocks":
        mean = _param(later, "representative") == "mean"
        return "the mean of compressed blocks has neither their zeros nor their grid; share the first or the centre" if mean else None
    if {_param(earlier, "which"), _param(later, "which")} == {"attn", "mlp"}:
        return None
    if first in FACTORS:
        return "it would work on the product of the factors, which is not what is stored"
    if second in FACTORS:
        return "thin factors mix all weights, so no zero and no integer grid survives"
    if first in QUANTISES and second in QUANTISES:
        return "weights on one grid would be rounded a second time; keep one of them, or give them different matrices"
    if first in PRUNES and second in PRUNES:
        return "a second mask on the same matrices only hides the first; give the final sparsity to one of them"
    if first in (*PRUNES, *NARROWS) and second in ("hqq", "vector_quant"):
        return "zero is not on its grid, so what was pruned would come back; quantise with another operator"
    if first == "vector_quant" and second in PRUNES:
        return "a vector with a zero in it is no entry of the codebook; prune without it, or quantise a pruned model on a grid"
    if second == "modegpt":
        return "what it refits has neither zeros nor a grid, and a second choice of heads and channels would hide the first; make the model narrow first"
    if first == "modegpt" and second == "flap":
        return "heads and channels would be chosen twice; use one of the two"
    if first in QUANTISES and second == "flap":
        return "a mean that goes into a bias belongs to the weights before rounding; remove heads and channels first"
    if first in QUANTISES and second == "sparsegpt":
        return "the weights that are left would move off their grid; prune first, or prune with magnitude or wanda"
    return None


def _kind(step: Step) -> str:
    """The operator, of mixed levels the one whose levels they are; clusters whose other blocks go are a way to drop."""
    if step.operator == "crash" and _param(step, "rest") == "remove":
        return "drop_layers"
    return _param(step, "of") if step.operator == "mixed_levels" else step.operator


def _unhealable(earlier: Step, later: Step) -> str | None:
    """Why a healing step cannot stand there, or None. Norms and biases may be trained anywhere; adapters come last."""
    first, second = _kind(earlier), _kind(later)
    if second == "heal":
        if first == "slice_gpt":
            return "slicing folds the norms into matrices of another basis, so what was trained could not be stored there; heal before slicing"
        masked = _param(later, "train") != "norms" and _param(later, "adapter") == "masked"
        if masked and first not in (*PRUNES, "tune_heads", "cut_memorized", "subnetwork", "heal", "contextual_sparsity"):
            return "a mask keeps zeros, but not a grid, factors or shared blocks; keep the adapters beside (adapter=beside), or train norms and biases"
        return None
    if _param(earlier, "train") != "norms" and second != "tune_heads":
        return "the adapters would be compressed away with their matrices; compress first, heal last"
    return None


def _param(step: Step, name: str):
    """A parameter of a step, its default included; None where the operator has no such parameter."""
    return getattr(read_params(ALL[step.operator].Params, dict(step.params)), name, None)


def _checked(step: Step) -> Step:
    operator = ALL.get(step.operator)
    if operator is None:
        raise Refused(f"There is no operator “{step.operator}”; known: {', '.join(ALL)}.")
    params = read_params(operator.Params, dict(step.params))
    default = key_params(operator.Params())
    given = tuple((name, value) for name, value in key_params(params).items() if value != default[name])
    on = parse_corpus(step.on or default_text(step.operator)).written if operator.calibrated(params) else None
    return Step(step.operator, given, on, step.seed)
