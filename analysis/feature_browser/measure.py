"""The numbers: codes of the corpus and of a text, one feature's card, a token's features, and what steering writes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from analysis.feature_browser.codes import Codes, examples, of_feature, read
from metrics.feature_contexts import feature_logits
from metrics.steering import next_log_probabilities, written_on
from models.home import home
from models.loaded import Model
from models.refusal import NotApplicable, Refused
from models.saes import Sae, fingerprint, load_sae
from models.saes.inside import activations, require_fit
from models.saes.shelf import choose

LONGEST = 256  # tokens of a text
AT_TOKEN, TOKENS, NEAR, FOUND, CHANGED = 5, 10, 8, 8, 8
WRITERS = ("plain", "steered", "random")


@dataclass(frozen=True, eq=False)
class Result:
    """Features are numbers of the dictionary, tokens are ids; `texts` belongs to the sorted `ids`.

    fired, largest [feature] over the corpus; values [n] the chosen feature's activations above 0; at [token] its activation at every token
    of the text; prompt [token], prompt_features and prompt_values [token, 5], −1 and 0 where fewer fire, prompt_active [token]
    window, seen [example, width] flat corpus indices (−1 outside) and activations there, band [example] 0 top, 1 … 4 from strong to weak
    up, up_logit, down, down_logit [10]; neighbour, cosine [8], random_cosine the best a random direction reaches, mean of 20
    named, named_token [n] features shown and the token each promotes most (−1: none)
    search −1 or the token; fires, fires_on, fires_off [8] mean activation at its occurrences and at all others; promotes, promotes_logit [8]
    continuation [3] texts of WRITERS; changed [8] tokens and changed_p [3, 8] their next-token probabilities; kl [3] from plain, nats
    """

    sae: str
    site: str
    sae_model: str
    d_sae: int
    n_tokens: int
    n_sequences: int
    left_out: int
    feature: int
    fired: np.ndarray
    largest: np.ndarray
    values: np.ndarray
    prompt: np.ndarray
    at: np.ndarray
    prompt_features: np.ndarray
    prompt_values: np.ndarray
    prompt_active: np.ndarray
    window: np.ndarray
    seen: np.ndarray
    band: np.ndarray
    up: np.ndarray
    up_logit: np.ndarray
    down: np.ndarray
    down_logit: np.ndarray
    neighbour: np.ndarray
    cosine: np.ndarray
    random_cosine: float
    named: np.ndarray
    named_token: np.ndarray
    search: int
    search_seen: int
    fires: np.ndarray
    fires_on: np.ndarray
    fires_off: np.ndarray
    promotes: np.ndarray
    promotes_logit: np.ndarray
    added: float
    continuation: np.ndarray
    changed: np.ndarray
    changed_p: np.ndarray
    kl: np.ndarray
    token: np.ndarray
    ids: np.ndarray
    texts: np.ndarray


def compute(captures, params, progress) -> Result:
    capture = captures[0]
    name = choose(params.sae, "" if params.sae else capture.variant, home())
    sae = load_sae(name, home())
    ids, keep = capture.ids, capture.keep
    with capture.model() as model, torch.no_grad():
        require_fit(sae, model)
        codes = capture.keep_plan("sae codes", {"sae": fingerprint(name, home())}, lambda part: read(model, sae, ids, keep, part), Codes, progress)
        text = text_ids(model, params.prompt, ids)
        on_text = _on_text(model, sae, text)
        feature = _chosen(params.feature, sae, codes, on_text["z"])
        progress.step(90, 100, f"feature {feature}")
        logits = _logits(model, sae)
        card = _card(codes, sae, feature, ids.numpy(), keep.numpy(), logits)
        found = _search(model, codes, params.token, ids.numpy().ravel(), logits)
        shown = np.unique([feature, *card["neighbour"], *found["fires"], *found["promotes"], *on_text["prompt_features"].ravel()])
        shown = shown[shown >= 0].astype(np.int64)
        steer = _steer(model, sae, codes, feature, text, params)
        used = np.unique(np.concatenate([ids[keep].numpy(), text, card["up"], card["down"], steer["changed"], [found["search"]] if found["search"] >= 0 else [],
                                         logits[shown].argmax(1).numpy() if logits is not None else []]).astype(np.int64))
        z = on_text.pop("z")
        return Result(
            sae=sae.name, site=sae.site.written, sae_model=sae.model, d_sae=sae.d_sae, n_tokens=int(keep[:, 1:].sum()), n_sequences=len(ids), left_out=codes.left_out, feature=feature,
            fired=codes.fired, largest=codes.largest, prompt=np.array(text, np.int64), at=z[:, feature].numpy(), **on_text, **card, **found, **steer,
            named=shown, named_token=logits[shown].argmax(1).numpy() if logits is not None else np.full(len(shown), -1),
            token=ids.numpy().ravel(), ids=used, texts=np.array([model.tokenizer.decode([int(i)]) for i in used], dtype=str))


def text_ids(model: Model, prompt: str, ids: torch.Tensor, n: int = 16) -> list[int]:
    """Token ids of the text, BOS first where the tokenizer has one; an empty one takes the corpus's first tokens. Refused where it is too long."""
    if not prompt.strip():
        return ids[0, :n].tolist()
    found = model.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    bos = model.tokenizer.bos_token_id
    found = ([bos] if bos is not None else []) + found
    most = min(LONGEST, (getattr(model.config, "max_position_embeddings", None) or LONGEST + 1) - 1)
    if not 2 <= len(found) <= most:
        raise Refused(f"The text has {len(found)} tokens; expected 2 to {most}, for the first is not read. {'Shorten' if len(found) > most else 'Lengthen'} it.")
    return found


