"""Tiny random checkpoints as Hugging Face folders, with a word-level tokenizer; made by tests, trusted by nobody."""

from pathlib import Path

import torch

WORDS = [f"w{i}" for i in range(28)]


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {w: i for i, w in enumerate(["<bos>", "<eos>", "<pad>", "<unk>", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")


def gpt2(n_layers=3, d_model=16, n_heads=2, seed=0):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2Config(n_layer=n_layers, n_embd=d_model, n_head=n_heads, n_positions=64, vocab_size=32,
                                      bos_token_id=0, eos_token_id=1, pad_token_id=2)).eval()


def llama(n_layers=3, d_model=16, n_heads=4, n_kv=2, seed=0):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(num_hidden_layers=n_layers, hidden_size=d_model, intermediate_size=24, num_attention_heads=n_heads,
                                        num_key_value_heads=n_kv, max_position_embeddings=64, vocab_size=32, tie_word_embeddings=False,
                                        bos_token_id=0, eos_token_id=1, pad_token_id=2)).eval()


def save(model, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def text(n_words=4_000, seed=0) -> str:
    generator = torch.Generator().manual_seed(seed)
    return " ".join(WORDS[i] for i in torch.randint(len(WORDS), (n_words,), generator=generator))
