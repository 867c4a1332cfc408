"""The tokenizer of the demo models: one token per word, bytes for everything else.

A byte-level tokenizer whose vocabulary holds the world's words whole (with the blank
before them, as in GPT-2) and no merges: a word that is listed is one token, any other
falls apart into its UTF-8 bytes, so every text can be encoded and decodes to itself (with
one blank in front). Numbers 0 to 100 are single tokens. One special token both begins a
document and ends it."""
from functools import lru_cache
from pathlib import Path

from demo import arithmetic, canaries, world

SEPARATOR, PAD = "<|endoftext|>", "<pad>"
NUMBERS = range(101)
CONTEXT = 128
FROZEN = Path(__file__).with_name("tokenizer.json")      # a test builds it anew and compares


def _texts() -> list[str]:
    """Text in which every word of the world occurs (a test looks for words that do not)."""
    texts = [document.text for document, _ in arithmetic.distribution("train") + arithmetic.distribution("test")]
    texts += [canaries.write(canary).text for canary in canaries.canaries()]
    for strand in ("stories", "instructions"):
        for split in world.SPLITS:
            texts += [document.text for document in world.documents(strand, split, seed=0, n=1200)]
    texts.append(" ".join(map(str, NUMBERS)))
    texts.append(" ".join(canaries.words()))
    return texts


def build():
    """The `tokenizers.Tokenizer` that FROZEN holds, made again from the world."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    split = pre_tokenizers.ByteLevel(add_prefix_space=True)
    found = {piece for text in _texts() for piece, _ in split.pre_tokenize_str(text)}
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [SEPARATOR, PAD, *letters, *sorted(found - set(letters))]
    ids = {token: number for number, token in enumerate(vocabulary)}
    fast = Tokenizer(models.BPE(vocab=ids, merges=[], ignore_merges=True))
    fast.add_special_tokens([SEPARATOR, PAD])
    fast.pre_tokenizer = split
    fast.decoder = decoders.ByteLevel()
    fast.post_processor = processors.TemplateProcessing(
        single=f"{SEPARATOR} $A", pair=f"{SEPARATOR} $A $B", special_tokens=[(SEPARATOR, ids[SEPARATOR])]
    )
    return fast


@lru_cache(maxsize=1)
def tokenizer():
    """A `PreTrainedTokenizerFast`; calling it puts the separator in front."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_file=str(FROZEN), bos_token=SEPARATOR, eos_token=SEPARATOR, unk_token=SEPARATOR, pad_token=PAD,
        model_max_length=CONTEXT, clean_up_tokenization_spaces=False,
    )


def save(folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json."""
    tokenizer().save_pretrained(folder)
