"""The bundled model's pure parts: its questions, its folder and the record of its training."""

import json
import random
import subprocess
import sys
from itertools import islice

import jinja2
import pytest

from xbatch.demo import MODEL_PATH, questions
from xbatch.demo.dialogues import Dialogues
from xbatch.demo.prompts import (
    CHAT_TEMPLATE,
    END_OF_TURN,
    SPECIAL_TOKENS,
    Turn,
    chat_prompt,
    completion_prompt,
)
from xbatch.demo.settings import fingerprint
from xbatch.demo.systems import write_system

RECORD = json.loads((MODEL_PATH / "training.json").read_text(encoding="utf-8"))


def render(turns: list[Turn]) -> str:
    """The committed chat template's text, rendered as transformers does."""
    source = (MODEL_PATH / "chat_template.jinja").read_text(encoding="utf-8")
    assert source == CHAT_TEMPLATE
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(source)
    messages = [{"role": role, "content": content} for role, content in turns]
    return template.render(messages=messages, add_generation_prompt=True)


def test_questions_are_many_and_distinct() -> None:
    """At least 150 pairs, no question twice, and no two that differ only in case."""
    asked = [question.casefold() for question, _ in questions()]
    assert len(asked) >= 150
    assert len(set(asked)) == len(asked)
    assert "what is the largest animal?" in asked


def test_pairs_are_short_single_lines() -> None:
    """Every question ends in a question mark, every answer is one short line."""
    for question, answer in questions():
        assert question.endswith("?")
        assert question == question.strip()
        assert answer == answer.strip()
        assert len(answer) <= 60
        assert answer.isprintable()


def test_model_is_small() -> None:
    """The whole folder stays under 4 MB."""
    sizes = [path.stat().st_size for path in MODEL_PATH.iterdir()]
    assert sum(sizes) < 4_000_000


def test_model_was_trained_on_these_questions_and_settings() -> None:
    """A changed question or setting calls for `python -m xbatch.demo.train`."""
    recorded = {key: RECORD[key] for key in fingerprint()}
    assert recorded == fingerprint()
    assert RECORD["num_questions"] == len(questions())


def test_model_recalls_what_it_learnt() -> None:
    """The training's own measurement, in bfloat16, found at least 95 % in every way of asking."""
    assert min(RECORD["recall"].values()) >= 0.95


def test_generation_config_leaves_sampling_to_the_request() -> None:
    """No sampling default can come between a request and its answer."""
    text = (MODEL_PATH / "generation_config.json").read_text(encoding="utf-8")
    assert set(json.loads(text)) <= {"eos_token_id", "pad_token_id", "transformers_version"}


def test_tokenizer_gives_back_every_text() -> None:
    """Questions, answers and texts never seen survive the way to tokens and back."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(MODEL_PATH / "tokenizer.json"))
    strange = ["", " ", "a  b\r\n\n\tc ", "é中文🙂", "3.14 != 22/7"]
    for text in [*(text for pair in questions() for text in pair), *strange]:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_special_tokens_are_single() -> None:
    """Each special token is one entry, and an answer fits the 16 tokens a completion defaults to."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(MODEL_PATH / "tokenizer.json"))
    assert all(len(tokenizer.encode(token).ids) == 1 for token in SPECIAL_TOKENS)
    lengths = [len(tokenizer.encode(answer + END_OF_TURN).ids) for _, answer in questions()]
    assert max(lengths) == RECORD["max_answer_tokens"] <= 16


@pytest.mark.parametrize(
    "turns",
    [
        [("user", "Hi")],
        [("system", ""), ("user", "Hi")],
        [("system", "Be brief.\n"), ("user", "Hi"), ("assistant", "Yes?"), ("user", " Hi\n")],
    ],
)
def test_training_renders_chats_as_the_template_does(turns: list[Turn]) -> None:
    """What the model saw in training is what it sees when served."""
    assert render(turns) == chat_prompt(turns)


def test_completion_prompt_puts_the_system_text_on_its_own_line() -> None:
    """Without a system text the prompt is the question alone."""
    assert completion_prompt("Why?") == "Why?"
    assert completion_prompt("Why?", "Be brief.") == "Be brief.\nWhy?"


def test_dialogues_are_seeded_and_ask_every_question_equally_often() -> None:
    """One round asks each question once, last in its prompt, and the same seed asks the same."""
    pairs = questions()
    for name in ("short", "mixed"):
        first, second = (list(islice(getattr(Dialogues(pairs, seed=5), name)(), len(pairs))) for _ in range(2))
        assert first == second
        assert sorted(example.answer for example in first) == sorted(answer for _, answer in pairs)


def test_system_texts_vary() -> None:
    """Texts range from a word to pages and are seldom the same."""
    rng = random.Random(1)
    texts = [write_system(rng, ["What is ice made of?"]) for _ in range(500)]
    assert len(set(texts)) > 300
    assert min(map(len, texts)) < 20
    assert max(map(len, texts)) > 400


def test_reading_the_questions_imports_nothing_heavy() -> None:
    """`xbatch.demo` costs a caller no torch, no transformers and no tokenizers."""
    code = (
        "import sys, xbatch.demo, xbatch.demo.settings; xbatch.demo.questions();"
        "print({'torch', 'transformers', 'tokenizers', 'vllm'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
