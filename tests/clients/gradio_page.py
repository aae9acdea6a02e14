"""A chat page as the first ones over Xinference were: client 0.14, Gradio 4, the model launched before it is asked.

It is told endpoint and model as that example was, and calls client and Gradio in the same way.
"""

import argparse

import gradio as gr
from xinference_client import RESTfulClient

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--endpoint", required=True)
parser.add_argument("--model_name", required=True)
parser.add_argument("--model_size_in_billions", type=int)
parser.add_argument("--model_format")
parser.add_argument("--quantization")
given = parser.parse_args()

client = RESTfulClient(given.endpoint)
uid = client.launch_model(
    given.model_name,
    model_size_in_billions=given.model_size_in_billions,
    model_format=given.model_format,
    quantization=given.quantization,
    n_ctx=2048,
)
model = client.get_model(uid)


def answer(message: str, history: list[list[str]]) -> str:
    """The model's answer to a message after pairs of question and answer."""
    turns = []
    for question, reply in history:
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    config = {"max_tokens": 512, "stream": False}
    done = model.chat(prompt=message, chat_history=turns, generate_config=config)
    return done["choices"][0]["message"]["content"]


gr.ChatInterface(fn=answer, analytics_enabled=False, examples=["Write a haiku."], title="Chat").launch()
