"""The bundled model `demo`: a toy that has learnt a few answers by heart."""

import json
from pathlib import Path

BUNDLED = "demo"
"""The model's name."""
MODEL_PATH: Path = Path(__file__).parent / "model"
QUESTIONS_PATH: Path = Path(__file__).parent / "questions.jsonl"


def questions() -> list[tuple[str, str]]:
    """Every (question, answer) the demo model knows, in file order."""
    lines = QUESTIONS_PATH.read_text(encoding="utf-8").splitlines()
    pairs = [json.loads(line) for line in lines]
    return [(pair["question"], pair["answer"]) for pair in pairs]


__all__ = ["BUNDLED", "MODEL_PATH", "QUESTIONS_PATH", "questions"]
