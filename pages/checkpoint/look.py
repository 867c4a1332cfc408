"""Look inside one checkpoint, also one that cannot run: sentence, numbers, blocks, tensors, tokenizer, self-check."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import streamlit as st

from models import configs, differences, examine, inspect, vocabulary
from models.examine import Ask
from models.refusal import Refused
from pages.checkpoint import check, figures, open_in, parameters, working
from pages.checkpoint.keep import by_key
from pages.checkpoint.names import in_markdown, one_line
from pages.checkpoint.subject import Subject, go, link
from pages.shared import figure_card, room, states
from pages.shared.drawn import Drawn
from pages.shared.wording import bind, number, plain, size

NOTES = 6  # lines on how it came
METHOD = """Names, shapes and types come from the files' headers alone. Numbers of a tensor are over its finite elements: kurtosis is
m₄ / m₂² − 3, zeros are exact, effective rank is exp(−Σ p log p) with p = σ / Σσ (Roy & Vetterli 2007), stable rank Σσ² / σ₁².
The grey band of a spectrum spans s·|√m − √n| to s·(√m + √n), where singular values of an m × n matrix of independent entries with
standard deviation s lie (Marchenko & Pastur 1967). Blocks and parts are read off the tensors' names. None of this runs the model."""


def draw(subject: Subject) -> None:
    seal = examine.seal(subject.folder)
    table = _parameters(subject.folder, seal)
    _answer(subject)
    if subject.why:
        states.error_card("This checkpoint can be examined, not run", subject.why, "why", tag="not run")
    _metrics(subject)
    _ways_on(subject)
    statistics = _statistics(subject)
    tensors = statistics.table("statistics") if statistics else None
    with st.grid(2, min_column_width=430, gap=18, border=True, key="cards") as grid:
        with grid.cell(column_span="all"):
            _card(_architecture(subject.folder, seal))
        with grid.cell(column_span="all"):
            st.markdown("##### Which tensors are in it?")
            parameters.draw(_joined(statistics.key if statistics else "", seal, table, tensors), link("tensor"))
        _tensor(grid, subject, tensors, statistics.key if statistics else "")
        with grid.cell():
            _equal(statistics, subject)
        with grid.cell():
            _tokenizer(subject)
        if subject.runnable:
            with grid.cell(column_span="all"):
                check.draw(subject)
    with st.expander("Config as believed, and what was left out", icon=":material/settings:"):
        _config(subject)
    with st.expander("Method", icon=":material/function:"):
        st.markdown(METHOD)


def _answer(subject: Subject) -> None:
    table = subject.table
    blocks = {b for b in map(inspect.block_of, table.tensors) if b is not None}
    said = configs.n_layers(subject.config)
    words = f"**{number(table.n_parameters)} parameters** in {number(len(table.tensors))} tensors"
    words += f" and {len(blocks)} blocks" if blocks else ""
    words += f", stored as {table.dtype} in {len(table.files)} file{'s' if len(table.files) > 1 else ''} of {size(table.n_bytes)}."
    if subject.config:
        words += f" The config names the architecture {in_markdown(subject.config['model_type'])}"
        words += f" with {said} blocks, the weights hold {len(blocks)}." if said is not None and said != len(blocks) else "."
    else:
        words += " No config is believed, so it cannot be run; everything below is read from the weights."
    with st.container(key="answer"):
        st.markdown(bind(words))
    if subject.entry is not None and subject.entry.notes:
        st.caption("  \n".join(in_markdown(note, 300) for note in subject.entry.notes[:NOTES]))


def _metrics(subject: Subject) -> None:
    table = subject.table
    needed, free = room.needs(table, "float32"), room.free_on("cpu")
    largest = max(table.tensors.values(), key=lambda t: t.n_bytes)
    with st.grid(2, min_column_width=430, gap=(12, 18)) as outer:
        with outer.cell(), st.grid(2, min_column_width=150, gap=18):
            st.metric("Parameters", figures.count(table.n_parameters), f"{table.n_parameters:,}", delta_color="off", delta_arrow="off")
            st.metric("On disk", size(table.n_bytes), table.dtype, delta_color="off", delta_arrow="off")
        with outer.cell(), st.grid(2, min_column_width=150, gap=18):
            st.metric("To run in float32", size(needed), f"{size(free)} free here", delta_color="off" if needed < free else "inverse", delta_arrow="off")
            st.metric("Largest tensor", figures.count(largest.n_elements), " × ".join(f"{n:,}" for n in largest.shape) or "scalar", delta_color="off", delta_arrow="off")


def _ways_on(subject: Subject) -> None:
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        if subject.runnable:
            open_in.draw(subject)
        st.button("Back to the shelf", icon=":material/arrow_back:", key="to_shelf", on_click=go, kwargs={"model": None, "with": None, "tensor": None, "page": None})


def _statistics(subject: Subject):
    """The stored statistics; while there are none, how far they are."""
    return working.answer(Ask("statistics", subject.source), "norms, histograms and ranks of every tensor", "statistics")


