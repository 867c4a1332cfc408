"""From files that somebody dropped to a folder that models.checkpoints can load, or a sentence on why not.

    outcome = take(incoming, folder)                      nothing is opened in this process
    outcome.questions                                     what must be asked (heads, activation, tokenizer …)
    take(incoming, folder, answers={"n_head": 4})         the same with answers
    outcome.runnable, outcome.why                         a model to load, or tensors to inspect and the reason

Everything that reads a byte of the files runs in the fenced process of models/intake/isolate.py. Uploads belong to the
shelf (models/uploads.py); a folder or hub name needs no intake.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models.intake import isolate
from models.intake.infer import Question
from models.refusal import Refused, shown

UNPACKED_LIMIT = 8 << 30  # bytes that an archive may become


@dataclass(frozen=True)
class Outcome:
    """`model` holds safetensors, a believed config.json and a tokenizer; `notes` say what was found, changed and left out."""

    model: Path
    form: str  # safetensors, pickle, gguf or adapter
    fields: dict  # config as believed or inferred
    questions: tuple[Question, ...]
    runnable: bool
    why: str  # the sentence where it is not runnable
    details: tuple[str, ...]
    notes: tuple[str, ...]
    checks: tuple[str, ...]  # the self-check's lines
    problem: str = ""  # why an answer did not do, where questions are asked again


def take(
    incoming: Path, folder: Path, answers: dict | None = None, serving_others: bool = False, base: Path | None = None,
    known_tokenizer: Path | None = None, limits: isolate.Limits = isolate.Limits(), unpacked_limit: int = UNPACKED_LIMIT,
) -> Outcome:
    """Prepare the files in `incoming` (below `folder`) as `folder`/model.

    `answers` None asks whatever must be asked; a dict (even empty: all proposals accepted) goes on to the checks. `base`
    is the folder of an adapter's base, `known_tokenizer` one whose tokenizer may be taken. Raises Refused for files that
    are broken or hostile.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arguments = {
        "incoming": str(incoming.resolve()), "folder": str(folder.resolve()), "limit": unpacked_limit, "serving_others": serving_others, "answers": answers,
        "base": str(base.resolve()) if base else None, "known_tokenizer": str(known_tokenizer.resolve()) if known_tokenizer else None,
    }
    readable = tuple(path for path in (incoming, base, known_tokenizer) if path)
    done = isolate.run("prepare", arguments, folder, readable, limits)
    _only_files(folder / "model")
    questions = tuple(Question(q["field"], q["text"], q["default"], tuple(q["options"])) for q in done["questions"])
    return Outcome(
        folder / "model", done["form"], done["fields"], questions, done["runnable"], done["why"], tuple(done.get("details", ())),
        tuple(done["notes"]), tuple(done["lines"]), done["problem"],
    )


def _only_files(model: Path) -> None:
    """The process that read the files is not trusted either: no link of its making is followed afterwards."""
    odd = [path.name for path in model.rglob("*") if path.is_symlink() or not path.is_file()]
    if odd:
        raise Refused(f"Reading the files left something that is no plain file ({shown(odd[0])}); the upload is not used. Upload the original again.")
