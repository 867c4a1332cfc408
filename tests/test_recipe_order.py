"""Orders of a recipe that destroy what an earlier step stored are refused with the reason; sensible ones pass."""

import pytest

from models.refusal import Refused
from operators import parse

SENSIBLE = (
    "drop_layers:blocks=3~wanda~gptq", "sparsegpt~round_to_nearest", "round_to_nearest~magnitude", "gptq~drop_layers:blocks=3",
    "low_rank:which=attn~gptq:which=mlp", "gptq:which=attn,bits=8~gptq:which=mlp", "drop_layers:blocks=3~slice_gpt~share_blocks",
    "share_blocks~round_to_nearest", "gptq~share_blocks", "wanda:which=attn~sparsegpt:which=mlp",
    "tune_heads:heads=L0H1~gptq", "drop_layers:blocks=3~tune_heads", "tune_heads~slice_gpt", "modegpt~gptq", "masa~gptq:which=mlp", "masa~error_correction", "gptq~crash", "low_rank~crash", "crash~magnitude", "crash:rest=remove~gptq", "wanda~crash:rest=remove", "drop_layers:blocks=2~crash", "relaxed_recursive~error_correction", "drop_layers:blocks=3~relaxed_recursive", "relaxed_recursive~heal:train=norms", "share_blocks~dense_sparse:metric=none", "modegpt~wanda",
)
SENSELESS = {
    "round_to_nearest~sparsegpt": "prune first", "gptq~round_to_nearest": "a second time", "wanda~low_rank": "thin factors",
    "low_rank~round_to_nearest": "product of the factors", "wanda~magnitude": "second mask", "gptq~slice_gpt": "slice first",
    "slice_gpt~wanda": "old basis", "share_blocks~gptq": "share last", "gptq~share_blocks:representative=mean": "first or the centre",
    "gptq~tune_heads": "tune first", "wanda~tune_heads": "tune first", "slice_gpt~tune_heads": "old basis", "share_blocks~tune_heads": "share last",
    "gptq~modegpt": "narrow first", "flap~modegpt": "narrow first", "modegpt~flap": "chosen twice", "modegpt~hqq": "come back",
    "gptq~dense_sparse": "thin factors", "share_blocks~dense_sparse": "share last",
    "share_blocks~skip_loop": "in one chain", "masa~skip_loop": "in one chain", "relaxed_recursive~skip_loop": "in one chain", "skip_loop~relaxed_recursive": "in two ways",
    "share_blocks~relaxed_recursive": "in two ways", "relaxed_recursive~masa": "in two ways", "relaxed_recursive~gptq": "product of the factors",
    "wanda~relaxed_recursive": "thin factors", "relaxed_recursive~drop_layers:blocks=1": "drop first", "share_blocks~drop_layers:blocks=1": "drop first",
    "crash~skip_loop": "in one chain", "skip_loop~crash": "in one chain", "share_blocks~crash": "in two ways", "crash~relaxed_recursive": "in two ways", "crash~masa": "in two ways",
    "crash~gptq": "share last", "crash~drop_layers:blocks=1": "drop first", "crash~error_correction": "another place", "share_blocks~crash:rest=remove": "drop first",
    "share_blocks~masa": "no atoms of their own", "masa~gptq:which=all": "product of the factors",
    "wanda~tensor_network": "thin factors", "tensor_network~gptq": "product of the factors",
    "wanda~vector_quant": "come back", "vector_quant~magnitude": "no entry of the codebook", "vector_quant~gptq": "a second time",
    "gptq:which=attn~drop_layers:blocks=1~split_quant": "a second time",
}


@pytest.mark.parametrize("steps", SENSIBLE)
def test_sensible_orders_pass(steps):
    assert parse(f"demo/storyteller-a~{steps}").steps


@pytest.mark.parametrize("steps", SENSELESS)
def test_senseless_orders_are_refused_with_the_reason(steps):
    with pytest.raises(Refused, match=SENSELESS[steps]):
        parse(f"demo/storyteller-a~{steps}")
