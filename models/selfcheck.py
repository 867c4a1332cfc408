"""Does a model that loaded also behave like one? Four checks on a short sample, each with its number.

    finite      every logit is a finite number
    attention   rows of every attention pattern sum to one (largest deviation)
    map         resid_post = resid_pre + attn_out + mlp_out at every block, as the module map names them
                (largest error relative to the largest entry of resid_post)
    chance      mean −log p of the next token, on the sample it reads best, against ln V of a uniform guess [nats per token]
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from models import layout
from models.refusal import Refused

SAMPLES = (  # children's stories, the demo world's own, plain prose: a language model does better than chance on one
    "Once upon a time there was a little girl named Lily. She had a red ball. One day she went to the park with her mom and saw a "
    "big dog. The dog wanted to play with the ball. Lily was happy and they played all day. When the sun went down she went home.",
    "Oscar was a patient boy who lived in a tall tower. He had a pink drum and a hen called Pip. One cloudy holiday, Oscar walked to "
    "the garden with Pip. A singer named Peter sat there and ate rice. He looked bored. \"Who are you?\" asked Peter.",
    "The city was founded in the twelfth century on the northern bank of the river. During the following decades it became the "
    "largest market of the region, and its university, one of the oldest in the country, has attracted students ever since.",
)
POSITIONS = 64


@dataclass(frozen=True)
class SelfCheck:
    """None where a check does not apply (no tokenizer, no module map); `lines` say each result in a sentence."""

    finite: bool
    attention_error: float | None
    map_error: float | None
    nats_per_token: float | None
    chance_nats: float
    lines: tuple[str, ...]

    @property
    def passed(self) -> bool:
        attention = self.attention_error is None or self.attention_error < 1e-3
        return self.finite and attention and (self.map_error is None or self.map_error < 1e-3)


def run(model, tokenizer) -> SelfCheck:
    """Run all four on the loaded model (a few forwards of at most POSITIONS tokens); the model is left as it was."""
    import torch

    config = model.config.get_text_config()
    length = min(POSITIONS, getattr(config, "max_position_embeddings", None) or POSITIONS)
    device = next((p.device for p in model.parameters() if not p.is_meta), torch.device("cpu"))  # offloaded layers have no place of their own
    texts = [ids.to(device) for ids in _texts(tokenizer, config.vocab_size, length)]
    ids = texts[0] if texts else torch.randint(config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits.float()
        finite = bool(torch.isfinite(logits).all())
        nats = min((_nats(model, text) for text in texts), default=None) if finite else None
        attention = _attention(model, ids)
        residual, map_line = _residual(model, ids)
    chance = math.log(config.vocab_size)
    return SelfCheck(finite, attention, residual, nats, chance, tuple(_lines(finite, attention, map_line, nats, chance)))


def reading(model, tokenizer) -> float | None:
    """Nats per token on the sample that the model reads best; None without a tokenizer or where it is not finite."""
    import torch

    config = model.config.get_text_config()
    length = min(POSITIONS, getattr(config, "max_position_embeddings", None) or POSITIONS)
    with torch.inference_mode():
        found = [_nats(model, ids.to(model.device)) for ids in _texts(tokenizer, config.vocab_size, length)]
    return min((nats for nats in found if math.isfinite(nats)), default=None)


def _texts(tokenizer, vocab: int, length: int) -> list:
    """The samples as ids [1, position], as far as the tokenizer reads them as text."""
    read = [tokenizer(text, return_tensors="pt")["input_ids"][:, :length] for text in SAMPLES] if tokenizer is not None else []
    return [ids for ids in read if ids.shape[1] > 1 and int(ids.max()) < vocab and len(ids.unique()) > 2]


def _nats(model, ids) -> float:
    import torch

    logits = model(input_ids=ids, use_cache=False).logits.float()
    return float(torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]))


def _attention(model, ids) -> float | None:
    """Largest |row sum − 1| over all patterns; they exist only in the eager implementation, switched to and back."""
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation("eager")
        patterns = model(input_ids=ids, use_cache=False, output_attentions=True).attentions
    except (ValueError, NotImplementedError, TypeError):
        return None
    finally:
        model.set_attn_implementation(before)
    rows = [float((pattern.float().sum(-1) - 1).abs().max()) for pattern in patterns or () if pattern is not None]
    return max(rows) if rows else None


def _residual(model, ids) -> tuple[float | None, str]:
    try:
        places = layout.layout_for(model.config)
    except Refused as refusal:
        return None, str(refusal)
    seen, hooks = {}, []
    names = ("resid_pre", "attn_out", "mlp_out", "resid_post")
    n = len(layout.blocks(model, places))
    for i in range(n):
        for name in names:
            module, side = layout.locate(model, places, layout.Site(i, name))
            hooks.append(_keep(module, side, seen, (i, name)))
    try:
        model(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    worst = 0.0
    for i in range(n):
        pre, attention, mlp, post = (seen[i, name].float() for name in names)
        worst = max(worst, float((pre + attention + mlp - post).abs().max() / post.abs().max().clamp_min(1e-30)))
    within = f"to {worst:.1e} of its largest entry" if worst else "exactly"
    return worst, f"Module map: at {n} blocks the stream is what came in plus attention plus MLP, {within}."


def _keep(module, side: str, seen: dict, key: tuple):
    first = lambda value: value[0] if isinstance(value, tuple) else value
    if side == "output":
        return module.register_forward_hook(lambda m, args, out: seen.__setitem__(key, first(out)))
    return module.register_forward_pre_hook(lambda m, args, kwargs: seen.__setitem__(key, args[0] if args else kwargs["hidden_states"]), with_kwargs=True)


def _lines(finite: bool, attention: float | None, map_line: str, nats: float | None, chance: float):
    yield "Logits: all finite." if finite else "Logits: some are NaN or infinite; the weights are damaged or overflow in this dtype."
    yield f"Attention: rows sum to one within {attention:.1e}." if attention is not None else "Attention: this architecture does not give its patterns."
    yield map_line
    if nats is None:
        yield f"Perplexity: no text sample could be read (no tokenizer); a uniform guess has {chance:.2f} nats per token."
    else:
        verdict = "better than chance" if nats < chance - 0.1 else "no better than chance: random weights, a tokenizer of another model, or a model of other text"
        yield f"Perplexity: {nats:.2f} nats per token on the best of {len(SAMPLES)} short texts, a uniform guess {chance:.2f}: {verdict}."
