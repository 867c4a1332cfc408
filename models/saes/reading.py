"""SAE folders of two kinds, believed in nothing: a config in JSON and one safetensors file; a pickle is never opened.

sae-lens (cfg.json, sae_weights.safetensors; versions 3 to 6): W_enc [d_in, d_sae], W_dec [d_sae, d_in], b_enc, b_dec; threshold,
or b_gate, b_mag and r_mag. `rescale_acts_by_decoder_norm` is folded into the encoder: the numbers are the same.

EleutherAI sparsify (cfg.json, sae.safetensors): encoder.weight [latents, d_in], encoder.bias, W_dec [latents, d_in] (in old files
decoder.weight [d_in, latents]), b_dec; codes are top_k(relu((x − b_dec) W_encᵀ + b_enc)). sae-lens 6.54's own loader of these
transposes W_dec once too often, takes `num_latents: 0` (use the expansion factor) for a width of zero, and stops subtracting b_dec
where `normalize_decoder` is set, so it is not used.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch

from models import headers
from models.layout import SITES, Site
from models.refusal import Refused, shown
from models.saes.dictionary import NORMALISATIONS, Sae

CONFIG, LENS, SPARSIFY = "cfg.json", "sae_weights.safetensors", "sae.safetensors"
WIDEST = 1 << 22  # features
_HOOK = re.compile(r"(?:blocks|(?:transformer\.|model\.|gpt_neox\.)?(?:h|layers))\.(\d+)\.?(.*)\Z")
HOOKS = {  # TransformerLens's names, old and new, and transformers' module names, after the block -> ours
    "": "resid_post", "hook_resid_post": "resid_post", "hook_out": "resid_post", "hook_resid_pre": "resid_pre", "hook_in": "resid_pre",
    "hook_resid_mid": "resid_mid", "hook_mlp_out": "mlp_out", "mlp.hook_out": "mlp_out", "mlp": "mlp_out", "hook_attn_out": "attn_out",
    "attn.hook_out": "attn_out", "attn": "attn_out", "self_attn": "attn_out", "attn.hook_z": "z", "mlp.hook_post": "mlp_post", "mlp.hook_pre": "mlp_pre",
}
HOOK_OF = {  # ours -> sae-lens's usual name
    "resid_pre": "hook_resid_pre", "resid_mid": "hook_resid_mid", "resid_post": "hook_resid_post", "mlp_out": "hook_mlp_out", "attn_out": "hook_attn_out",
    "z": "attn.hook_z", "mlp_post": "mlp.hook_post", "mlp_pre": "mlp.hook_pre",
}


def weight_file(folder: Path) -> Path:
    """The one file with the numbers; Refused where there is none, or only a pickle."""
    for name in (LENS, SPARSIFY):
        if (folder / name).is_file():
            return folder / name
    others = sorted(p.name for p in folder.glob("*") if p.suffix in (".pt", ".pth", ".bin", ".pkl", ".npz"))
    more = f"; {shown(others[0], 60)} is not opened, for such files can run code or are of another kind" if others else ""
    raise Refused(f"{shown(folder.name, 60)} has neither {LENS} (sae-lens) nor {SPARSIFY} (sparsify){more}. Save the SAE with sae-lens's save_model.")


def config_of(folder: Path) -> dict:
    file = folder / CONFIG
    if not file.is_file():
        raise Refused(f"{shown(folder.name, 60)} has no {CONFIG}. An SAE folder holds {CONFIG} and {LENS} (sae-lens) or {SPARSIFY} (sparsify).")
    if file.stat().st_size > 1 << 20:
        raise Refused(f"{CONFIG} of {shown(folder.name, 60)} has {file.stat().st_size:,} bytes; at most {1 << 20:,} are read.")
    found = headers.strict_json(file.read_bytes(), CONFIG, 1 << 20)
    if not isinstance(found, dict):
        raise Refused(f"{CONFIG} of {shown(folder.name, 60)} is not a table of settings. Save the SAE again.")
    return found


def place_of(folder: Path) -> tuple[Site, str]:
    """(site, model's name or "") from the config and the folder's name alone; no weights are read."""
    config = config_of(folder)
    notes = config.get("metadata") if isinstance(config.get("metadata"), dict) else {}
    said = {key: notes.get(key, config.get(key)) for key in ("hook_name", "model_name", "hook_layer")}
    hook = said["hook_name"] if weight_file(folder).name == LENS else folder.name
    match = _HOOK.match(str(hook).replace("layers_", "layers.")) if hook else None
    site = HOOKS.get(match[2]) if match else None
    if site not in SITES:
        raise Refused(f"{shown(folder.name, 60)} reads at {shown(str(hook), 60)}, which is none of the places known here: {', '.join(HOOK_OF)} of a block. "
                      + ("Set metadata.hook_name in its cfg.json." if weight_file(folder).name == LENS else "A sparsify folder is named like layers.3 or layers.3.mlp."))
    return Site(int(match[1]), site), str(said["model_name"] or "")[:200]


def read(folder: Path, name: str = "") -> Sae:
    """The SAE of a folder; Refused in words where it is none or does not fit together."""
    folder, title = Path(folder), shown(Path(folder).name, 60)
    config, file = config_of(folder), weight_file(folder)
    site, model = place_of(folder)
    tensors = _tensors(file)
    maker = _lens if file.name == LENS else _sparsify
    settings, parts = maker(config, tensors, title)
    _require_shapes(parts, title)
    return Sae(**parts, **settings, site=site, name=name or folder.name, model=model)


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    for tensor in headers.read(file).tensors:
        if tensor.dtype not in headers.FLOATS:
            raise Refused(f"{file.name}: {shown(tensor.name, 60)} is {tensor.dtype}; an SAE's numbers are one of {', '.join(headers.FLOATS)}.")
    loaded = {name: value.to(torch.float32) for name, value in load_file(file).items()}
    broken = next((name for name, value in loaded.items() if not bool(torch.isfinite(value).all())), None)
    if broken:
        raise Refused(f"{file.name}: {shown(broken, 60)} holds NaN or infinity. The SAE did not train well, or the file is damaged.")
    return loaded


def _lens(config: dict, tensors: dict, title: str) -> tuple[dict, dict]:
    kind = config.get("architecture", "standard")
    old_k = (config.get("activation_fn_kwargs") or {}).get("k") if isinstance(config.get("activation_fn_kwargs"), dict) else None
    if kind == "standard" and config.get("activation_fn_str", config.get("activation_fn")) == "topk":
        kind = "topk"  # as sae-lens 3 to 5 wrote it
    if kind not in ("standard", "topk", "jumprelu", "gated"):
        raise Refused(f"{title} is a {shown(str(kind), 40)} SAE; here run standard, topk, jumprelu and gated ones (BatchTopK and Matryoshka are saved as jumprelu).")
    normalise = {False: "none", None: "none", True: "?"}.get(config.get("normalize_activations", "none"), config.get("normalize_activations", "none"))
    if normalise not in NORMALISATIONS:
        raise Refused(f"{title} was saved with its normalisation {shown(str(normalise), 60)} not folded in, so its scale is unknown. Finish its training with sae-lens, which folds it.")
    if config.get("finetuning_scaling_factor"):
        raise Refused(f"{title} has a fine-tuning scale beside its weights, which is not read here. Save it with sae-lens 6, which folds it.")
    need = {"W_enc", "W_dec", "b_dec"} | {"gated": {"b_gate", "b_mag", "r_mag"}, "jumprelu": {"b_enc", "threshold"}}.get(kind, {"b_enc"})
    _require(need, tensors, title)
    parts = {name: tensors[name] for name in need}
    if kind == "gated":
        parts["b_enc"] = parts.pop("b_gate")
    if kind == "topk" and config.get("rescale_acts_by_decoder_norm"):
        norm = parts["W_dec"].norm(dim=-1)
        parts |= {"W_enc": parts["W_enc"] * norm, "b_enc": parts["b_enc"] * norm, "W_dec": parts["W_dec"] / norm[:, None]}
    k = _k(config.get("k", old_k), len(parts["W_dec"]), title) if kind == "topk" else None
    return {"architecture": kind, "k": k, "normalise": normalise, "centred": bool(config.get("apply_b_dec_to_input", True))}, parts


def _sparsify(config: dict, tensors: dict, title: str) -> tuple[dict, dict]:
    for setting in ("transcode", "skip_connection", "signed"):
        if config.get(setting):
            raise Refused(f"{title} has {setting} set; here run sparsify's plain top-k autoencoders, not transcoders nor signed codes.")
    if config.get("activation", "topk") != "topk":
        raise Refused(f"{title} has the activation {shown(str(config['activation']), 40)}; of sparsify, topk runs here.")
    if "decoder.weight" in tensors and "W_dec" not in tensors:
        tensors = tensors | {"W_dec": tensors["decoder.weight"].T.contiguous()}
    _require({"encoder.weight", "encoder.bias", "W_dec", "b_dec"}, tensors, title)
    width = len(tensors["encoder.weight"])
    factor, latents = config.get("expansion_factor"), config.get("num_latents") or 0
    expected = latents or (factor * config["d_in"] if isinstance(factor, int) and isinstance(config.get("d_in"), int) else width)
    if expected != width:
        raise Refused(f"{title} announces {expected:,} latents and holds {width:,}. Its {CONFIG} belongs to another file.")
    parts = {"W_enc": tensors["encoder.weight"].T.contiguous(), "b_enc": tensors["encoder.bias"], "W_dec": tensors["W_dec"], "b_dec": tensors["b_dec"]}
    return {"architecture": "topk", "k": _k(config.get("k"), width, title)}, parts


def _k(k, width: int, title: str) -> int:
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= width:
        raise Refused(f"{title} gives k = {shown(str(k), 20)}; expected how many of its {width:,} features stay on, 1 to {width:,}.")
    return k


def _require(need: set[str], tensors: dict, title: str) -> None:
    if missing := sorted(need - set(tensors)):
        raise Refused(f"{title} lacks {', '.join(missing)}; it holds {shown(', '.join(sorted(tensors)) or 'nothing', 200)}. Save the SAE again.")


def _require_shapes(parts: dict[str, torch.Tensor], title: str) -> None:
    d_in, d_sae = parts["W_enc"].shape if parts["W_enc"].dim() == 2 else (0, 0)
    if not (1 <= d_in and 1 <= d_sae <= WIDEST):
        raise Refused(f"{title}: W_enc is {list(parts['W_enc'].shape)}; expected [d_in, d_sae] with at most {WIDEST:,} features.")
    for name, value in parts.items():
        expected = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}.get(name, (d_sae,))
        if tuple(value.shape) != expected:
            raise Refused(f"{title}: {name} is {list(value.shape)}, and beside W_enc [{d_in}, {d_sae}] it should be {list(expected)}. Save the SAE again.")


def write(sae: Sae, folder: Path, half: bool = False, notes: dict | None = None) -> None:
    """A sae-lens folder, as version 6 reads it; `half`: float16 numbers. `notes` are added to the metadata."""
    from safetensors.torch import save_file

    dtype = torch.float16 if half else torch.float32
    extra = {"gated": ("b_mag", "r_mag"), "jumprelu": ("threshold",)}.get(sae.architecture, ())
    tensors = {name: getattr(sae, name) for name in ("W_enc", "W_dec", "b_dec", *extra)} | {"b_gate" if sae.architecture == "gated" else "b_enc": sae.b_enc}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().to(dtype).contiguous().cpu() for name, value in tensors.items()}, folder / LENS)
    config = {
        "architecture": sae.architecture, "d_in": sae.d_in, "d_sae": sae.d_sae, "dtype": "float16" if half else "float32", "device": "cpu",
        "apply_b_dec_to_input": sae.centred, "normalize_activations": sae.normalise, "reshape_activations": "none",
        **({"k": sae.k, "rescale_acts_by_decoder_norm": False} if sae.architecture == "topk" else {}),
        "metadata": {"model_name": sae.model, "hook_name": f"blocks.{sae.site.layer}.{HOOK_OF[sae.site.name]}", **(notes or {})},
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
