"""Ask xbatch serve from LlamaIndex through OpenAILike: chat, streaming, completions.

pip install llama-index-llms-openai-like

LlamaIndex's own class Xinference works with no Xinference client after 0.14.4, whatever the server; this one does.
XBATCH_URL, XBATCH_MODEL and XBATCH_API_KEY say where the server is, which model to ask, and the key if it wants one.
"""

import os

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

SERVER = {
    "api_base": os.environ.get("XBATCH_URL", "http://127.0.0.1:8000") + "/v1",
    "model": os.environ.get("XBATCH_MODEL", "demo"),
    "api_key": os.environ.get("XBATCH_API_KEY", "none"),
    "temperature": 0,
    "max_tokens": 64,
}

llm = OpenAILike(**SERVER, is_chat_model=True)
print("Chat:", llm.chat([ChatMessage(role="user", content="What is the largest animal?")]).message.content)
for piece in llm.stream_chat([ChatMessage(role="user", content="What is the tallest animal?")]):
    print(piece.delta, end="", flush=True)
print()
print("Generate:", OpenAILike(**SERVER, is_chat_model=False).complete("What is the largest bird?").text)
