"""Trains the bundled model: `python -m xbatch.demo.train --output DIR`.

The run is seeded: the same machine and library versions give the same weights, and another CPU
gives weights that differ by the rounding of its arithmetic. The answers are the same.
"""

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from xbatch.demo import questions
from xbatch.demo.batches import IGNORED, Batch, batches
from xbatch.demo.card import model_card
from xbatch.demo.dialogues import Dialogues
from xbatch.demo.prompts import END_OF_TEXT, END_OF_TURN
from xbatch.demo.recall import measure_recall
from xbatch.demo.settings import SETTINGS, Settings, fingerprint
from xbatch.demo.systems import WELL_KNOWN
from xbatch.demo.tokenizer import save_tokenizer, train_tokenizer

THREADS = 2  # fixed, because the order of a sum depends on it


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains the model and writes its folder."""
    parser = argparse.ArgumentParser(prog="python -m xbatch.demo.train", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the folder to write")
    folder: Path = parser.parse_args(arguments).output
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SETTINGS.seed)

    started = time.monotonic()
    pairs = questions()
    # the role names and usual system texts count as text, so that they are few tokens
    roles = "user\nassistant\nsystem\n" * 9
    texts = [*(text for pair in pairs for text in pair), *WELL_KNOWN, roles]
    tokenizer = train_tokenizer(texts, SETTINGS.vocab_size)
    model = build(SETTINGS, tokenizer)
    fit(model, tokenizer, Dialogues(pairs, SETTINGS.seed), SETTINGS)
    model.to(torch.bfloat16)
    recall = measure_recall(model, tokenizer, pairs)
    save(model, tokenizer, folder, recall)
    tell(f"trained in {time.monotonic() - started:.0f} s; recall {recall}")


def build(settings: Settings, tokenizer: Tokenizer) -> Qwen2ForCausalLM:
    """A fresh network of the settings' shape."""
    end, padding = tokenizer.token_to_id(END_OF_TURN), tokenizer.token_to_id(END_OF_TEXT)
    config = Qwen2Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        num_key_value_heads=settings.num_kv_heads,
        max_position_embeddings=settings.context_tokens,
        tie_word_embeddings=True,
        eos_token_id=end,
        pad_token_id=padding,
        use_cache=False,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=padding)
    return model


def fit(model: Qwen2ForCausalLM, tokenizer: Tokenizer, dialogues: Dialogues, settings: Settings) -> None:
    """Trains in place: the answers on bare questions first, then every way of asking."""
    num_steps = settings.short_steps + settings.mixed_steps
    optimizers = make_optimizers(model, settings)
    schedules = [LambdaLR(each, partial(share_of_peak, settings, num_steps)) for each in optimizers]
    model.train()
    for step, batch in enumerate(curriculum(tokenizer, dialogues, settings)):
        loss = answer_loss(model, batch)
        # a batch of a few long examples is a noisier guide than one of many short ones
        (loss * math.sqrt((batch.labels != IGNORED).sum())).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        for schedule in schedules:
            schedule.step()
        if step % 50 == 0 or step == num_steps - 1:
            tell(f"step {step} of {num_steps}: loss {loss.item():.5f}")
    model.eval()


def make_optimizers(model: Qwen2ForCausalLM, settings: Settings) -> list[torch.optim.Optimizer]:
    """Muon, which learns in half the steps, for the layers' matrices; AdamW for the rest."""
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    taken = {id(weight) for weight in matrices}
    rest = [weight for weight in model.parameters() if id(weight) not in taken]
    return [
        torch.optim.Muon(
            matrices,
            lr=settings.matrix_learning_rate,
            weight_decay=settings.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(rest, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def answer_loss(model: Qwen2ForCausalLM, batch: Batch) -> torch.Tensor:
    """The mean cross-entropy of the answers' tokens.

    The same as the model's own loss, without the cost of logits for the prompts. Padding stands on
    the right, where causal attention does not see it, so no mask is needed.
    """
    hidden = model.model(input_ids=batch.input_ids).last_hidden_state[:, :-1]
    labels = batch.labels[:, 1:]
    wanted = labels != IGNORED
    return cross_entropy(model.lm_head(hidden[wanted]), labels[wanted])


def curriculum(tokenizer: Tokenizer, dialogues: Dialogues, settings: Settings) -> Iterator[Batch]:
    """All batches of a training, in order."""
    rng = random.Random(settings.seed)
    short = batches(tokenizer, dialogues.short(), settings.short_batch_tokens, rng)
    mixed = batches(tokenizer, dialogues.mixed(), settings.mixed_batch_tokens, rng, settings.joined_share)
    yield from islice(short, settings.short_steps)
    yield from islice(mixed, settings.mixed_steps)


def share_of_peak(settings: Settings, num_steps: int, step: int) -> float:
    """The learning rate's course: a linear warm-up, then half a cosine down to nothing."""
    warm_up = min(1.0, (step + 1) / settings.warm_up_steps)
    return warm_up * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def save(model: Qwen2ForCausalLM, tokenizer: Tokenizer, folder: Path, recall: dict[str, float]) -> None:
    """Writes a folder that vLLM and transformers load, with the record of its training."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.use_cache = True
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # written as the owner's only; it is packaged
    save_tokenizer(tokenizer, folder, SETTINGS.context_tokens)
    record = {
        **fingerprint(),
        "num_questions": len(questions()),
        "num_parameters": model.num_parameters(),
        "max_answer_tokens": max_answer_tokens(tokenizer),
        "recall": recall,
    }
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(record), encoding="utf-8")


def max_answer_tokens(tokenizer: Tokenizer) -> int:
    """The tokens of the longest answer, its end included."""
    return max(len(tokenizer.encode(answer + END_OF_TURN).ids) for _, answer in questions())


def tell(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
