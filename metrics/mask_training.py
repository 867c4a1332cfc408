"""Which weights suffice: one mask logit per weight, trained with the weights frozen until every mask is open or shut.

A weight is used as w · σ(T·m). m starts at 0, where the mask is one half; T starts at 1 and grows by a factor every step, so
that the masks harden; the trained mask is m > 0. What is minimised, by AdamW on m alone, is

    cross-entropy to the target, nats per position, mean over batch and positions   +   λ/n · Σ σ(T·m)   over n weights

Continuous sparsification (Savarese et al. 2020) as Chang & Bergen use it (“Bigram subnetworks”, arXiv 2504.15471, section 3
and its code): one round, frozen weights, no rescaling, growth every step, λ divided by the number of weights. Weights that are
zero already stay out. Several λ train as one batch: each masked matrix becomes [mask, out, in], everything else runs once
over the stacked sequences.

m travels at most rate · steps, so T does the hardening: whoever shortens the training raises rate and growth together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from metrics.sparsity import pack
from models.bigrams import Bigrams
from models.loaded import Model
from models.shape import shape_of

BETAS, EPS = (0.9, 0.999), 1e-8
SHUT = -1e6  # logit of a weight that is zero already
LANE = 1024  # all weights of a mask stand in one row, filled up to a multiple: a mask is the same to the bit in any batch
EVERY = 5  # steps between two points of the live curves
LN2 = float(np.log(2))


@dataclass(frozen=True)
class Schedule:
    """Every hyper-parameter of a training. `settled` is the stop rule: masks between 0.1 and 0.9 are fewer than this share of
    those above 0.9. `reattain`: a spike of the loss has to be made good this many steps before the end, else the training
    starts again with another shuffle, at most `attempts` times."""

    steps: int
    rows: int  # sequences in a batch
    rate: float
    growth: float  # T is multiplied by it every step
    decay: float = 0.01  # AdamW's, on the mask logits
    start: float = 0.0
    settled: float = 0.01
    reattain: int = 100
    attempts: int = 3
    seed: int = 0

    @property
    def last_temperature(self) -> float:
        return self.growth ** (self.steps - 1)


PAPER = Schedule(15_000, 32, 5e-5, 1.001)


@dataclass(frozen=True)
class Wish:
    """One mask to train: λ and what it is to imitate, "bigram" or the "model" itself."""

    penalty: float
    target: str = "bigram"


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained mask, as stored. Curves are [step]; `r` is the surprisal correlation on the training batch, masks still soft."""

    kept: dict[str, torch.Tensor]  # packed masks by matrix, uint8 [out, ceil(in/8)]
    n_weights: int
    loss: np.ndarray  # nats per position, cross-entropy alone
    active: np.ndarray  # share of weights with m > 0
    r: np.ndarray
    undecided: np.ndarray  # share of weights whose mask lies between 0.1 and 0.9
    hard_loss: float  # nats, of the hard mask on the last batch, beside the last of `loss`, which is the soft one's
    settled: bool  # the stop rule was met
    stable: bool
    attempt: int  # 0: the first shuffle


def train(model: Model, ids: torch.Tensor, counted: torch.Tensor, bigrams: Bigrams, wishes: list[Wish], schedule: Schedule, progress) -> list[Trained]:
    """One mask per wish, in order, trained as one batch. ids [sequence, position]; counted [sequence, position] bool: the
    positions that are imitated. A mask whose training was unstable is trained again with the next shuffle; the last attempt
    stands. Resumes from `progress.saved()`, to the same bits."""
    saved = progress.saved() or {"attempt": 0, "found": {}, "run": None}
    found = {int(i): Trained(**fields) for i, fields in saved["found"].items()}
    state = saved["run"]
    for attempt in range(int(saved["attempt"]), schedule.attempts):
        waiting = [i for i in range(len(wishes)) if i not in found or not found[i].stable]
        if not waiting:
            break
        run = _Run(model, ids, counted, bigrams, [wishes[i] for i in waiting], replace(schedule, seed=schedule.seed + 1_000 * attempt))
        if state is not None:
            run.restore(state)
        while run.alive and run.step < schedule.steps:
            run.advance()
            progress.save({"attempt": attempt, "found": {str(i): vars(t) for i, t in found.items()}, "run": run.state()})
            live = run.live() if run.step % EVERY == 0 or not run.alive else None
            progress.step(run.step, schedule.steps, run.message(attempt), live)
        found.update(zip(waiting, run.results(attempt)))
        state = None
    return [found[i] for i in range(len(wishes))]


