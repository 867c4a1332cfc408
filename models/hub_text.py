"""Text from a `datasets` id; imported only when such a corpus is asked for, `datasets` being slow to import."""

from __future__ import annotations

from models.refusal import Refused
from models.serving import public

MOST_DOCUMENTS = 20_000


def dataset_revision(name: str) -> str:
    """Commit hash of the data set on the hub; Refused when the hub cannot be reached."""
    from huggingface_hub import HfApi

    try:
        return HfApi(token=False if public() else None).dataset_info(name).sha
    except Exception as error:  # the hub client raises many kinds; each means the same to the reader
        raise Refused(f"The data set {name} could not be found on the hub ({type(error).__name__}); check the name and the network, or give a local file.") from None


def dataset_documents(name: str, split: str):
    """Yield Documents of the data set's `text` column, streamed, at most 20,000; other scalar columns are labels."""
    from datasets import load_dataset
    from models.corpus import Document

    revision = dataset_revision(name)
    try:
        rows = load_dataset(name, split=split, revision=revision, streaming=True, token=False if public() else None)
    except Exception as error:
        raise Refused(f"The data set {name} has no readable split “{split}” ({type(error).__name__}); see its page on the hub.") from None
    for i, row in enumerate(rows):
        if i == MOST_DOCUMENTS:
            return
        if not isinstance(row.get("text"), str):
            raise Refused(f"The data set {name} has no “text” column (it has {', '.join(row)}); export it to JSONL with a text field.")
        if row["text"].strip():
            yield Document(row["text"], {k: v for k, v in row.items() if k != "text" and isinstance(v, (str, int, float, bool))})