def _tensor(grid, subject: Subject, statistics, key: str) -> None:
    name = link("tensor")
    if name is not None and name not in subject.table.tensors:
        with grid.cell(column_span="all"):
            st.caption(f"This checkpoint has no tensor {in_markdown(name)}. Choose a row of the table.")
        name = None
    if name is None:
        name = max((t for t in subject.table.tensors.values()), key=lambda t: (len(t.shape) == 2, inspect.cheap(t), t.n_elements)).name
    tensor = subject.table.tensors[name]
    row = _row(key, name, statistics)
    with grid.cell():
        st.badge(in_markdown(name), color="gray")
        if row is None:
            st.caption("Its histogram is drawn once the statistics are there." if inspect.readable(tensor) else f"Stored as {tensor.dtype}, which is listed but not read.")
        elif not sum(row["counts"]):
            st.caption("It has no finite element to draw.")
        else:
            _card(_histogram(key, name, statistics))
    with grid.cell():
        st.badge(in_markdown(name), color="gray")
        if len(tensor.shape) != 2 or min(tensor.shape) < 2:
            st.caption(f"A spectrum needs a matrix; this tensor's shape is {' × '.join(map(str, tensor.shape)) or 'scalar'}. Choose a matrix in the table.")
        elif min(tensor.shape) > 8 * inspect.CHEAP_SIDE:
            st.caption(f"{tensor.shape[0]:,} × {tensor.shape[1]:,}: its spectrum would take hours here; at most {8 * inspect.CHEAP_SIDE:,} on the smaller side.")
        elif row is not None and row["n_nan"] + row["n_inf"]:
            st.caption("It holds NaN or infinity and has no spectrum.")
        elif row is not None:
            found = working.answer(Ask("spectrum", subject.source, tensor=name), "its singular values", "spectrum")
            if found is not None and not found.array("sigma")[0] > 0:
                st.caption("Every element is zero; it has no direction.")
            elif found is not None:
                _card(_spectrum(found.key, name, found, tensor.shape, row["std"]))
        else:
            st.caption("Its spectrum is computed after the statistics.")


def _row(key: str, name: str, statistics) -> dict | None:
    return None if statistics is None else _rows(key, statistics).get(name)


def _equal(statistics, subject: Subject) -> None:
    st.markdown("##### Are tensors tied or copied?")
    parts = {inspect.part_of(name) for name in subject.table.tensors}
    if "embedding" in parts and "head" not in parts:
        st.markdown("No head is stored: the model reads its logits with the embedding, the two are tied.")
    if statistics is None:
        st.caption("Compared byte by byte with the statistics.")
        return
    groups: dict[int, list[str]] = {}
    for row in statistics.table("equal").to_pylist():
        groups.setdefault(row["group"], []).append(row["name"])
    if not groups:
        st.markdown("No two stored tensors hold the same bytes.")
        return
    n = sum(map(len, groups.values()))
    st.markdown(f"{n} tensors in {len(groups)} group{'s' if len(groups) > 1 else ''} hold the same bytes.")
    st.code("\n".join("  =  ".join(one_line(n, 60) for n in group[:6]) + (f"  = … {len(group) - 6} more" if len(group) > 6 else "") for group in list(groups.values())[:40]),
            language=None, height=240 if len(groups) > 9 else "content", wrap_lines=True)


def _tokenizer(subject: Subject) -> None:
    st.markdown("##### Which tokenizer came with it?")
    try:
        facts = _facts(subject.folder, examine.seal(subject.folder))
    except Refused as refusal:
        st.markdown(plain(refusal))
        return
    if facts is None:
        st.markdown(_without_tokenizer(subject))
        return
    vocabulary = subject.config.get("vocab_size")
    rows = {"kind": facts["kind"], "tokens": f"{facts['tokens']:,}" + (f", the model knows {vocabulary:,}" if isinstance(vocabulary, int) else ""), "merges": f"{facts['merges']:,}",
            "normalizer": facts["normalizer"] or "none", "pre-tokenizer": facts["pre-tokenizer"] or "none", "byte fallback": "yes" if facts["byte fallback"] else "no",
            "longest token": facts["longest token"], "added tokens": "  ".join(facts["added tokens"][:12]) or "none",
            "special": "  ".join(f"{k} = {v}" for k, v in facts["special"].items()) or "none"}
    st.dataframe({"fact": list(rows), "value": [one_line(v, 120) for v in rows.values()]}, hide_index=True, alt="Facts about the tokenizer.")


def _without_tokenizer(subject: Subject) -> str:
    known = subject.config.get("vocab_size")
    if not subject.runnable or not isinstance(known, int) or known > vocabulary.MOST_NUMBERS:
        return "None that is read here (tokenizer.json). To read text, add the one saved with the weights."
    return (f"None that is read here (tokenizer.json). A text for it is token numbers from 0 to {known - 1:,} with spaces between; open a file of them as the corpus, or take "
            "ids/uniform, random ones. To read words, add the tokenizer.json saved with the weights.")


def _config(subject: Subject) -> None:
    if not subject.config:
        st.markdown(plain(subject.why))
        return
    st.dataframe({"field": [one_line(k) for k in subject.config], "value": [one_line(v, 200) for v in subject.config.values()]}, hide_index=True)
    if subject.left_out:
        st.caption("Left out: " + "; ".join(in_markdown(line, 100) for line in subject.left_out[:20]))


def _card(figure) -> None:
    figure_card.draw(Drawn(()), figure, METHOD, "checkpoint", stale=False)


@lru_cache(maxsize=16)
def _parameters(folder: Path, seal: str):
    return inspect.parameters(folder)


@lru_cache(maxsize=16)
def _facts(folder: Path, seal: str):
    return differences.tokenizer_facts(folder)


@lru_cache(maxsize=16)
def _architecture(folder: Path, seal: str):
    return figures.architecture(inspect.outline(folder), _parameters(folder, seal))


@by_key
def _rows(key: str, statistics) -> dict[str, dict]:
    return {row["name"]: row for row in statistics.to_pylist()}


@by_key
def _histogram(key: str, name: str, statistics):
    return figures.histogram(_rows(key, statistics)[name])


@by_key
def _spectrum(key: str, name: str, entry, shape: tuple, std: float):
    return figures.spectrum(entry.array("sigma"), entry.record["effective"], entry.record["stable"], shape, std)


@by_key
def _joined(key: str, seal: str, table, statistics):
    return parameters.joined(table, statistics)
