"""Text from a `datasets` id; imported only when such a corpus is asked for, `datasets` being slow to import."""

from __future__ import annotations

from itertools import islice

from models.refusal import Refused
from models.serving import public


def dataset_revision(name: str) -> str:
    """Commit hash of the data set on the hub; Refused when the hub cannot be reached."""
    from huggingface_hub import HfApi

    try:
        return HfApi(token=False if public() else None).dataset_info(name).sha
    except Exception as error:  # the hub client raises many kinds; each means the same to the reader
        raise Refused(f"The data set {name} could not be found on the hub ({type(error).__name__}); check the name and the network, or give a local file.") from None


def dataset_documents(name: str, split: str, most: int):
    """Yield Documents of the data set's rows, streamed, at most `most`; a row is read as models.documents reads one."""
    from models.documents import documents

    yield from documents(islice(rows(name, split), most), f"the data set {name}", "row")


def rows(name: str, split: str):
    """Rows of a split as dictionaries, streamed."""
    from datasets import load_dataset

    revision = dataset_revision(name)
    try:
        yield from load_dataset(name, split=split, revision=revision, streaming=True, token=False if public() else None)
    except Exception as error:  # whatever the library or the network raises: the reader can do the same about it
        raise Refused(f"The split “{split}” of the data set {name} cannot be read ({type(error).__name__}); see its page on the hub, try :train or :test, or give a local file.") from None
