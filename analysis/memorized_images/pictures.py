"""The card of pictures: each prompt's training image, and what is drawn before the cut, after it, and after a random one."""

from __future__ import annotations

import base64
import io
from functools import partial

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa

from analysis import plots
from analysis.contract import Figure
from analysis.memorized_images import words
from analysis.memorized_images.words import LOCATED, RANDOM
from analysis.theme import Theme, figure

CELL = 64  # px of a picture in the raster that the browser gets
GAP, BETWEEN, LEFT, TOP = 0.12, 0.5, 0.19, 0.6  # in pictures: between two, between the sets, above; LEFT of the words, as a share of the width
WIDE, MOST = 1050, 400  # px
ROWS = ("training image", "before the cut", "after the cut", "random cut")


def card(run) -> Figure:
    r, j = run.result, words.at_share(run)
    rows = [{"prompt": str(r.memorized[p]), "set": "located on" if i < r.n_shown_located else "held out", "before": float(r.before[p, 0]), "after the cut": float(r.detail[0, LOCATED, p]), "after a random cut": float(r.detail[0, RANDOM, p])}
            for i, p in enumerate(r.shown)]
    left, random = r.reproduced[0, LOCATED, j], r.reproduced[0, RANDOM, j]
    return Figure(
        "pictures", "What is drawn before and after the cut?",
        f"First split: the cut of {100 * r.density[0, LOCATED, j]:.1f} % of the weights leaves {words.percent(left[0])} of the located and {words.percent(left[1])} of the held-out set reproduced, a random one {words.percent(random[0])} and {words.percent(random[1])}; "
        "every row starts from the same noise.",
        {"memorized": partial(memorized, r), "other prompts": partial(others, r)}, pa.Table.from_pylist(rows),
        f"Training images and what the model draws for their prompts, before the cut, after it (share {100 * run.params.share:g} %, located on the left set) and after a random cut with as many weights in every row; first split, first noise.",
        f"Rows of pictures: {', '.join(ROWS)}.", height=_height(len(r.shown), r.n_shown_located), wide=True)


def memorized(r, theme: Theme) -> go.Figure:
    values = np.stack([np.ones(len(r.shown)), r.before[r.shown, 0], r.detail[0, LOCATED, r.shown], r.detail[0, RANDOM, r.shown]])
    said = [[f"{r.memorized[p]}<br>{row}" + (f": r = {values[i, k]:.2f}" if i else "") for k, p in enumerate(r.shown)] for i, row in enumerate(ROWS)]
    return _grid(theme, r.pictures, ROWS, said, r.n_shown_located, ("located on", "held out"))


def others(r, theme: Theme) -> go.Figure:
    n = r.other_pictures.shape[1]
    said = [[f"{r.others[k]}<br>{row}" for k in range(n)] for row in ROWS[1:]]
    return _grid(theme, r.other_pictures, ROWS[1:], said, n, ("prompts that are not memorized",))


def _places(n_rows: int, n: int, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Left and upper edges, in pictures: a gap after the `first` columns."""
    return np.array([k * (1 + GAP) + (BETWEEN if k >= first else 0.0) for k in range(n)]), np.array([i * (1 + GAP) for i in range(n_rows)])


def _height(n: int, first: int) -> int:
    """px at which four rows fill a wide card's width, up to MOST."""
    x, y = _places(len(ROWS), n, first)
    return min(MOST, round(WIDE * (y[-1] + 1 + TOP) / ((x[-1] + 1) * (1 + LEFT))) + 16)


def _grid(theme: Theme, images: np.ndarray, rows: tuple, said: list, first: int, titles: tuple) -> go.Figure:
    """images uint8 [row, column, H, W, C]; a title above each part."""
    n = images.shape[1]
    x, y = _places(len(rows), n, first)
    width, height = x[-1] + 1, y[-1] + 1
    fig = figure(theme, margin=dict(l=4, r=10, t=4, b=8))
    fig.add_trace(go.Image(source=_png(images, x, y), x0=0.5 / CELL, dx=1 / CELL, y0=0.5 / CELL, dy=1 / CELL, hoverinfo="skip"))
    fig.add_trace(go.Scatter(x=np.tile(x + 0.5, len(rows)), y=np.repeat(y + 0.5, n), mode="markers", marker=dict(size=30, opacity=0), text=[text for row in said for text in row], hovertemplate="%{text}<extra></extra>"))
    texts = [plots.text_at(theme, row, -0.01 * width, y[i] + 0.5, ref=("x", "y"), xanchor="right", color=theme.text) for i, row in enumerate(rows)]
    parts = [(a, b) for a, b in ((0, first), (first, n)) if b > a]
    plots.add(fig, texts + [plots.text_at(theme, title, (x[a] + x[b - 1] + 1) / 2, -0.04, ref=("x", "y"), yanchor="bottom", color=theme.text) for title, (a, b) in zip(titles, parts)])
    hidden = dict(showgrid=False, showticklabels=False, constrain="domain")
    fig.update_layout(xaxis=dict(range=[-LEFT * width, width], **hidden), yaxis=dict(range=[height, -TOP], scaleanchor="x", **hidden))
    return fig


def _png(images: np.ndarray, x: np.ndarray, y: np.ndarray) -> str:
    """All pictures on one transparent sheet, whole pixels repeated, as a data link."""
    from PIL import Image

    sheet = np.zeros((round((y[-1] + 1) * CELL), round((x[-1] + 1) * CELL), 4), np.uint8)
    for i, row in enumerate(images):
        for k, image in enumerate(row):
            top, left = round(y[i] * CELL), round(x[k] * CELL)
            rows, columns = (np.arange(CELL) * size // CELL for size in image.shape[:2])
            sheet[top : top + CELL, left : left + CELL, :3] = _rgb(image)[rows[:, None], columns]
            sheet[top : top + CELL, left : left + CELL, 3] = 255
    held = io.BytesIO()
    Image.fromarray(sheet).save(held, "PNG")
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()


def _rgb(image: np.ndarray) -> np.ndarray:
    """[H, W, 3]: as it is, or in grey where it does not have three channels or more."""
    return image[..., :3] if image.shape[-1] >= 3 else np.repeat(image.mean(-1, keepdims=True).astype(np.uint8), 3, -1)
