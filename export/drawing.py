"""A figure card's view made ready for paper: the theme applied, laid out at its page, no title, large heat maps reduced."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from analysis.contract import Figure
from analysis.theme import PRINT, Theme
from export.sizes import CARD, WIDE_CARD, Page, Size, page
from models.refusal import Refused

MOST_CELLS = 512  # per side of a heat map; more than a column of a page prints at 300 dpi in two dots each
GAP_FROM = 7  # px of a cell below which the gaps between cells would swallow it


@dataclass(frozen=True)
class Drawing:
    """A plotly figure with its page; `notes` are sentences about what the drawing does not show whole, for the caption."""

    figure: go.Figure
    page: Page
    notes: tuple[str, ...] = ()


def chosen(figure: Figure, name: str) -> str:
    """The name of a view that the card has; "" stands for the first one."""
    if name and name not in figure.views:
        raise Refused(f"“{figure.title}” has no view “{str(name)[:20]}”; it has {', '.join(filter(None, figure.views)) or 'one'}.")
    return name if name in figure.views else next(iter(figure.views))


def view(figure: Figure, name: str, theme: Theme) -> go.Figure:
    """One view of a card in a look."""
    return go.Figure(figure.views[chosen(figure, name)](theme))


def draw(figure: Figure, name: str, size: Size, theme: Theme = PRINT) -> Drawing:
    """The view at a size, light unless another theme is asked for."""
    drawn = view(figure, name, theme)
    sheet = page(size, drawn.layout.height or figure.height, figure.wide, theme.size)
    notes = tuple(filter(None, [_fit_heatmap(trace, sheet) for trace in drawn.select_traces(dict(type="heatmap"))]))
    before = _plot_px(drawn, drawn.layout.width or (WIDE_CARD if figure.wide else CARD), drawn.layout.height or figure.height)
    _pin_outside(drawn, before)
    drawn.update_layout(title=None, width=sheet.width_px, height=sheet.height_px, autosize=False, paper_bgcolor=theme.page)
    drawn.update_layout(template_layout_xaxis_automargin=True, template_layout_yaxis_automargin=True)
    return Drawing(drawn, sheet, notes)


def _plot_px(drawn: go.Figure, width: float, height: float) -> tuple[float, float]:
    """Px between the margins, as on screen."""
    given, default = drawn.layout.margin, drawn.layout.template.layout.margin
    margin = {side: given[side] if given[side] is not None else default[side] or 0 for side in "lrtb"}
    return width - margin["l"] - margin["r"], height - margin["t"] - margin["b"]


def _pin_outside(drawn: go.Figure, plot_px: tuple[float, float]) -> None:
    """Keep texts that stand outside the plot (paper coordinates beyond 0…1) at the distance in px that they have on screen;
    as a fraction, 1.08 leaves the page when the plot is tall."""
    for note in drawn.layout.annotations:
        for axis, px in zip("xy", plot_px):
            place = note[axis]
            if note[f"{axis}ref"] == "paper" and place is not None and not 0 <= place <= 1:
                edge = min(max(place, 0.0), 1.0)
                note.update({axis: edge, f"{axis}shift": (note[f"{axis}shift"] or 0) + (place - edge) * px})


def _fit_heatmap(trace: go.Heatmap, sheet: Page) -> str:
    """Reduce a heat map to MOST_CELLS per side and drop gaps that its cells are too small for; returns what to say about it."""
    rows, columns = np.shape(trace.z)
    note = ""
    if max(rows, columns) > MOST_CELLS:
        down, across = -(-rows // MOST_CELLS), -(-columns // MOST_CELLS)
        small = reduce_extreme(np.asarray(trace.z, float), down, across)
        trace.update(z=small, x=_thin(trace.x, columns, across), y=_thin(trace.y, rows, down), text=None, texttemplate=None, customdata=None)
        note = (f"The heat map is drawn at {small.shape[0]} × {small.shape[1]} cells; each shows the value of largest magnitude among "
                f"{down} × {across} of the {rows:,} × {columns:,} in the data.")
    rows, columns = np.shape(trace.z)
    if sheet.width_px / columns < GAP_FROM or sheet.height_px / rows < GAP_FROM:
        trace.update(xgap=0, ygap=0)
    return note


def reduce_extreme(values: np.ndarray, down: int, across: int) -> np.ndarray:
    """[rows, columns] -> [⌈rows / down⌉, ⌈columns / across⌉]: the value of largest magnitude of each tile, sign kept, so that
    single cells that stand out stay visible; NaN where a tile has no number."""
    rows, columns = values.shape
    padded = np.full((-(-rows // down) * down, -(-columns // across) * across), np.nan)
    padded[:rows, :columns] = values
    tiles = padded.reshape(padded.shape[0] // down, down, padded.shape[1] // across, across).swapaxes(1, 2)
    tiles = tiles.reshape(*tiles.shape[:2], -1)
    largest = np.abs(np.nan_to_num(tiles, nan=-1.0) + 0.0)
    largest[np.isnan(tiles)] = -1.0
    return np.take_along_axis(tiles, largest.argmax(-1)[..., None], -1)[..., 0]


def _thin(labels, n: int, step: int) -> list:
    """Axis values of the tiles: the middle of each where they are numbers, else the first label."""
    values = np.arange(n) if labels is None else np.asarray(labels)
    groups = [values[i : i + step] for i in range(0, n, step)]
    return [float(np.mean(g)) if np.issubdtype(values.dtype, np.number) else g[0] for g in groups]
