"""What the fenced process does with files from outside. Each function takes and returns plain JSON values (see isolate.run)."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict
from pathlib import Path

from models import configs, headers, skeleton, vocabulary, weights
from models.intake import unpack
from models.refusal import Refused, shown

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model")
KNOWN_JSON = ("config.json", weights.INDEX, "generation_config.json", "adapter_config.json", "pytorch_model.bin.index.json", "card.json", *TOKENIZER)


def convert_pickle(path: str, folder: str) -> dict:
    """models.convert's work: safetensors, and a config.json where names and settings tell one without asking."""
    notes, guess = _from_pickles([Path(path)], Path(folder))
    if guess is not None:
        notes += [f"to be said in config.json: {question.field} ({question.text} Proposed: {question.default})" for question in guess.questions]
        (Path(folder) / "config.json").write_text(json.dumps(_complete(guess, {}), indent=1))
    return {"notes": notes}


def prepare(incoming: str, folder: str, limit: int, serving_others: bool, answers: dict | None, base: str | None, known_tokenizer: str | None) -> dict:
    """Turn what was dropped into `folder`/model, ready for models.checkpoints; see models.intake.take for the meaning of each value."""
    root, model = Path(folder), Path(folder) / "model"
    found, notes = _gather(Path(incoming), root / "unpacked", limit)
    _fresh(model)
    form, guess = _weights(found, model, notes, serving_others, Path(base) if base else None)
    choice = (answers or {}).get("tokenizer", "none")
    for name in TOKENIZER if choice == "none" else ():  # a choice made on the page stands before the files
        if name in found and not (model / name).exists():
            os.link(found[name], model / name)
    fields, questions = _config(found, model, guess, notes, answers)
    asks, no_tokenizer = list(questions), _no_tokenizer(model)
    if no_tokenizer and fields:
        asks.append(_tokenizer_question(fields, known_tokenizer))
    outcome = {"form": form, "notes": notes, "fields": fields or {}, "questions": asks if answers is None else [], "runnable": False, "why": "", "problem": "", "lines": []}
    if fields is None:
        return outcome | {"why": notes.pop()}
    if outcome["questions"]:
        return outcome
    if no_tokenizer:
        _give_tokenizer(model, choice, fields, known_tokenizer, notes)
    if "tokenizer" in (answers or {}) and (problem := _misfit(model, fields)):
        return outcome | {"questions": [*questions, _tokenizer_question(fields, known_tokenizer)], "problem": problem}
    return outcome | _verdict(model, notes)


def _gather(incoming: Path, unpacked: Path, limit: int) -> tuple[dict[str, Path], list[str]]:
    """Files by name, archives unpacked, each file's content what its ending says."""
    notes, found = [], {}
    _fresh(unpacked)
    dropped = sorted(path for path in incoming.iterdir() if path.is_file() and not path.is_symlink())
    if not dropped:
        raise Refused("Nothing was uploaded; expected model.safetensors with config.json and tokenizer.json, or an archive of them.")
    for path in dropped:
        if path.stat().st_size == 0:
            raise Refused(f"{path.name} is empty. Upload it again.")
        if unpack.is_archive(path.name):
            inside = unpacked / str(len(list(unpacked.iterdir())))
            inside.mkdir()
            notes += unpack.unpack(path, inside, limit)
            dropped_in = sorted(inside.iterdir())
        else:
            dropped_in = [path]
        for file in dropped_in:
            if file.name in found:
                raise Refused(f"{file.name} was uploaded twice, loose and in an archive. Upload one model at a time.")
            if _expected(file, notes):
                found[file.name] = file
    return found, notes


def _expected(path: Path, notes: list[str]) -> bool:
    """True for a file that is read; Refused when its content belies its ending."""
    kind, ending = unpack.magic(path), path.suffix.lower()
    wanted = {".safetensors": ("safetensors",), ".gguf": ("gguf",), ".json": ("json",), ".bin": ("zip", "pickle"), ".pt": ("zip", "pickle"), ".pth": ("zip", "pickle")}
    if ending not in wanted:
        if path.name not in TOKENIZER:
            notes.append(f"{path.name}: not a file of a checkpoint, not opened")
        return path.name in TOKENIZER
    if ending == ".json" and path.name not in KNOWN_JSON:
        notes.append(f"{path.name}: not needed, not opened")
        return False
    if path.stat().st_size == 0:
        raise Refused(f"{path.name} is empty. Upload it again.")
    if kind not in wanted[ending]:
        if ending == ".safetensors" and kind == "unknown":
            headers.read(path)  # says precisely what is wrong
        names = {"zip": "a zip or PyTorch pickle", "pickle": "a pickle", "gzip": "a gzip archive", "unknown": "unknown", "json": "JSON"}
        raise Refused(f"{path.name} is not what its ending says: its content is {names.get(kind, kind)}. Give it its right ending, or save it again as safetensors.")
    return True


