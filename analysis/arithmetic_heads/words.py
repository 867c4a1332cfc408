"""The answer on top and the headline numbers, made from the result."""

from __future__ import annotations

import numpy as np

from analysis.arithmetic_heads import reading
from analysis.arithmetic_heads.knockout import RANKED
from analysis.contract import Headline
from analysis.plots import number
from metrics.prompts.arithmetic_set import FEWEST
from metrics.prompts.wordings import CHANGES, OPERATORS, SIGN
from models.refusal import NotApplicable

WHEN = {"no operator": "without the operator", "other numbers": "with other numbers"}


def require_prompts(run) -> None:
    """NotApplicable, with the counts, where a model answers too little for its heads to be sought."""
    if len(run.result.key):
        return
    counts = [f"{right:,} of {asked:,} {SIGN[o]}" for o, right, asked in asked_and_right(run.result) if asked]
    found = " and ".join(filter(None, [", ".join(counts[:-1]), counts[-1]])) if counts else "none, because no answer is a single token of its vocabulary"
    raise NotApplicable(f"{run.subject} answers {found} prompts correctly; expected at least {FEWEST} of an operator, and one in five, in both halves. "
                        "Heads of a skill that is not there cannot be sought.")


def asked_and_right(r) -> list[tuple[str, int, int]]:
    """(operator, correctly answered, asked) over both halves."""
    table = r.asked.to_pylist()
    return [(o, *(sum(row[k] for row in table if row["operator"] == o) for k in ("right",
                                                                                 "asked"))) for o in OPERATORS if any(row["operator"] == o for row in table)]


def alive(runs) -> list:
    """The runs that have anything to show, A first; NotApplicable where A has not."""
    require_prompts(runs[0])
    return [run for run in runs if len(run.result.key)]


def shown(value: float, measure: int) -> str:
    return f"{number(value * reading.scale(measure))} {reading.unit(measure)}"


def percent(x: float) -> str:
    return f"{number(100 * x)} %"


def answer(runs) -> str:
    a, *others = alive(runs)
    text = [_key_heads(a), _other_change(a), _knocked(a), _control(a)]
    if len(runs) > 1:
        text.append(_against(a, others[0]) if others else _dead(runs[1]))
    return " ".join(filter(None, text))


def _key_heads(run) -> str:
    r = run.result
    change, convention, _ = reading.chosen(run.params)
    found, limit = reading.key_heads(r, change, run.params.threshold, convention), f"{run.params.threshold:g}"
    where = f"patched with the run {WHEN[CHANGES[change]]} (MLPs {run.params.mlps})"
    effects = reading.heads(r, change, convention)
    if not found:
        i, h = reading.ranked(r, change, convention)[0]
        return (f"**No head** of {reading.n_heads(r):,} takes {limit} % of the answer’s logit away when its output at the last token is {where}; "
                f"the strongest is {reading.name(r, (i, h))} at {shown(effects[i, h, 0], 0)} (95 % interval {_span(effects[i, h])}).")
    i, h = found[0]
    more = [f"{reading.name(r, x)} {number(100 * effects[(*x, 0)])} %" for x in found[1:4]] + (["others"] if len(found) > 4 else [])
    more = " and ".join(["", ", ".join(more)]) if more else ""
    takes = "takes" if len(found) == 1 else "take"
    return (f"**{len(found)} of {reading.n_heads(r):,} heads** {takes} at least {limit} % of the answer’s logit away when {where}: "
            f"**{reading.name(r, (i, h))}** {shown(effects[i, h, 0], 0)} (95 % interval {_span(effects[i, h])}){more}.")


def _span(three) -> str:
    return f"{number(100 * three[1])} to {number(100 * three[2])}"


def _other_change(run) -> str:
    change, convention, _ = reading.chosen(run.params)
    other = 1 - change
    found = reading.key_heads(run.result, other, run.params.threshold, convention)
    names = ", ".join(reading.name(run.result, x) for x in found[:4]) + (" and others" if len(found) > 4 else "")
    return f"{WHEN[CHANGES[other]].capitalize()}: {f'{len(found)} ({names})' if found else 'none'}."


def spread(values: np.ndarray) -> str:
    """Mean and range of the random draws."""
    return f"{percent(values.mean())} ({number(100 * values.min())} to {number(100 * values.max())})"


