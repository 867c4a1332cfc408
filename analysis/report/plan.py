"""What a report of A and B asks of every analysis: ordinary requests, so that pages and reports share what is stored."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import analysis
from analysis import run
from models.refusal import Refused
from models.variant import write_value


@dataclass(frozen=True)
class Asked:
    """One analysis and its computations: one for each model, one for the pair, or none and the reason."""

    name: str
    requests: tuple[run.Request, ...]
    why: str = ""

    @property
    def module(self) -> ModuleType:
        return analysis.load(self.name)

    @property
    def paired(self) -> bool:
        return self.module.MODELS[0] >= 2


def ask(a: str, b: str, only: tuple[str, ...] = (), device: str = "cpu") -> list[Asked]:
    """In the order of the menu; `only` names analyses, none means all."""
    return [_ask(name, a, b, device) for name in analysis.ANALYSES if not only or name in only]


def _ask(name: str, a: str, b: str, device: str) -> Asked:
    try:
        module = analysis.load(name)
    except Exception as fault:  # one analysis that cannot be imported must not take the report away
        return Asked(name, (), f"It could not be loaded ({type(fault).__name__}).")
    low, high = module.MODELS
    if hasattr(module, "not_in_report"):
        return Asked(name, (), module.not_in_report)
    if high == 0:
        return Asked(name, (), "It trains small networks of its own and looks at no language model.")
    if low > 2:
        return Asked(name, (), f"It compares {low} models; a report has two.")
    try:
        groups = ((a, b),) if low == 2 else ((a,), (b,))
        return Asked(name, tuple(run.request(name, group, _corpus(module, group), _params(module), device) for group in groups))
    except Refused as error:
        return Asked(name, (), str(error))


def _corpus(module: ModuleType, models: tuple[str, ...]) -> str | None:
    """The text that the analysis wants for the model, else its default."""
    chooses = getattr(module, "corpus_for", None)
    return chooses(run.variant(models[0])) if chooses else None


def _params(module: ModuleType) -> dict:
    """Its settings for a report, a dict or a Params, else its defaults."""
    given = getattr(module, "report_params", {})
    values = given if isinstance(given, dict) else {k: v for k, v in vars(given).items()}
    return {name: value if isinstance(value, (bool, str)) else write_value(value) for name, value in values.items()}
