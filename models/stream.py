"""The capture engine: statistics are reduced while the model runs, so memory does not grow with the corpus.

    moments, likeness = stream(model, ids, keep, [
        Request(Moments, (Site(3, "mlp_post"),)),
        Request(Similarity, (Site(3, "resid_pre"), Site(3, "resid_post"))),
    ])

The model runs in its own implementation (SDPA, no cache of keys and values, no bridge); hooks on its real submodules hand
each activation to the statistics that asked for it, and are removed afterwards whatever happens. Nothing is kept but the
accumulators, and between two sites of one request the earlier activation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from models.fused import activating
from models.layout import Site, locate
from models.loaded import Model
from models.refusal import Refused


@dataclass(frozen=True)
class Request:
    """A statistic at one site, or between two (the order of `sites` is the order of its arguments).

    `make` is a ready statistic, or is called with the number of channels of the first site: `Moments`,
    `lambda n: SignCodes(n, sink=path)`. At the site `mlp_act`, which stands alone in its request, the statistic takes the place
    of the model's activation function: `models.fused.capture_of(model)`.
    """

    make: Callable[[int], object] | object
    sites: tuple[Site, ...]


class _Enough(Exception):
    """Every requested site of this batch has been seen; the rest of the forward is not needed."""


def stream(
    model: Model,
    ids: torch.Tensor,
    keep: torch.Tensor | None,
    requests: list[Request],
    *,
    attend: torch.Tensor | None = None,
    batch: int = 8,
    exclude_first: bool = False,
    progress=None,
) -> list:
    """The statistic of each request, in the order asked, over all kept tokens of ids [sequence, position].

    keep [sequence, position] bool chooses the tokens that count (None: all). attend [sequence, position] bool says which tokens are
    text, the others being padding on either side: it never counts, is not looked at, and positions are those of the text without
    it. Without attend no attention mask is passed, so padding must stand on the right, where a causal model does not look; what
    looks like padding on the left is refused. `exclude_first` leaves out the first token of every sequence.
    Batches are cut by sequence index. One pass, whatever the number of requests; blocks after the last requested site and,
    unless `logits` are asked for, the unembedding are not run.
    """
    if ids.dim() != 2 or len(ids) == 0:
        raise Refused(f"Expected token ids [sequence, position] with at least one sequence, found {list(ids.shape)}.")
    for name, mask in (("keep", keep), ("attend", attend)):
        if mask is not None and (mask.dtype != torch.bool or mask.shape != ids.shape):
            raise Refused(f"Expected {name} as bool {list(ids.shape)}, like the token ids, found {mask.dtype} {list(mask.shape)}.")
    if keep is not None and attend is None:
        _refuse_left_padding(ids, keep)
    text = torch.ones_like(ids, dtype=torch.bool) if attend is None else attend
    counted = text.clone() if keep is None else keep & text
    if exclude_first:
        counted &= text.cumsum(1) > 1
    everything = bool(counted.all())
    gathering = _Gathering(requests)
    runner = _runner(model, requests)
    n = len(ids)
    with gathering.attached(model), torch.inference_mode():
        for lo in range(0, n, batch):
            given = inputs(model, ids[lo : lo + batch], None if attend is None else attend[lo : lo + batch])
            mask = None if everything else counted[lo : lo + batch].reshape(-1).to(model.device)
            gathering.begin(mask, start=lo * ids.shape[1])
            try:
                runner(**given)
            except _Enough:
                pass
            if progress is not None:
                progress.step(min(lo + batch, n), n, f"{min(lo + batch, n)} of {n} sequences")
    return gathering.brought_home()


def inputs(model: Model, ids: torch.Tensor, attend: torch.Tensor | None) -> dict:
    """What the forward is called with: where text stands behind padding, the attention mask, and positions that count text alone.

    Padding on the right needs neither, and without a mask attention stays on SDPA's causal path.
    """
    given = {"input_ids": ids.to(model.device), "use_cache": False}
    if attend is None or not bool((attend[:, 1:] & ~attend[:, :-1]).any()):
        return given
    positions = (attend.cumsum(1) - 1).clamp(min=0)
    return {**given, "attention_mask": attend.long().to(model.device), "position_ids": positions.to(model.device)}


def _refuse_left_padding(ids: torch.Tensor, keep: torch.Tensor) -> None:
    """Tokens that do not count may stand anywhere; two or more of them at the start, all the same token, are padding that the
    tokens after them would look at."""
    leading = ~keep.cummax(1).values
    alike = ((ids == ids[:, :1]) | ~leading).all(1)
    padded = (leading.sum(1) >= 2) & alike & keep.any(1)
    if bool(padded.any()):
        raise Refused(f"{int(padded.sum())} of {len(ids)} sequences begin with padding: found token {int(ids[padded][0, 0])} repeated and not counted, and no "
                      "attention mask is passed, so later tokens would look at it. Pad on the right, or say with `attend` which tokens are text.")


def logits(model: Model, ids: torch.Tensor, *, attend: torch.Tensor | None = None, batch: int = 8) -> Iterator[tuple[int, torch.Tensor]]:
    """(flat index of the first token, logits [token, vocabulary]) of each batch of ids [sequence, position]; attend as in stream."""
    for lo in range(0, len(ids), batch):
        with torch.inference_mode():
            block = model.module(**inputs(model, ids[lo : lo + batch], None if attend is None else attend[lo : lo + batch])).logits
        yield lo * ids.shape[1], block.reshape(-1, block.shape[-1])


def _runner(model: Model, requests: list[Request]) -> torch.nn.Module:
    """The whole model where logits are asked for, else the model without its head."""
    if any(site.name == "logits" for request in requests for site in request.sites):
        return model.module
    return model.module.get_submodule(model.layout.base)


class _Gathering:
    """Which statistics wait for which activation of the batch that is running."""

    def __init__(self, requests: list[Request]):
        self.requests = requests
        self.statistics = [None if callable(request.make) else request.make for request in requests]
        self.homes: dict[int, torch.device] = {}  # statistics that accumulate elsewhere than where they were made
        self.wanted: dict[Site, list[int]] = defaultdict(list)  # site -> requests that read it
        for i, request in enumerate(requests):
            if not request.sites:
                raise Refused("A request names no site.")
            for site in dict.fromkeys(request.sites):
                self.wanted[site].append(i)
        self.mask, self.start = None, 0
        self.waiting: dict[int, dict[Site, torch.Tensor]] = {}
        self.unseen: set[Site] = set()

    def begin(self, mask: torch.Tensor | None, start: int) -> None:
        self.mask, self.start = mask, start
        self.waiting = {i: {} for i in range(len(self.requests))}
        self.unseen = set(self.wanted)

    @contextmanager
    def attached(self, model: Model) -> Iterator[None]:
        handles, fused = [], ExitStack()
        try:
            for site in self.wanted:
                if site.name == "mlp_act":
                    fused.enter_context(activating(model, site.layer, self._activator(site)))
                    continue
                module, side = locate(model.module, model.layout, site)
                if side == "input":
                    handles.append(module.register_forward_pre_hook(self._before(site), with_kwargs=True))
                else:
                    handles.append(module.register_forward_hook(self._after(site)))
            yield
        finally:
            fused.close()
            for handle in handles:
                handle.remove()

    def _activator(self, site: Site):
        """The one statistic at this site computes the activation; it must not be asked for twice."""
        first, *others = self.wanted[site]
        if others or len(self.requests[first].sites) > 1:
            raise Refused(f"{site.written} is where one statistic computes the activation; ask for it once, and alone in its request.")

        def activate(pre: torch.Tensor, up: torch.Tensor | None) -> torch.Tensor:
            with torch.inference_mode(False), torch.no_grad():
                post = self._statistic(first, pre).activate(pre, up, keep=self.mask, start=self.start)
            self.unseen.discard(site)
            if not self.unseen:
                raise _Enough
            return post

        return activate

    def _statistic(self, i: int, x: torch.Tensor):
        """The statistic of request i, made at its first activation [token, channel]; it accumulates on the activations' device."""
        if self.statistics[i] is None:
            self.statistics[i] = self.requests[i].make(x.shape[1])
        found = self.statistics[i]
        if getattr(found, "device", x.device) != x.device:
            self.homes.setdefault(i, found.device)
            found.to(x.device)
        return found

    def brought_home(self) -> list:
        """The statistics, on the devices where they were made."""
        for i, device in self.homes.items():
            self.statistics[i].to(device)
        return self.statistics

    def _before(self, site: Site):
        def hook(module, args, kwargs):
            self._see(site, args[0] if args else kwargs["hidden_states"])

        return hook

    def _after(self, site: Site):
        def hook(module, args, output):
            self._see(site, output[0] if isinstance(output, tuple) else output)

        return hook

    def _see(self, site: Site, activation: torch.Tensor) -> None:
        x = activation.flatten(0, -2)
        # statistics outlive the pass: their tensors must not be inference tensors
        with torch.inference_mode(False), torch.no_grad():
            for i in self.wanted[site]:
                held, request = self.waiting[i], self.requests[i]
                held[site] = x
                if len(held) == len(set(request.sites)):
                    self._statistic(i, held[request.sites[0]]).add(*(held[s] for s in request.sites), keep=self.mask, start=self.start)
                    held.clear()
        self.unseen.discard(site)
        if not self.unseen:
            raise _Enough
