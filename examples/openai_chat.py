"""Ask xbatch serve with OpenAI's client: chat, streaming, completions, models, and a batch through files.

pip install openai

XBATCH_URL, XBATCH_MODEL and XBATCH_API_KEY say where the server is, which model to ask, and the key if it wants one.
"""

import json
import os
import time

import openai

URL = os.environ.get("XBATCH_URL", "http://127.0.0.1:8000")
MODEL = os.environ.get("XBATCH_MODEL", "demo")
QUESTIONS = ["What is the largest animal?", "What is the tallest animal?", "What is the largest bird?"]

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=os.environ.get("XBATCH_API_KEY", "none"))


def chat(question: str) -> str | None:
    """The answer of the Chat API."""
    messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": question}]
    answer = client.chat.completions.create(model=MODEL, messages=messages, temperature=0, max_tokens=64)
    return answer.choices[0].message.content


def stream(question: str) -> None:
    """Print the answer as it comes."""
    messages = [{"role": "user", "content": question}]
    for chunk in client.chat.completions.create(model=MODEL, messages=messages, temperature=0, stream=True):
        print(chunk.choices[0].delta.content, end="", flush=True)
    print()


def generate(prompt: str) -> str:
    """What the Generate API makes of a prompt."""
    return client.completions.create(model=MODEL, prompt=prompt, temperature=0, max_tokens=64).choices[0].text


def batch(questions: list[str]) -> None:
    """Print the answer to each question, in their order; the batch goes on if this script or the server is stopped."""
    rows = [
        {
            "custom_id": str(number),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": MODEL, "messages": [{"role": "user", "content": question}], "temperature": 0},
        }
        for number, question in enumerate(questions)
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = client.files.create(file=("questions.jsonl", content), purpose="batch")
    made = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    while made.status not in {"completed", "failed", "expired", "cancelled"}:
        time.sleep(0.5)
        made = client.batches.retrieve(made.id)
    if made.output_file_id is None:
        raise SystemExit(f"The batch is {made.status}: {made.errors}")
    for line in client.files.content(made.output_file_id).text.splitlines():
        response = json.loads(line)
        print(response["custom_id"], response["response"]["body"]["choices"][0]["message"]["content"])


if __name__ == "__main__":
    print("Models:", [model.id for model in client.models.list()])
    print("Chat:", chat(QUESTIONS[0]))
    print("Generate:", generate(QUESTIONS[1]))
    stream(QUESTIONS[2])
    batch(QUESTIONS)