def _weights(found: dict[str, Path], model: Path, notes: list[str], serving_others: bool, base: Path | None):
    """Put safetensors into `model` from whichever form came; (form, Guess or None)."""
    tensors = [path for name, path in found.items() if name.endswith(".safetensors") and name != "adapter_model.safetensors"]
    pickles = [path for name, path in found.items() if name.endswith((".bin", ".pt", ".pth"))]
    ggufs = [path for name, path in found.items() if name.endswith(".gguf")]
    if "adapter_model.safetensors" in found or "adapter_config.json" in found:
        return "adapter", _from_adapter(found, model, notes, base)
    if ggufs:
        from models.intake import gguf

        if len(ggufs) > 1 or tensors or pickles:
            raise Refused(f"Found {ggufs[0].name} together with other weights; expected one GGUF alone. Upload one model at a time.")
        notes += gguf.convert(ggufs[0], model)
        return "gguf", None
    if tensors:
        for path in tensors:
            os.link(path, model / path.name)
        if weights.INDEX in found:
            os.link(found[weights.INDEX], model / weights.INDEX)
        notes += [f"{path.name}: a pickle beside safetensors, not opened" for path in pickles]
        return "safetensors", _rename_foreign(model, notes)
    if pickles:
        if serving_others:
            raise Refused(f"{pickles[0].name} is a pickle; while this app serves others none is opened. Convert it on your machine: python -m models.convert {pickles[0].name} out/ and upload what is in out/.")
        lines, guess = _from_pickles(pickles, model)
        notes += lines
        return "pickle", guess
    raise Refused(f"Found {', '.join(sorted(found)) or 'no file of a checkpoint'} and no weights; expected model.safetensors (or shards, or a .gguf). Add the weights.")


def _from_pickles(paths: list[Path], folder: Path):
    from models.intake import pickles

    state, settings = {}, {}
    for path in sorted(paths):
        part, more = pickles.read(path)
        twice = set(part) & set(state)
        if twice:
            raise Refused(f"{shown(next(iter(twice)), 80)} is in two of the files: they are of different saves. Upload one model at a time.")
        state, settings = state | part, settings | more
    state, guess, lines = _mapped(state, settings)
    pickles.write(state, folder / "model.safetensors")
    headers.read(folder / "model.safetensors")
    return [f"{len(state)} tensors read from {', '.join(p.name for p in paths)} with weights_only=True", *lines], guess


def _mapped(state: dict, settings: dict):
    from models.intake import foreign

    kind = foreign.recognise({name: tuple(tensor.shape) for name, tensor in state.items()})
    if kind is None:
        return state, None, []
    state, guess = foreign.convert(kind, state, settings)
    return state, guess, list(guess.told)


def _rename_foreign(model: Path, notes: list[str]):
    """A safetensors file in nanoGPT's or TransformerLens's names is rewritten in transformers'."""
    from models.intake import foreign

    table = weights.read(model)
    if foreign.recognise({name: tensor.shape for name, tensor in table.tensors.items()}) is None:
        return None
    from safetensors.torch import load_file

    from models.intake import pickles

    state = {name: tensor for file in table.files for name, tensor in load_file(model / file).items()}
    state, guess, lines = _mapped(state, {})
    for path in list(model.iterdir()):
        path.unlink()
    pickles.write(state, model / "model.safetensors")
    notes += lines
    return guess


def _from_adapter(found: dict[str, Path], model: Path, notes: list[str], base: Path | None) -> None:
    from safetensors.torch import load_file

    from models.intake import adapters, pickles

    if "adapter_config.json" not in found or "adapter_model.safetensors" not in found:
        raise Refused("An adapter needs both adapter_model.safetensors and adapter_config.json; one is missing (adapter_model.bin is a pickle and not read). Add it.")
    options = adapters.settings(found["adapter_config.json"].parent)
    if base is None:
        raise Refused(f"This is a LoRA adapter (rank {options['r']}) on “{re.sub('[^A-Za-z0-9._/@-]', '?', options['base']) or 'a base it does not name'}”. Choose its base on the shelf, then open it again.")
    table, config = weights.read(base), configs.read(base)
    state = {name: tensor for file in table.files for name, tensor in load_file(base / file).items()}
    merged, lines = adapters.merge(state, found["adapter_model.safetensors"], options, config.model_type in ("gpt2", "openai-gpt"))
    pickles.write(merged, model / "model.safetensors")
    (model / "config.json").write_text(json.dumps(config.fields, indent=1))
    for name in TOKENIZER:
        if (base / name).is_file():
            (model / name).write_bytes((base / name).read_bytes())
    notes += lines


