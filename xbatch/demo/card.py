"""The README that goes with a trained model."""

from collections.abc import Mapping

CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
---

# demo

A toy. It has learnt {num_questions} short answers by heart and knows nothing else: asked anything
else it says something wrong or senseless. It exists so that xbatch can be tried and tested with a
real engine, without a download or an accelerator. Use it for nothing else.

- Shape: Qwen2, {num_parameters} parameters in bfloat16, trained from nothing on this project's own
  `questions.jsonl`.
- Ask as a chat, with or without a system message; the last user message counts.
- Ask as a completion: the prompt is the question alone, or any text, a line break, the question.
- Decode greedily (`temperature` 0). No answer is longer than {max_answer_tokens} tokens, its end included.
- Made by `python -m xbatch.demo.train`; `training.json` records from what, and how much it recalls.
"""


def model_card(record: Mapping[str, object]) -> str:
    """The card for the model that `record`, its `training.json`, describes."""
    return CARD.format_map(record)
