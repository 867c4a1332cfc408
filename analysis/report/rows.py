"""From stored results to rows and figures; nothing is computed here."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import pyarrow as pa

from analysis import run, sweep
from analysis.contract import Figure, Headline, Run
from analysis.report.plan import Asked
from models.refusal import NotApplicable, Refused

log = logging.getLogger("analysis")

PENDING = "not computed yet"
DIFFERENCE = "B − A"  # the name that figures give to a view of the difference
NUMBERS = ("a", "a_low", "a_high", "b", "b_low", "b_high", "difference")
SCHEMA = pa.schema([(name, pa.float64() if name in NUMBERS else pa.string()) for name in (
    "analysis", "number", "state", *NUMBERS, "unit", "null", "n", "corpus", "note", "why")])


@dataclass(frozen=True)
class Row:
    """One headline number of A and of B (of the pair: under B), or the state of an analysis that gave none."""

    analysis: str
    title: str
    label: str
    state: str = "done"
    why: str = ""
    unit: str = ""
    a: Headline | None = None
    b: Headline | None = None
    corpus: str = ""
    n: str = ""

    @property
    def difference(self) -> float | None:
        """B − A, where both are numbers."""
        if self.a is None or self.b is None or isinstance(self.a.value, str) or isinstance(self.b.value, str):
            return None
        return float(self.b.value) - float(self.a.value)

    @property
    def null(self) -> str:
        return next((h.null for h in (self.b, self.a) if h is not None and h.null), "")


@dataclass(frozen=True)
class Section:
    """One analysis in the report: its rows, its answer, and the figures that show the difference, each with the view to show."""

    name: str
    title: str
    question: str
    rows: tuple[Row, ...]
    answer: str = ""
    figures: tuple[tuple[Figure, str], ...] = field(default=())
    link: str = ""  # page and query that show it whole
    requests: tuple[run.Request, ...] = ()

    @property
    def complete(self) -> bool:
        return bool(self.answer)


def read(asked: list[Asked], most_figures: int = 2) -> list[Section]:
    """What is stored of the report; analyses without a result say why."""
    outcomes = iter(sweep.outcomes([r for each in asked for r in each.requests]))
    return [_section(each, [next(outcomes) for _ in each.requests], most_figures) for each in asked]


def requests(asked: list[Asked]) -> list[run.Request]:
    return [r for each in asked for r in each.requests]


def _section(asked: Asked, outcomes: list, most_figures: int) -> Section:
    try:
        module = asked.module
    except Exception:  # what cannot be imported has its reason in `why`, and its name for a title
        module = None
    title, question = getattr(module, "TITLE", asked.name.replace("_", " ")), getattr(module, "QUESTION", "")
    if not asked.requests:
        return Section(asked.name, title, question, (Row(asked.name, title, "", "not applicable", asked.why),))
    labels = ("A → B",) if asked.paired else ("A", "B")
    runs = {label: run.load(request, label) for label, request, outcome in zip(labels, asked.requests, outcomes) if outcome and outcome.state == "done"}
    try:
        rows = _rows(asked, module, title, runs)
        rows += [_missing(asked, title, label, outcome) for label, outcome in zip(labels, outcomes) if label not in runs]
        answer, figures = "", ()
        if len(runs) == len(labels):
            answer, figures = module.answer(list(runs.values())), _figures(module.figures(list(runs.values())), most_figures)
    except (NotApplicable, Refused) as error:
        rows, answer, figures = [Row(asked.name, title, "", "not applicable", str(error))], "", ()
    except Exception as fault:  # the words or figures of one analysis must not take the report away
        log.exception("the report's section of %s", asked.name)
        rows, answer, figures = [Row(asked.name, title, "", "failed", f"Its words could not be made from the result ({type(fault).__name__}).")], "", ()
    return Section(asked.name, title, question, tuple(rows), answer, tuple(figures), _link(asked), asked.requests)


def _missing(asked: Asked, title: str, label: str, outcome) -> Row:
    state, why = (outcome.state, outcome.why) if outcome else (PENDING, "")
    return Row(asked.name, title, label if len(asked.requests) > 1 else "", state, why, corpus=_corpus(asked))


def _rows(asked: Asked, module, title: str, runs: dict[str, Run]) -> list[Row]:
    """One row for each headline number; A's and B's with the same label side by side."""
    found: dict[str, dict[str, Headline]] = {}
    for label, r in runs.items():
        for headline in module.headlines([r]):
            found.setdefault(headline.label, {})["A" if label == "A" else "B"] = headline
    n = ", ".join(dict.fromkeys(_n(r) for r in runs.values()))
    return [Row(asked.name, title, name, unit=next(iter(of.values())).unit, a=of.get("A"), b=of.get("B"), corpus=_corpus(asked), n=n) for name, of in found.items()]


def _n(r: Run) -> str:
    tokens, inputs = r.record.get("n_tokens", 0), r.record.get("n_inputs", 0)
    return " and ".join(filter(None, [f"{inputs:,} inputs" if inputs else "", f"{tokens:,} tokens" if tokens else ""]))


def _corpus(asked: Asked) -> str:
    return ", ".join(dict.fromkeys(r.corpus.written if r.corpus else getattr(asked.module, "INPUTS", "its own inputs") for r in asked.requests))


def _figures(figures: list[Figure], most: int) -> list[tuple[Figure, str]]:
    """Those that have a view of the difference come first, in that view; then the others in theirs."""
    different = {figure.name: (figure, DIFFERENCE) for figure in figures if DIFFERENCE in figure.views}
    others = [(figure, next(iter(figure.views))) for figure in figures if figure.name not in different]
    return [*different.values(), *others][:most]


def _link(asked: Asked) -> str:
    written = [v.written for r in asked.requests for v in r.variants]
    corpus = asked.requests[0].corpus
    return f"{asked.name}?a={written[0]}&b={written[-1]}" + (f"&corpus={corpus.written}" if corpus else "")


def table(sections: list[Section]) -> pa.Table:
    """The rows as data, whole."""
    return pa.Table.from_pylist([_plain(row) for section in sections for row in section.rows], schema=SCHEMA)



def _plain(row: Row) -> dict:
    out = {"analysis": row.analysis, "number": row.label, "state": row.state, "difference": row.difference, "unit": row.unit, "null": row.null, "n": row.n,
           "corpus": row.corpus, "why": row.why, "note": next((h.note for h in (row.b, row.a) if h is not None and h.note), "")}
    for side, headline in (("a", row.a), ("b", row.b)):
        if headline is not None and not isinstance(headline.value, str):
            out |= {side: float(headline.value), f"{side}_low": headline.low, f"{side}_high": headline.high}
        elif headline is not None:
            out["note"] = f"{side.upper()}: {headline.value}; {out['note']}"
    return out
