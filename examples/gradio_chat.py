"""A chat page in the browser over xbatch serve; answers appear as they are made.

pip install gradio openai

XBATCH_URL, XBATCH_MODEL and XBATCH_API_KEY say where the server is, which model to ask, and the key if it wants one;
GRADIO_SERVER_NAME and GRADIO_SERVER_PORT say where the page is to be.
"""

import os
from collections.abc import Iterator

import gradio as gr
import openai

URL = os.environ.get("XBATCH_URL", "http://127.0.0.1:8000")
MODEL = os.environ.get("XBATCH_MODEL", "demo")

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=os.environ.get("XBATCH_API_KEY", "none"))


def chat(question: str, history: list[dict], temperature: float, max_tokens: float) -> Iterator[str]:
    """The answer so far, longer each time."""
    said = [{"role": turn["role"], "content": turn["content"]} for turn in history]
    try:
        chunks = client.chat.completions.create(
            model=MODEL,
            messages=[*said, {"role": "user", "content": question}],
            temperature=temperature,
            max_tokens=int(max_tokens),
            stream=True,
        )
        text = ""
        for chunk in chunks:
            text += chunk.choices[0].delta.content or ""
            yield text
    except openai.OpenAIError as e:
        raise gr.Error(str(e)) from e


page = gr.ChatInterface(
    chat,
    title=f"Chat with {MODEL}",
    examples=[["What is the largest animal?"], ["What is the tallest animal?"], ["What is the largest bird?"]],
    cache_examples=False,
    additional_inputs=[
        gr.Slider(0, 2, value=0, step=0.1, label="Temperature"),
        gr.Slider(1, 1024, value=512, step=1, label="Most tokens of an answer"),
    ],
)

if __name__ == "__main__":
    page.launch()