def _on_text(model: Model, sae: Sae, text: list[int]) -> dict:
    z = sae.encode(activations(model, sae.site, torch.tensor([text]))[0].cpu())
    z[0] = 0
    values, features = z.topk(min(AT_TOKEN, sae.d_sae), dim=1)
    return {"z": z, "prompt_features": features.masked_fill(values <= 0, -1).numpy(), "prompt_values": values.numpy(), "prompt_active": (z > 0).sum(1).numpy()}


def _chosen(asked: int, sae: Sae, codes: Codes, z: torch.Tensor) -> int:
    """The feature asked for; −1: the largest on the text as a share of its largest on the corpus (those that the corpus does not know aside)."""
    if asked >= sae.d_sae:
        raise Refused(f"Feature {asked:,} does not exist; {sae.name} has features 0 to {sae.d_sae - 1:,}.")
    if asked >= 0:
        return asked
    share = np.where(codes.fired > 0, z.amax(0).numpy() / np.maximum(codes.largest, 1e-9), 0)
    return int(share.argmax())


def _logits(model: Model, sae: Sae) -> torch.Tensor | None:
    """[feature, vocab], in pieces where that is large; None where the site does not write to the stream."""
    try:
        return torch.cat([feature_logits(model, sae, part) for part in np.array_split(np.arange(sae.d_sae), max(1, sae.d_sae // 4096))])
    except NotApplicable:
        return None


def _card(codes: Codes, sae: Sae, feature: int, ids: np.ndarray, keep: np.ndarray, logits: torch.Tensor | None) -> dict:
    z = of_feature(codes, feature)
    window, band = examples(z, ids, keep)
    seen = np.where(window >= 0, z[np.maximum(window, 0)], 0).astype(np.float32)
    unit = torch.nn.functional.normalize(sae.W_dec, dim=1)
    cosine = unit @ unit[feature]
    cosine[feature] = -2
    near = cosine.abs().masked_fill(cosine < -1.5, -1).topk(min(NEAR, sae.d_sae - 1)).indices
    noise = torch.nn.functional.normalize(torch.randn(20, sae.d_in, generator=torch.Generator().manual_seed(0)), dim=1)
    card = {"values": z[z > 0], "window": window, "seen": seen, "band": band, "neighbour": near.numpy(), "cosine": cosine[near].numpy(),
            "random_cosine": float((noise @ unit.T).abs().amax(1).mean())}
    nothing = np.zeros(0, np.int64), np.zeros(0, np.float32)
    for side, largest in (("up", True), ("down", False)):
        best = logits[feature].topk(min(TOKENS, logits.shape[1]), largest=largest) if logits is not None else None
        card |= dict(zip((side, f"{side}_logit"), (best.indices.numpy(), best.values.numpy()) if best else nothing))
    return card


def _search(model: Model, codes: Codes, word: str, tokens: np.ndarray, logits: torch.Tensor | None) -> dict:
    none = {"search": -1, "search_seen": 0, "fires": np.zeros(0, np.int64), "fires_on": np.zeros(0), "fires_off": np.zeros(0), "promotes": np.zeros(0, np.int64), "promotes_logit": np.zeros(0, np.float32)}
    if not word.strip():
        return none
    spellings = [model.tokenizer(w, add_special_tokens=False)["input_ids"] for w in (word, f" {word.strip()}", word.strip())]
    single = [s[0] for s in spellings if len(s) == 1]
    if not single:
        raise Refused(f"“{word[:40]}” is {len(spellings[0])} tokens for this model; search one of {', '.join('“' + model.tokenizer.decode([t]) + '”' for t in spellings[0][:6])}.")
    token = max(single, key=lambda t: int((tokens == t).sum()))
    read_here = codes.features[:, 0] >= 0
    on, off = ((tokens == token) & read_here, (tokens != token) & read_here)

    def mean(rows: np.ndarray) -> np.ndarray:
        f, v = codes.features[rows], codes.values[rows]
        return np.bincount(f[f >= 0], v[f >= 0], len(codes.fired)) / max(int(rows.sum()), 1)

    here, there = mean(on), mean(off)
    best = np.argsort(-(here - there), kind="stable")[:FOUND]
    best = best[here[best] > 0]
    found = {**none, "search": int(token), "search_seen": int(on.sum()), "fires": best, "fires_on": here[best], "fires_off": there[best]}
    if logits is not None:
        top = logits[:, token].topk(min(FOUND, len(logits)))
        found |= {"promotes": top.indices.numpy(), "promotes_logit": top.values.numpy()}
    return found


def _steer(model: Model, sae: Sae, codes: Codes, feature: int, text: list[int], params) -> dict:
    length = params.strength * float(codes.largest[feature])
    direction = sae.W_dec[feature] * length
    noise = torch.randn(sae.d_in, generator=torch.Generator().manual_seed(params.seed))
    added = (None, direction, noise / noise.norm() * direction.norm())
    logs = torch.stack([next_log_probabilities(model, sae.site, text, d) for d in added])
    texts = [model.tokenizer.decode(written_on(model, sae.site, text, d, params.new_tokens, params.heat, params.seed)) for d in added]
    p = logs.exp()
    changed = (p[1] - p[0]).abs().topk(min(CHANGED, p.shape[1])).indices
    return {"added": float(direction.norm()), "continuation": np.array(texts, dtype=str), "changed": changed.numpy(), "changed_p": p[:, changed].numpy(),
            "kl": (p[0] * (logs[0] - logs)).sum(1).clamp(min=0).numpy()}
