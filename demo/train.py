"""Trains the demo models:  python -m demo.train storyteller-a [--steps N | --minutes M]

The state is written every minute to .microtome/train/<name>/ and a second call goes on
from it, with the same result as an uninterrupted run. The finished model, its tokenizer,
its kept checkpoints and its measured card go to demo/models/<name>/."""
import argparse
import dataclasses
import json
import math
import os
import shutil
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from demo import feed, vocabulary
from demo.recipes import RECIPES, Recipe, build

MODELS = Path(__file__).parent / "models"
STATE = Path(".microtome/train")
EVERY = 60.0                                             # seconds between saved states


def rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine to zero at the last step."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def loss_of(model, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean nats per next token of rows [row, position]."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    nats = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1), reduction="none")
    weights = weights[:, 1:].reshape(-1)
    return (nats * weights).sum() / weights.sum()


class Run:
    """A training run that can be stopped after any step and taken up again."""

    def __init__(self, recipe: Recipe, folder: Path, device: str):
        self.recipe, self.folder, self.device = recipe, folder, device
        torch.manual_seed(recipe.seed)
        self.model = build(recipe).to(device).train()
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)
        self.step, self.seconds, self.losses = 0, 0.0, []
        self._block, self._ids, self._weights = None, None, None
        self._load()

    def advance(self) -> float:
        """One optimizer step; its loss in nats per token."""
        started = time.monotonic()
        if self._block != self.step // feed.BLOCK:
            self._block = self.step // feed.BLOCK
            ids, weights = feed.rows(self.recipe, self._block)
            self._ids, self._weights = torch.from_numpy(ids).to(self.device), torch.from_numpy(weights).to(self.device)
        at = self.step % feed.BLOCK * self.recipe.rows
        now = slice(at, at + self.recipe.rows)
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.step, self.recipe)
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device == "cuda"):
            loss = loss_of(self.model, self._ids[now], self._weights[now])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self.losses.append(float(loss.detach()))
        self.seconds += time.monotonic() - started
        return self.losses[-1]

    def save(self) -> None:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
        record = {
            "recipe": dataclasses.asdict(self.recipe), "step": self.step, "seconds": self.seconds, "losses": self.losses,
        }
        with replacing(self.folder) as folder:
            save_file({name: value.detach().clone() for name, value in tensors.items()}, folder / "state.safetensors")
            (folder / "record.json").write_text(json.dumps(record))

    def _load(self) -> None:
        path = self.folder / "record.json"
        if not path.exists():
            return
        record = json.loads(path.read_text())
        if record["recipe"] != json.loads(json.dumps(dataclasses.asdict(self.recipe))):
            raise ValueError(f"{self.folder} holds a run of another recipe: finish that one or remove the folder")
        tensors = load_file(self.folder / "state.safetensors", device=self.device)
        self.model.load_state_dict({n[6:]: v for n, v in tensors.items() if n.startswith("model.")})
        state = self.optimizer.state_dict()
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, number, moment = name.split(".")
                state["state"].setdefault(int(number), {})[moment] = value
        self.optimizer.load_state_dict(state)
        self.step, self.seconds, self.losses = record["step"], record["seconds"], record["losses"]


class replacing:
    """A new folder that takes the place of `target` in one move when the block ends well."""

    def __init__(self, target: Path):
        self.target, self.new = target, target.with_name(f".{target.name}.{os.getpid()}")

    def __enter__(self) -> Path:
        shutil.rmtree(self.new, ignore_errors=True)
        self.new.mkdir(parents=True)
        return self.new

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            old = self.new.with_name(self.new.name + ".old")
            if self.target.exists():
                self.target.rename(old)
            self.new.rename(self.target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            shutil.rmtree(self.new)


def export(model, folder: Path) -> None:
    """A Hugging Face folder in bfloat16 with the tokenizer; the model itself stays as it is."""
    import copy

    with replacing(folder) as new:
        copy.deepcopy(model).to("cpu", torch.bfloat16).save_pretrained(new)
        vocabulary.save(new)


def train(recipe: Recipe, models: Path, state: Path, device: str, say=print, every: int = 1) -> Path:
    """Runs (or goes on with) a recipe to its end; returns the folder of the finished model.

    `every` thins what the card measures."""
    run = Run(recipe, state / recipe.name, device)
    kept = {max(1, round(recipe.steps * fraction)) for fraction in recipe.kept}
    saved = time.monotonic()
    while run.step < recipe.steps:
        run.advance()
        if run.step in kept:
            export(run.model, models / f"{recipe.name}-steps" / f"step-{run.step:06d}")
        if run.step % 20 == 0 or run.step == recipe.steps:
            recent = run.losses[-20:]
            tokens = run.step * recipe.rows * vocabulary.CONTEXT
            say(f"{recipe.name} {run.step}/{recipe.steps} loss {sum(recent) / len(recent):.3f} {tokens / run.seconds:.0f} tokens/s")
        if time.monotonic() - saved > EVERY:
            run.save()
            saved = time.monotonic()
    run.save()
    folder = models / recipe.name
    export(run.model, folder)
    from demo import card

    card.write(folder, {
        "family": recipe.family, "seed": recipe.seed, "steps": recipe.steps, "rows": recipe.rows,
        "tokens": recipe.steps * recipe.rows * vocabulary.CONTEXT, "minutes": round(run.seconds / 60, 1),
        "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)",
        "final_loss": round(sum(run.losses[-50:]) / len(run.losses[-50:]), 4),
        "parameters": sum(p.numel() for p in run.model.parameters()),
    }, every)
    return folder


def steps_for(recipe: Recipe, minutes: float, device: str) -> int:
    """How many steps fit, from the speed of six steps on this machine."""
    probe = Run(recipe, Path("/nonexistent"), device)
    probe.advance()
    started = time.monotonic()
    for _ in range(5):
        probe.advance()
    return max(feed.BLOCK, round(minutes * 60 / ((time.monotonic() - started) / 5)))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.train", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=sorted(RECIPES), metavar="NAME", help=", ".join(RECIPES))
    parser.add_argument("--steps", type=int, help="optimizer steps (default: the recipe's)")
    parser.add_argument("--minutes", type=float, help="instead of steps: as many as fit, by a short measurement")
    parser.add_argument("--out", type=Path, default=MODELS, help="folder of the finished models")
    chosen = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name in chosen.names:
        recipe = RECIPES[name]
        going_on = STATE / name / "record.json"
        if chosen.steps:
            recipe = dataclasses.replace(recipe, steps=chosen.steps)
        elif chosen.minutes and going_on.exists():
            recipe = dataclasses.replace(recipe, steps=json.loads(going_on.read_text())["recipe"]["steps"])
        elif chosen.minutes:
            recipe = dataclasses.replace(recipe, steps=steps_for(recipe, chosen.minutes, device))
        folder = train(recipe, chosen.out, STATE, device, say=lambda line: print(line, flush=True))
        print(f"{folder}: done", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
