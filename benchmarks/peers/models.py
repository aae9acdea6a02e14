"""The models that benchmarks run, made on the spot; what they answer does not matter."""

import shutil
from pathlib import Path

from xbatch.demo import MODEL_PATH

CONTEXT_TOKENS = 2048
SHAPES = {
    "1M": None,  # the bundled one
    "33M": {"hidden_size": 512, "intermediate_size": 1600, "num_hidden_layers": 10, "num_attention_heads": 8},
}


def make_model(size: str, folder: Path) -> Path:
    """A folder with a model of about `size` parameters, seeded random weights and the bundled model's tokenizer."""
    shape = SHAPES[size]
    if shape is None:
        return MODEL_PATH
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    made = folder / f"model-{size}"
    if not made.exists():
        torch.manual_seed(7)
        config = Qwen2Config(
            **shape,
            num_key_value_heads=4,
            vocab_size=1280,
            max_position_embeddings=CONTEXT_TOKENS,
            tie_word_embeddings=True,
            eos_token_id=2,
            pad_token_id=0,
        )
        Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(made)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copyfile(MODEL_PATH / name, made / name)
    return made