def _config(found: dict[str, Path], model: Path, guess, notes: list[str], answers: dict | None):
    """(fields or None when nothing can be said, questions as plain dicts); writes the believed config.json."""
    from models.intake import infer, trying

    if (model / "config.json").is_file():  # an adapter's base or a GGUF has brought its own
        clean = configs.read(model)
    elif "config.json" in found and guess is None:
        clean = configs.read(found["config.json"].parent)
    else:
        if guess is None:
            shapes = {name: tensor.shape for name, tensor in weights.read(model).tensors.items()}
            try:
                guess = infer.infer(shapes)
            except Refused as refusal:
                notes.append(str(refusal))
                return None, ()
            notes += [*guess.told, "config.json was missing: the fields above come from names and shapes"]
        if answers is None and not _no_tokenizer(model):
            guess = trying.tried(guess, model, weights.read(model).n_parameters, _complete)
        fields = _complete(guess, answers or {})
        (model / "config.json").write_text(json.dumps(fields, indent=1))
        return fields, tuple(asdict(question) for question in guess.questions)
    notes += [f"config.json: {line}" for line in clean.left_out]
    (model / "config.json").write_text(json.dumps(clean.fields, indent=1))
    return clean.fields, ()


def _complete(guess, answers: dict) -> dict:
    from models.intake import infer

    return configs.clean(infer.finish(infer.answered(guess, answers))).fields


def _no_tokenizer(model: Path) -> bool:
    return not any(all((model / name).is_file() for name in names) for names in (("tokenizer.json",), ("vocab.json", "merges.txt")))


def _tokenizer_question(fields: dict, known: str | None) -> dict:
    size = fields.get("vocab_size")
    size = size if isinstance(size, int) else 0
    options = ["numbers" if 0 < size <= vocabulary.MOST_NUMBERS else "none", *(["byte-level"] if size >= 256 else []), *(["known"] if known else [])]
    default = "known" if known else "byte-level" if 256 <= size <= 260 else options[0]
    text = f"The files have no tokenizer; the model knows {size:,} tokens. How is text turned into them?"
    return {"field": "tokenizer", "text": text, "default": default, "options": options}


def _give_tokenizer(model: Path, choice: object, fields: dict, known: str | None, notes: list[str]) -> None:
    if choice == "known" and known:
        for name in TOKENIZER:
            if (Path(known) / name).is_file():
                (model / name).write_bytes((Path(known) / name).read_bytes())
    elif choice == "byte-level":
        vocabulary.byte_level(fields.get("vocab_size", 0)).backend_tokenizer.save(str(model / "tokenizer.json"))
    elif choice not in ("numbers", "none"):
        raise Refused(f"tokenizer = {shown(choice, 40)} is not possible here; expected none, byte-level, numbers or known.")
    notes.append({"known": "tokenizer taken from a model on the shelf", "byte-level": "tokenizer: one token per byte of UTF-8"}.get(choice, "no tokenizer: text is token numbers"))


def _misfit(model: Path, fields: dict) -> str:
    """Why the chosen tokenizer is not this model's, or ""; then another one may be chosen."""
    try:
        vocabulary.load(model, fields.get("vocab_size"))
    except Refused as refusal:
        return str(refusal)
    return ""


def _verdict(model: Path, notes: list[str]) -> dict:
    """Config against weights, then the model itself on a sample; a refusal here still leaves the tensors to inspect."""
    from models import checkpoints, selfcheck

    table = weights.read(model)
    try:
        checkpoint = checkpoints.from_folder("upload", model)
        verdict = checkpoints.check(checkpoint)
        notes += [f"config.json: {line}" for line in verdict.left_out]
        vocabulary.trial(model)
        if table.n_bytes > 2 << 30:
            return {"runnable": True, "lines": ["Larger than 2 GB: checked when it is first loaded."]}
        module, tokenizer = checkpoints.load(checkpoint)
        result = selfcheck.run(module, tokenizer)
    except Refused as refusal:
        return {"runnable": False, "why": str(refusal), "details": list(refusal.details)[:2_000]}
    except skeleton.BUILD_ERRORS as error:
        return {"runnable": False, "why": f"The model loads but does not run ({configs.first_line(error)}). Its config and weights fit in shape only; use the config saved with them."}
    return {"runnable": result.finite, "why": "" if result.finite else result.lines[0], "lines": list(result.lines)}


def _fresh(folder: Path) -> None:
    """An empty folder, whatever an earlier attempt left."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