def _knocked(run) -> str:
    r, (change, _, _) = run.result, reading.chosen(run.params)
    left, random = r.accuracy[0, 1 + change], r.accuracy[0, 1 + RANKED :]
    return (f"Knocking out the first {r.heads} leaves **{percent(left)}** of the answers in other wordings right; "
            f"{r.heads} random heads leave {spread(random)}.")


def _control(run) -> str:
    r, (change, _, _) = run.result, reading.chosen(run.params)
    at = next((i for i, name in enumerate(r.sets) if name.startswith("control: next")), None)
    if at is None:
        return ""
    return (f"On the control text they move next-token accuracy from {percent(r.accuracy[at, 0])} to {percent(r.accuracy[at, 1 + change])}; "
            f"random ones to {spread(r.accuracy[at, 1 + RANKED:])}.")


def _dead(run) -> str:
    right, asked = (sum(column) for column in zip(*[row[1:] for row in asked_and_right(run.result)]))
    return f"**{run.label} answers {right:,} of {asked:,} prompts**, too few of any operator to seek its heads: the skill is gone as a whole."


def _against(a, b) -> str:
    if not reading.same_checkpoint(a, b):
        return f"{b.label} is another checkpoint, whose heads do not correspond to {a.label}’s: {_key_heads(b)[0].lower()}{_key_heads(b)[1:]}"
    change, convention, _ = reading.chosen(a.params)
    found = reading.both(a.result, b.result, change, convention)
    keys = reading.key_heads(a.result, change, a.params.threshold, convention)
    lost = reading.killed(a.result, b.result, change, a.params.threshold, convention)
    prompts = f"on {found.n} prompts that both answer" if found.common else f"each on its own prompts, since both answer only {found.n} of the same"
    if not keys:
        return ""
    if not lost:
        i, h = keys[0]
        return f"**{b.label} keeps** all of them ({reading.name(a.result, keys[0])} {number(100 * found.b[i, h, 0])} % in {b.label}, {prompts})."
    now = lambda x: f"{number(100 * found.b[(*x, 0)])} %" if np.isfinite(found.b[(*x, 0)]) else "removed"
    told = ", ".join(f"{reading.name(a.result, x)} {number(100 * found.a[(*x, 0)])} % to {now(x)}" for x in lost[:4])
    return f"**{b.label} has lost {len(lost)} of {len(keys)}** ({told}; {prompts})."


def headlines(runs) -> tuple[Headline, ...]:
    a = alive(runs)[0]
    r, (change, convention, measure) = a.result, reading.chosen(a.params)
    found = reading.key_heads(r, change, a.params.threshold, convention)
    best = reading.ranked(r, change, convention, measure)[0]
    three = reading.heads(r, change, convention, measure)[best] * reading.scale(measure)
    left, random = r.accuracy[0, 1 + change], r.accuracy[0, 1 + RANKED :]
    rows = [
        Headline("Key heads", f"{len(found)} of {reading.n_heads(r):,}", note=f"{a.params.threshold:g} % of the logit", better=""),
        Headline(f"Strongest, {reading.name(r, best)}", float(three[0]), reading.unit(measure), float(three[1]), float(three[2]),
                 note=f"{a.params.measure}, n = {r.n_discovery} prompts"),
        Headline(f"Right without the first {r.heads}", float(100 * left), "%", *(float(100 * x) for x in r.span[0, 1 + change, 1:]),
                 f"{number(100 * random.min())} to {number(100 * random.max())} %",
                 note=f"random {r.heads} heads, {len(random)} draws; n = {r.n[0]} prompts in other wordings"),
    ]
    if len(runs) > 1:
        b = runs[1].result
        rows.append(Headline("Right without, B", float(100 * b.accuracy[0, 1 + change]), "%",
                             note="B’s own first heads") if len(b.key) else Headline("Prompts kept, B", "0"))
    else:
        at = next((i for i, name in enumerate(r.sets) if name.startswith("control: next")), None)
        if at is not None:
            away = 100 * (r.accuracy[at, 1:] - r.accuracy[at, 0])
            rows.append(Headline("Control accuracy, change", float(away[change]), "points",
                                 null=f"{number(away[RANKED:].min())} to {number(away[RANKED:].max())}", better="high",
                                 note=f"next token, from {percent(r.accuracy[at, 0])}; null: random heads"))
    return tuple(rows)
