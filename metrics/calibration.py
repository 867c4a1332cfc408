"""What enters every weight matrix on a calibration text: moments, and the Gram matrix C = Σ x xᵀ where it is asked for.

Parallel propagation reads the original model's activations: one pass gives the statistics of all matrices, they are kept,
and every operator reads the same ones. Sequential propagation runs block by block: statistics of a block on the activations
that the compressed blocks before it produce, then the block again with its new weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from kernels.gram import Gram
from kernels.moments import Moments
from models.loaded import Model
from models.refusal import Refused
from models.shape import Matrix, shape_of
from models.stream import Request

FEWEST = 256  # calibration tokens; below that even the variance of a channel is mostly noise
BATCH = 8  # sequences run at once


@dataclass(frozen=True, eq=False)
class Channels:
    """Of the inputs x of one matrix, [in] float64: Σx², mean |x|, max |x|, mean; gram [in, in] float64, or None."""

    tokens: int
    square_sum: torch.Tensor
    abs_mean: torch.Tensor
    abs_max: torch.Tensor
    mean: torch.Tensor
    gram: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class Inputs:
    """The same for every site, as kept: one vector a channel statistic [in] float64, gram [in, in] float32, keyed by site."""

    tokens: int
    square_sum: dict[str, torch.Tensor]
    abs_mean: dict[str, torch.Tensor]
    abs_max: dict[str, torch.Tensor]
    mean: dict[str, torch.Tensor]
    gram: dict[str, torch.Tensor]

    def of(self, matrix: Matrix) -> Channels:
        site = matrix.site.written
        gram = self.gram[site].to(torch.float64) if site in self.gram else None
        return Channels(self.tokens, self.square_sum[site], self.abs_mean[site], self.abs_max[site], self.mean[site], gram)


def require_text(calibration) -> None:
    """Refuses calibration text that is missing or too short."""
    if calibration is None:
        raise Refused("This operator looks at text before it decides; name a calibration corpus (on=demo/mixed:train:64x128).")
    n = int(calibration.keep.sum())
    if n < FEWEST:
        raise Refused(f"The calibration text has {n} tokens; expected at least {FEWEST}. Take more or longer sequences.")


def matrix_inputs(calibration, grams: bool, progress=None) -> Inputs:
    """Statistics of every site that a matrix reads, on the original activations: from the store, or one pass now. Moments that came
    with Gram matrices serve those who need only moments, so once an operator has asked for both, one pass serves them all."""
    require_text(calibration)

    def make(progress) -> Inputs:
        with calibration.model() as model:
            sites = list(dict.fromkeys(m.site for m in shape_of(model).matrices))
        requests = [Request(Moments, (site,)) for site in sites] + [Request(Gram, (site,)) for site in sites if grams]
        done = calibration.measure(requests, batch=BATCH, progress=progress)
        names = [site.written for site in sites]
        return _inputs(dict(zip(names, done)), dict(zip(names, done[len(sites):])))

    whole = None if grams else calibration.find_plan("matrix inputs", {"grams": True}, make, Inputs)
    return whole or calibration.keep_plan("matrix inputs", {"grams": grams}, make, Inputs, progress)


def _inputs(moments: dict[str, Moments], grams: dict[str, Gram]) -> Inputs:
    return Inputs(
        next(iter(moments.values())).count,
        {site: m.square_sum for site, m in moments.items()},
        {site: m.abs_mean for site, m in moments.items()},
        {site: m.abs_max for site, m in moments.items()},
        {site: m.mean for site, m in moments.items()},
        {site: g.matrix.to(torch.float32) for site, g in grams.items()},
    )


Solve = Callable[[Matrix, "torch.Tensor", Channels], "torch.Tensor"]


def solve_matrices(model: Model, calibration, chosen: tuple[Matrix, ...], propagation: str, grams: bool, solve: Solve, progress) -> None:
    """Calls solve(matrix, weight [out, in], inputs) -> new weight for every chosen matrix; the given model is left alone.

    propagation: "parallel" (original activations, one pass) or "sequential" (activations of the compressed blocks so far).
    """
    require_text(calibration)
    if propagation == "parallel":
        inputs = matrix_inputs(calibration, grams, progress)
        for i, matrix in enumerate(chosen):
            solve(matrix, model.matrix(matrix.layer, matrix.name), inputs.of(matrix))
            progress.step(i + 1, len(chosen), f"block {matrix.layer}, {matrix.name}")
        return
    private = model.copy(model.written)
    with torch.no_grad():
        walk = _Walk(private, calibration.ids, calibration.keep)
        for i, layer in enumerate(model.layers):
            here = [m for m in chosen if m.layer == layer]
            if here:
                inputs = walk.measure(layer, here, grams)
                for matrix in here:
                    private.set_matrix(layer, matrix.name, solve(matrix, private.matrix(layer, matrix.name), inputs.of(matrix)))
            if layer != model.layers[-1]:
                walk.advance(layer)
            progress.step(i + 1, len(model.layers), f"block {layer}")


class _Walk:
    """The calibration text on its way through the blocks: hidden states [sequence, position, channel] before the next block."""

    def __init__(self, model: Model, ids: torch.Tensor, keep: torch.Tensor):
        self.model, self.hidden, self.arguments = model, [], []
        self.at, self.unread = 0, set()
        self.masks = [None if bool(part.all()) else part.reshape(-1).to(model.device) for part in keep.split(BATCH)]
        probe = _entries(model, ids[:1], only_first=False)[1]
        alike = all(_same(probe[0], other) for other in probe)
        for part in ids.split(BATCH):
            hidden, arguments = _entries(model, part, only_first=alike)
            self.hidden.append(hidden)
            self.arguments.append(arguments * len(model.blocks) if alike else arguments)

    def measure(self, layer: int, matrices: list[Matrix], grams: bool) -> Inputs:
        block, moments, seconds = self.model.blocks[layer], {}, {}
        handles = []
        for site, name in {m.site.written: m.name for m in matrices}.items():
            module = block.get_submodule(name)
            n_in = next(m.n_in for m in matrices if m.name == name)
            moments[site] = Moments(n_in, device=self.model.device)
            if grams:
                seconds[site] = Gram(n_in, device=self.model.device)
            handles.append(module.register_forward_pre_hook(self._reader(site, moments, seconds)))
        try:
            for self.at in range(len(self.hidden)):
                self.unread = set(moments)
                try:
                    self._run(layer, self.at)
                except _Enough:
                    pass
        finally:
            for handle in handles:
                handle.remove()
        return _inputs(moments, seconds)

    def _reader(self, site: str, moments: dict, seconds: dict):
        def hook(module, args):
            for statistic in (moments[site], seconds.get(site)):
                if statistic is not None:
                    statistic.add(args[0].flatten(0, -2), keep=self.masks[self.at])
            self.unread.discard(site)
            if not self.unread:  # what the block makes of its last input is not asked for: a third of its work, where that is the MLP's output
                raise _Enough

        return hook

    def advance(self, layer: int) -> None:
        for i in range(len(self.hidden)):
            self.hidden[i] = self._run(layer, i)

    def _run(self, layer: int, i: int) -> torch.Tensor:
        output = self.model.blocks[layer](self.hidden[i], **self.arguments[i][layer])
        return output[0] if isinstance(output, tuple) else output


def _entries(model: Model, ids: torch.Tensor, only_first: bool) -> tuple[torch.Tensor, list[dict]]:
    """The hidden state that enters the first block, and the further arguments (masks, rotary angles) of every block.

    `only_first` stops there, for models whose blocks all get the same arguments.
    """
    seen: list[tuple[torch.Tensor, dict]] = []

    def hook(module, args, kwargs):
        kwargs = dict(kwargs)
        hidden = args[0] if args else kwargs.pop("hidden_states")
        seen.append((hidden, {**_named(module, args), **kwargs}))
        if only_first:
            raise _Enough

    handles = [block.register_forward_pre_hook(hook, with_kwargs=True) for block in model.blocks]
    try:
        model.module.get_submodule(model.layout.base)(input_ids=ids.to(model.device), use_cache=False)
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return seen[0][0], [arguments for _, arguments in seen]


class _Enough(Exception):
    """What was asked for has been read; the rest of the forward is not needed."""


def _same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(one[name] is other[name] or _plain_equal(one[name], other[name]) for name in one)


def _plain_equal(a, b) -> bool:
    return isinstance(a, (bool, int, float, str, type(None))) and a == b


def _named(module: torch.nn.Module, args: tuple) -> dict:
    """Positional arguments after the hidden state, by the names of the block's forward."""
    import inspect

    names = list(inspect.signature(module.forward).parameters)
    return dict(zip(names[1 : len(args)], args[1:]))