def batch_of_masks(model: Model, length: int, rows: int, n: int, room: float | None = None) -> int:
    """How many of n masks train at once within `room` bytes (None: half of what is free): mask, masked copy, logit, gradient
    twice and two moments of each weight in float32, and the logits of a batch four times."""
    if room is None:
        from models.checkpoints import available

        room = available(str(model.device)) / 2
    weights = sum(m.n_out * m.n_in for m in shape_of(model).matrices)
    each = 4 * (7 * weights + rows * length * (4 * model.config.vocab_size + 20 * model.config.hidden_size * len(model.layers)))
    return int(min(n, max(1, room // each)))


def stable(losses: np.ndarray, reattain: int, window: int = 1) -> bool:
    """No loss more than 0.25 nats or 25 % above the mean of the ten before it, unless that mean was reached again at least
    `reattain` steps before the end (the paper's check, made for batches of 32 sequences: losses of smaller ones are averaged
    over `window` steps first)."""
    n = len(losses) // window
    means = np.asarray(losses)[len(losses) - n * window :].reshape(n, window).mean(1)
    end = n - -(-reattain // window)
    for i in range(1, n):
        before = float(np.mean(means[max(0, i - 10) : i]))
        if means[i] > before + 0.25 or means[i] > 1.25 * before:
            if i >= end or means[i:end].min() > before:
                return False
    return True


def order(n: int, steps: int, rows: int, seed: int) -> torch.Tensor:
    """Sequence indices [step, row]: shuffled, and shuffled anew whenever all have been seen."""
    generator = torch.Generator().manual_seed(seed)
    rounds = -(-steps * rows // n)
    return torch.cat([torch.randperm(n, generator=generator) for _ in range(rounds)])[: steps * rows].view(steps, rows)


class _Run:
    """Several masks in training on one model; those that have settled leave the batch."""

    def __init__(self, model: Model, ids: torch.Tensor, counted: torch.Tensor, bigrams: Bigrams, wishes: list[Wish], schedule: Schedule):
        self.model, self.schedule, self.wishes, self.bigrams = model, schedule, wishes, bigrams
        self.ids, self.counted = ids, counted
        self.matrices = shape_of(model).matrices
        weights = [model.matrix(m.layer, m.name).detach().float() for m in self.matrices]
        self.n_weights = sum(w.numel() for w in weights)
        k, size = len(wishes), LANE * -(-self.n_weights // LANE)
        self.weights = torch.cat([*(w.reshape(-1) for w in weights), weights[0].new_zeros(size - self.n_weights)])
        self.flat = torch.where(self.weights == 0, SHUT, schedule.start).expand(k, -1).clone()
        self.first, self.second = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self.room = torch.empty(3, *self.flat.shape, device=self.flat.device)  # written over at every step: fresh memory costs more
        self.alive = list(range(k))
        self.masks: list[list[torch.Tensor] | None] = [None] * k
        self.hard = np.full(k, np.nan)
        self.curves = np.full((4, k, schedule.steps), np.nan)  # loss, active, r, undecided
        self.step = 0
        self.rows = order(len(ids), schedule.steps, schedule.rows, schedule.seed)
        self.masked = _Masked(model, self.matrices)

    @property
    def logits(self) -> list[torch.Tensor]:
        """[mask, out, in] of each matrix, in place."""
        return self.matrix_by_matrix(self.flat)

    def matrix_by_matrix(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """Views [mask, out, in] of a tensor [mask, weight] that has all matrices one after another."""
        sizes = [m.n_out * m.n_in for m in self.matrices]
        parts = flat[:, : self.n_weights].split(sizes, 1)
        return [part.view(len(flat), m.n_out, m.n_in) for part, m in zip(parts, self.matrices)]

    def advance(self) -> None:
        s, t = self.schedule, self.step
        temperature = s.growth**t
        rows = self.rows[t]
        soft, masked, scratch = self.room[:, : len(self.alive)]
        torch.mul(self.flat, temperature, out=soft).sigmoid_()
        torch.mul(self.weights, soft, out=masked)
        used = [part.requires_grad_() for part in self.matrix_by_matrix(masked.to(self.model.module.dtype).detach())]
        ids, counted = self.ids[rows].to(self.model.device), self.counted[rows].to(self.model.device)
        with torch.enable_grad(), self.masked.using(used):
            logits = self.masked.logits(ids, len(self.alive))
        losses, slope, r = self.losses(logits.detach(), ids, counted)
        gradients = torch.autograd.grad(logits, used, slope)
        del logits, slope, used
        above, between = self.count(torch.gt(soft, 0.9, out=scratch)), self.count(torch.ge(soft, 0.1, out=scratch))
        self.descend(self.slope(gradients, soft, temperature, scratch))
        above, between, active = torch.stack([above, between - above, self.count(torch.gt(self.flat, 0, out=scratch))]).cpu()
        self.curves[:, self.alive, t] = np.stack([losses, active.numpy() / self.n_weights, r, between.numpy() / self.n_weights])
        self.step += 1
        for k, done in zip(list(self.alive), (between < s.settled * above).tolist()):
            if done:
                self.finish(k)

    def count(self, ones: torch.Tensor) -> torch.Tensor:
        """How many of [mask, weight], zeros and ones in float32, are one: float64 [mask], exact."""
        return ones.view(len(ones), -1, LANE).sum(2).sum(1, dtype=torch.float64)

    def slope(self, gradients: tuple, soft: torch.Tensor, temperature: float, out: torch.Tensor) -> torch.Tensor:
        """By the logits [mask, weight], from that by the masked matrices: (gradient · w + λ/n) · T · σ · (1 − σ)."""
        out[:, self.n_weights :] = 0
        for part, gradient in zip(self.matrix_by_matrix(out), gradients):
            part.copy_(gradient)
        price = torch.tensor([[temperature * self.wishes[k].penalty / self.n_weights] for k in self.alive], device=self.model.device)
        torch.addcmul(price, out, self.weights, value=temperature, out=out)
        return torch.ops.aten.sigmoid_backward.grad_input(out, soft, grad_input=out)

    def descend(self, gradient: torch.Tensor) -> None:
        """One step of AdamW on all logits."""
        from torch.optim.adamw import adamw

        s, (b1, b2) = self.schedule, BETAS
        steps = [torch.tensor(float(self.step), device=self.model.device)]
        adamw([self.flat], [gradient], [self.first], [self.second], [], steps, fused=True, amsgrad=False, beta1=b1, beta2=b2, lr=s.rate,
              weight_decay=s.decay, eps=EPS, maximize=False)

    def losses(self, logits: torch.Tensor, ids: torch.Tensor, counted: torch.Tensor) -> tuple[np.ndarray, torch.Tensor, np.ndarray]:
        """(cross-entropy [mask] in nats, its slope with respect to the logits, r [mask]) of logits [mask · row, position, vocab]."""
        k, v = len(self.alive), self.bigrams.n_vocab
        z = logits.view(k, -1, logits.shape[-1])
        chosen = counted.reshape(-1).nonzero()[:, 0]
        n, previous = len(chosen), ids.reshape(-1)[chosen]
        slope = torch.zeros_like(z)
        row, column, p = self.bigrams.rows(previous)
        losses = np.zeros(k)
        own = self.model.logits(ids).view(-1, logits.shape[-1])[chosen, :v].float().log_softmax(-1) if any(self.wishes[j].target == "model" for j in self.alive) else None
        surprisals = []
        following = torch.nn.functional.pad(ids, (0, 1))[:, 1:].reshape(-1)[chosen]
        for i, j in enumerate(self.alive):
            log_p = z[i, chosen, :v].float().log_softmax(-1)
            surprisals.append(-log_p.gather(1, following[:, None])[:, 0])
            if self.wishes[j].target == "model":
                target = own.exp()
                losses[i] = -float((target * log_p).sum() / n)
                slope[i, chosen, :v] = (log_p.exp() - target) / n
            else:
                losses[i] = -float((p * log_p[row, column]).sum() / n)
                difference = log_p.exp_()
                difference[row, column] -= p  # each pair comes once
                slope[i, chosen, :v] = difference / n
        return losses, slope.view_as(logits), self.correlations(surprisals, previous, following, chosen, ids.shape[1])

    def correlations(self, surprisals: list, previous: torch.Tensor, following: torch.Tensor, chosen: torch.Tensor, length: int) -> np.ndarray:
        """Pearson r [mask] with the bigram table over this batch's next tokens; pairs the table has not seen are left out."""
        expected = self.bigrams.surprisal(previous.cpu().numpy(), following.cpu().numpy())
        here = np.isfinite(expected) & ((chosen.cpu().numpy() + 1) % length > 0)
        if here.sum() < 3:
            return np.full(len(surprisals), np.nan)
        return np.array([np.corrcoef(s.cpu().double().numpy()[here], expected[here])[0, 1] for s in surprisals])

    def finish(self, k: int) -> None:
        """Take mask k out of the batch, hard, with the loss it has now on its last batch."""
        i = self.alive.index(k)
        self.masks[k] = [m[i] > 0 for m in self.logits]
        left = [j for j in range(len(self.alive)) if j != i]
        self.flat, self.first, self.second = (each[left] for each in (self.flat, self.first, self.second))
        self.alive.pop(i)
        rest, self.alive = self.alive, [k]
        rows = self.rows[self.step - 1]
        ids, counted = self.ids[rows].to(self.model.device), self.counted[rows].to(self.model.device)
        with torch.no_grad(), self.masked.using([(w * mask).to(self.model.module.dtype) for w, mask in zip(self.matrix_by_matrix(self.weights[None]), self.masks[k])]):
            self.hard[k] = self.losses(self.masked.logits(ids, 1), ids, counted)[0][0]
        self.alive = rest

    def results(self, attempt: int) -> list[Trained]:
        for k in list(self.alive):
            self.finish(k)
        return [self.trained(k, attempt) for k in range(len(self.wishes))]

    def trained(self, k: int, attempt: int) -> Trained:
        s = self.schedule
        loss, active, r, undecided = (curve[np.isfinite(self.curves[0, k])] for curve in self.curves[:, k])
        kept = {m.key: pack(mask.cpu()) for m, mask in zip(self.matrices, self.masks[k])}
        even = stable(loss, s.reattain, max(1, PAPER.rows // s.rows))
        settled = bool(undecided[-1] < s.settled * active[-1])
        return Trained(kept, self.n_weights, loss, active, r, undecided, float(self.hard[k]), settled, even, attempt)

    def live(self) -> dict[str, float]:
        out = {}
        for k, wish in enumerate(self.wishes):
            if np.isfinite(self.curves[0, k, self.step - 1]):
                name = f"λ {wish.penalty:g}" + (" (model)" if wish.target == "model" else "")
                for curve, values in zip(("loss, nats", "active, %", "r"), self.curves[:3, k, self.step - 1] * (1, 100, 1)):
                    out[f"{curve} · {name}"] = float(values)
        return out

    def message(self, attempt: int) -> str:
        again = f", attempt {attempt + 1}" if attempt else ""
        return f"training {len(self.alive)} mask{'s' * (len(self.alive) != 1)}, step {self.step} of {self.schedule.steps}{again}"

    def state(self) -> dict:
        return {"step": self.step, "alive": self.alive, "logits": self.flat, "first": self.first, "second": self.second,
                "masks": self.masks, "hard": self.hard, "curves": self.curves}

    def restore(self, state: dict) -> None:
        device = self.model.device
        self.step, self.alive = int(state["step"]), list(state["alive"])
        self.curves, self.hard = np.array(state["curves"]), np.array(state["hard"])
        self.flat, self.first, self.second = (state[name].to(device).clone() for name in ("logits", "first", "second"))
        self.masks = [m if m is None else [x.to(device) for x in m] for m in state["masks"]]


class _Masked:
    """A second skeleton over the model's tensors whose masked matrices are given anew at each step, one per mask."""

    def __init__(self, model: Model, matrices):
        self.copy = model.copy(model.written)
        self.modules = [self.copy.blocks[m.layer].get_submodule(m.name) for m in matrices]
        self.given: list[torch.Tensor] = []
        for i, module in enumerate(self.modules):
            module.forward = self._forward(i, module.bias)

    def _forward(self, i: int, bias):
        def forward(x: torch.Tensor) -> torch.Tensor:
            weight = self.given[i]  # [mask, out, in]
            stacked = x.reshape(len(weight), -1, x.shape[-1])
            out = torch.bmm(stacked, weight.mT) if bias is None else torch.baddbmm(bias.expand(1, 1, -1), stacked, weight.mT)
            return out.view(*x.shape[:-1], -1)

        return forward

    def using(self, weights: list[torch.Tensor]):
        self.given = weights
        return _Given(self)

    def logits(self, ids: torch.Tensor, n_masks: int) -> torch.Tensor:
        """[mask · row, position, vocab]; the sequences are the same for every mask."""
        return self.copy.module(input_ids=ids.repeat(n_masks, 1), use_cache=False).logits


class _Given:
    def __init__(self, masked: _Masked):
        self.masked = masked

    def __enter__(self):
        return self.masked

    def __exit__(self, *_):
        self.masked.given = []
