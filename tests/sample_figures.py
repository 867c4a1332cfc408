"""Made-up figure cards of the kinds that analyses draw: bars and dots side by side, a square heat map, a strip with long labels."""

import numpy as np
import pyarrow as pa
from plotly.subplots import make_subplots

from analysis.contract import Figure
from analysis.theme import figure, symbol, template

INFLUENCE = np.array([0.41, 0.12, 0.065, 0.068, 0.058, 0.09, 0.08, 0.14, 0.1, 0.087, 0.084, 0.33])
DAMAGE = np.array([2.3, 0.74, 0.4, 0.02, 0.09, 0.24, 0.3, 0.35, 0.04, 0.4, 0.6, 1.4])
TABLE = pa.table({"block": pa.array(range(12), pa.int64()), "influence": INFLUENCE, "damage": DAMAGE.astype(np.float32)})


def bars_and_dots(theme):
    drawn = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.08)
    drawn.update_layout(template=template(theme), barmode="group", title="a title that must not be printed")
    for label, shift in (("A", 0.0), ("B", 0.01)):
        look = dict(color=theme.run(label), symbol=symbol(label), size=8)
        drawn.add_bar(x=INFLUENCE + shift, y=list(range(12)), orientation="h", marker_color=theme.run(label), row=1, col=1)
        drawn.add_scatter(x=DAMAGE * (1 + 10 * shift), y=list(range(12)), mode="markers", marker=look, row=1, col=2)
    drawn.update_yaxes(autorange="reversed", dtick=1, title_text="block", row=1, col=1)
    drawn.update_xaxes(title_text="Block Influence, 1 − cos", showgrid=True, row=1, col=1)
    drawn.update_xaxes(title_text="mean KL when removed, nats/token (log)", type="log", showgrid=True, row=1, col=2)
    drawn.add_annotation(text="● A  ◆ B", xref="paper", yref="paper", x=0, y=1.08)
    return drawn


def heat_map(theme, n=12):
    drawn = figure(theme)
    drawn.add_heatmap(z=np.random.default_rng(0).random((n, n)), colorbar=dict(title=dict(text="angular distance, arccos / π", side="right")))
    drawn.update_xaxes(title_text="first block", constrain="domain")
    return drawn.update_yaxes(title_text="span length n, blocks", scaleanchor="x", constrain="domain")


def strip(theme):
    drawn = figure(theme)
    rng = np.random.default_rng(1)
    for i, label in enumerate("AB"):
        drawn.add_scatter(x=rng.normal(size=60), y=i + rng.uniform(-0.2, 0.2, 60), mode="markers", marker=dict(color=theme.run(label)))
    drawn.update_yaxes(tickvals=[0, 1], ticktext=["demo/storyteller-a", "~drop_layers(3), a long label"])
    return drawn.update_xaxes(title_text="loss difference, nats per token")


def card(name, views, **more):
    return Figure(name, f"Title of {name}", "What to read.", views, TABLE, "A caption with numbers, n = 12.", "What is seen.", **more)


FIGURES = [
    card("redundancy", {"": bars_and_dots}),
    card("spans", {"A": heat_map, "B": heat_map, "B − A": heat_map}),
    card("strip", {"": strip}, height=220, wide=True),
]
