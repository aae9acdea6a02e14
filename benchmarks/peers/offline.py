"""Answers a file of chat rows with `vllm.LLM`: `offline.py chat|generate ROWS ANSWERS MODEL SETTINGS`."""

import json
import sys
from pathlib import Path

from vllm import LLM, SamplingParams


def main(how: str, rows: str, answers: str, model: str, settings: str) -> None:
    """Read all rows, answer them in one call, write all texts."""
    lines = [json.loads(line) for line in Path(rows).read_text(encoding="utf-8").splitlines()]
    engine = LLM(model, **json.loads(settings))
    params = [
        SamplingParams(
            temperature=line["body"]["temperature"],
            max_tokens=line["body"]["max_tokens"],
            ignore_eos=line["body"]["ignore_eos"],
        )
        for line in lines
    ]
    messages = [line["body"]["messages"] for line in lines]
    if how == "chat":
        outputs = engine.chat(messages, params, use_tqdm=False)
    else:
        tokenizer = engine.get_tokenizer()
        texts = [tokenizer.apply_chat_template(each, tokenize=False, add_generation_prompt=True) for each in messages]
        prompts = [{"prompt_token_ids": ids} for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
        outputs = engine.generate(prompts, params, use_tqdm=False)
    with Path(answers).open("w", encoding="utf-8") as file:
        file.writelines(
            json.dumps({"custom_id": line["custom_id"], "text": output.outputs[0].text}) + "\n"
            for line, output in zip(lines, outputs, strict=True)
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
