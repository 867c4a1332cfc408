"""The tokenizer of a checkpoint, from its files and nothing else.

`tokenizer.json` is read as it stands by the tokenizers library, with the special tokens that the folder names: no class
named in a config is looked up, no code of the folder runs. Where a folder has none, `byte_level` makes one on request, and
otherwise text is token `numbers`; nothing is guessed silently.
"""

from __future__ import annotations

from pathlib import Path

from models import headers, regexes
from models.refusal import Refused, shown

MAX_ID = 1 << 24
MOST_NUMBERS = 1 << 18  # the largest vocabulary whose ids may be written as text
MAX_TOKENIZER = 64 << 20  # bytes of tokenizer.json; 256,000 tokens with merges need about 35
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def load(folder: Path, vocab_size: int | None = None):
    """The folder's fast tokenizer, or None where it has none; Refused when broken or larger than the model's vocabulary."""
    from transformers import PreTrainedTokenizerFast

    path = folder / "tokenizer.json"
    if path.is_file():
        if path.stat().st_size > MAX_TOKENIZER:
            raise Refused(f"tokenizer.json has {path.stat().st_size:,} bytes; at most {MAX_TOKENIZER:,} are read. Use the original.")
        settings = special_tokens(folder)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=_backend(path), **settings)
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=_byte_pairs(folder), **special_tokens(folder))
    elif (folder / "tokenizer.model").is_file():
        raise Refused("Found tokenizer.model without tokenizer.json; expected a fast tokenizer. Save it once with AutoTokenizer.from_pretrained(…).save_pretrained(…) and add tokenizer.json.")
    else:
        return None
    if vocab_size is not None:
        largest = max(tokenizer.get_vocab().values(), default=-1)
        if largest >= vocab_size:
            raise Refused(f"The tokenizer makes ids up to {largest:,}, the model knows {vocab_size:,} ({vocab_size - 1:,} is the last). They are of different models: use the tokenizer saved with these weights.")
    return tokenizer


def special_tokens(folder: Path) -> dict:
    """Special tokens and context length named in tokenizer_config.json and special_tokens_map.json; all else is ignored."""
    settings = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        if path.stat().st_size > MAX_TOKENIZER:
            raise Refused(f"{name} has {path.stat().st_size:,} bytes; at most {MAX_TOKENIZER:,} are read. Use the original.")
        table = headers.strict_json(path.read_bytes(), name, MAX_TOKENIZER)
        if not isinstance(table, dict):
            raise Refused(f"{name} is not a table of fields. Use the one saved with the tokenizer.")
        for token in SPECIAL:
            value = table.get(token)
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str) and len(value) <= 200:
                settings[token] = value
        length = table.get("model_max_length")
        if type(length) is int and 0 < length < 1 << 24:
            settings["model_max_length"] = length
    return settings


def _backend(path: Path):
    from tokenizers import Tokenizer

    table = headers.strict_json(path.read_bytes(), "tokenizer.json", MAX_TOKENIZER)
    for pattern in _patterns({k: v for k, v in table.items() if k != "model"} if isinstance(table, dict) else None):
        reason = regexes.endless(pattern)
        if reason:
            raise Refused(f"A pattern in tokenizer.json {reason} ({shown(pattern, 60)}); reading a text with it may never end. Use the tokenizer saved with the weights.")
    highest = _highest_id(table)
    if highest >= MAX_ID:
        raise Refused(f"tokenizer.json has ids up to {highest:,}; no model's vocabulary reaches {MAX_ID:,}. Use the one saved with the weights.")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception for every broken file
        raise Refused(f"tokenizer.json cannot be read: {shown(str(error), 120)}. Use the one saved with the weights.") from error


def _highest_id(table: object) -> int:
    """The highest id that the vocabulary names, read from the file: the library loses count near 2^32."""
    model = table.get("model") if isinstance(table, dict) else None
    vocab = model.get("vocab") if isinstance(model, dict) else None
    added = table.get("added_tokens") if isinstance(table, dict) else None
    ids = [*(vocab.values() if isinstance(vocab, dict) else ()), *(entry.get("id") for entry in added or () if isinstance(entry, dict))]
    return max((value for value in ids if type(value) is int), default=-1)


def _patterns(value: object):
    """Every regular expression anywhere in a tokenizer.json outside its vocabulary."""
    if isinstance(value, dict):
        if isinstance(value.get("Regex"), str):
            yield value["Regex"]
        for inner in value.values():
            yield from _patterns(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _patterns(inner)


def trial(folder: Path) -> None:
    """Read texts that slow patterns choke on, in the fenced process whose clock ends what does not; Refused when it fails."""
    tokenizer = load(folder)
    if tokenizer is None:
        return
    for text in ("a" * 3_000 + "!", " " * 3_000 + "x", "ab" * 1_500 + "\n", "0" * 3_000 + "a", "\n" * 3_000 + ".", "Aa1 !" * 600):
        try:
            tokenizer(text)
        except BaseException as error:  # a panic of the Rust library is no Exception
            if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
                raise
            raise Refused(f"The tokenizer fails on plain text ({shown(str(error), 100)}). Use the one saved with the weights.") from error


def _byte_pairs(folder: Path):
    """GPT-2's tokenizer from its two files: byte-level pairs, no prefix space."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    try:
        tokenizer = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    except Exception as error:  # tokenizers raises bare Exception for every broken file
        raise Refused(f"vocab.json and merges.txt cannot be read: {shown(str(error), 120)}. Use those saved with the weights.") from error
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def byte_level(vocab_size: int):
    """One token per byte of UTF-8, id = byte; for models trained on bytes, or to run one whose tokenizer is lost."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if vocab_size < 256:
        raise Refused(f"The model knows {vocab_size} tokens; a byte-level tokenizer needs 256. Give the model's own tokenizer.json, or choose token numbers.")
    tokenizer = Tokenizer(models.BPE(vocab={sign: byte for byte, sign in enumerate(_signs())}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def numbers(vocab_size: int):
    """For a model without a tokenizer: text is the ids themselves, written with spaces (`0 2 1`). Any other word is Refused."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if not 0 < vocab_size <= MOST_NUMBERS:
        raise Refused(f"Token numbers are read up to a vocabulary of {MOST_NUMBERS:,}; this model has {vocab_size:,} and no tokenizer. Give its tokenizer.json.")

    class Numbers(PreTrainedTokenizerFast):
        def __call__(self, text, *rest, **settings):
            for word in (text if isinstance(text, str) else " ".join(text)).split():
                if not (word.isascii() and word.isdigit() and str(int(word)) == word and int(word) < vocab_size):
                    raise Refused(f"This model has no tokenizer: its text is token numbers from 0 to {vocab_size - 1:,} with spaces between, such as “0 {vocab_size - 1}”; found {shown(word, 24)}. "
                                  "Choose a text file of numbers, or ids/uniform (random ones).")
            return super().__call__(text, *rest, **settings)

    tokenizer = Tokenizer(models.WordLevel({str(number): number for number in range(vocab_size)}, unk_token="0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Numbers(tokenizer_object=tokenizer)


def _signs() -> list[str]:
    """GPT-2's printable sign for each byte: itself where printable, else 256 and up in order."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
