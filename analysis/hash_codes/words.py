"""The answer on top, the headline numbers, and the words that several cards use."""

from __future__ import annotations

import math

import numpy as np

from analysis.contract import Headline
from analysis.hash_codes import tables
from analysis.hash_codes.attention import BITS
from analysis.hash_codes.probing import ALL
from analysis.hash_codes.sparsity import MAIN
from analysis.plots import number


def percent(x: float) -> str:
    """A share as a percentage; what is not zero never reads 0 %."""
    if not math.isfinite(x):
        return "–"
    return "0 %" if x == 0 else "under 0.01 %" if x < 1e-4 else f"{100 * x:.2g} %" if x < 0.1 else f"{100 * x:.1f} %"


def what(r) -> str:
    """Site, threshold and number format: part of every code."""
    return f"{r.site} in {r.dtype}"


def probe(r, source: str, reader: str = "k-NN", layer: int = ALL) -> dict | None:
    """The row of one source, at one layer or at all side by side."""
    found = tables.where(r.probes, source=source, reader=reader, layer=layer) if r.label else []
    return found[0] if found else None


def best(r, source: str, reader: str = "k-NN") -> dict:
    """The layer where a source is read best; for raw pre-activations, which are not put side by side."""
    return max(tables.where(r.probes, source=source, reader=reader), key=lambda row: row["accuracy"])


def redundant(r, source: str = "sign codes", texts: str = "without shared prefixes") -> float:
    """R of the whole code of all layers looked at."""
    found = [row for row in tables.where(r.redundancy, source=source, texts=texts) if row["layer"] == ALL]
    return max(found, key=lambda row: row["bits"])["r"] if found else math.nan


def silent(r) -> tuple[float, float]:
    """(share of units never on, share always on) over all planes and layers."""
    return float((r.on_fraction == 0).mean()), float((r.on_fraction == 1).mean())


def masked(r, condition: str, cut) -> dict:
    return tables.where(r.damage, condition=condition, cut=cut)[0]


def answer(runs) -> str:
    a, *others = runs
    text = [_known(a.result), _sparse(a.result)]
    text += [f"Attention{f' of {run.label}' if others else ''} is not shown: {run.result.attention_note}" for run in runs if run.result.attention_note]
    if others:
        text.append(_against(a.result, others[0].result))
    return " ".join(text)


def _known(r) -> str:
    never, always = silent(r)
    lead = f"**{percent(never)}** of the units are never on and {percent(always)} always. "
    code = probe(r, "sign codes")
    if code is None:
        return lead + f"Without shared prefixes R = {number(redundant(r))} (random hyperplanes {number(redundant(r, 'random hyperplanes'))}). This text has no label to read off codes."
    of = lambda source: number(probe(r, source)["accuracy"])
    return lead + (f"k-NN reads the {r.label} off the sign code of a {r.unit} with accuracy **{number(code['accuracy'])}** ({number(code['low'])}\u2060–\u2060{number(code['high'])}); off as many random hyperplanes {of('random hyperplanes')}, "
                   f"an untrained network {of('untrained network')}, the pre-activations {number(best(r, 'pre-activations')['accuracy'])}; always the most frequent class {number(tables.where(r.probes, source='most frequent class')[0]['accuracy'])}, "
                   f"shuffled labels {of('shuffled labels')}.")


def _sparse(r) -> str:
    from analysis.hash_codes.sparsity import CUTS

    told, random = masked(r, "predicted off", CUTS[MAIN]), masked(r, "random", CUTS[MAIN])
    truly = masked(r, "truly off", None)
    return (f"Setting the {percent(told['masked_share'])} of units predicted off to zero costs **{number(told['kl'])} nats per token**, as many at random {number(random['kl'])}, "
            f"those truly off {number(truly['kl'])}.")


def _against(a, b) -> str:
    f = tables.flips(a, b)
    if f.why_not:
        return f.why_not
    text = f"B flips **{percent(float(f.share.mean()))}** of A’s bits, most in block {f.layers[int(np.argmax(f.share))]} ({percent(float(f.share.max()))})"
    return text + (f"; {percent(f.kept)} of each {a.unit}’s nine neighbours stay (chance {percent(9 / max(f.same - 1, 9))})." if math.isfinite(f.kept) else ".")


def headlines(runs) -> tuple[Headline, ...]:
    from analysis.hash_codes.sparsity import CUTS

    r = runs[0].result
    rows = []
    if code := probe(r, "sign codes"):
        rows.append(Headline(f"{r.label} read off codes", round(code["accuracy"], 4), low=code["low"], high=code["high"], null=number(probe(r, "random hyperplanes")["accuracy"]), better="high",
                             note=f"k-NN, n = {code['n']:,}; null: random hyperplanes"))
    rows.append(Headline("Never on", round(100 * silent(r)[0], 2), "%", note=f"of {r.on_fraction[0].size * len(r.planes):,} units, {r.n_counted:,} tokens"))
    told, random = masked(r, "predicted off", CUTS[MAIN]), masked(r, "random", CUTS[MAIN])
    rows.append(Headline("KL, predicted-off masked", told["kl"], "nats/token", told["low"], told["high"], number(random["kl"]), "low", f"{percent(told['masked_share'])} of units; null: random"))
    if len(runs) > 1 and not (f := tables.flips(r, runs[1].result)).why_not:
        rows.append(Headline("Bits flipped by B", round(100 * float(f.share.mean()), 3), "%", round(100 * float(f.share.min()), 3), round(100 * float(f.share.max()), 3), note="mean and range over blocks; A against itself: 0"))
    elif r.recall.size:
        b = BITS.index(runs[0].params.bits)
        rows.append(Headline(f"Top-{runs[0].params.keys} keys found, {BITS[b]} bits", round(float(r.recall[0, b].mean()), 4), null=number(r.chance), better="high", note="random projections, mean over heads; null: chance"))
    return tuple(rows)
