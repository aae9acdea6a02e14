"""Ask xbatch serve with Xinference's client, without and with asyncio: models, chat, generate, streaming.

pip install xinference-client

With the whole of Xinference installed, `from xinference.client import RESTfulClient` is the same client.
XBATCH_URL, XBATCH_MODEL and XBATCH_API_KEY say where the server is, which model to ask, and the key if it wants one.
"""

import asyncio
import os

from xinference_client import AsyncRESTfulClient, RESTfulClient

URL = os.environ.get("XBATCH_URL", "http://127.0.0.1:8000")
MODEL = os.environ.get("XBATCH_MODEL", "demo")
API_KEY = os.environ.get("XBATCH_API_KEY")
MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is the largest animal?"},
]
CONFIG = {"max_tokens": 64, "temperature": 0}


def ask() -> None:
    """Look at the models, then chat and generate."""
    client = RESTfulClient(URL, api_key=API_KEY)
    print("Models:", list(client.list_models()))
    print("Abilities:", client.describe_model(MODEL)["model_ability"])
    # xbatch serves one model from its start on, so that launching it gives its name, and another one is refused.
    model = client.get_model(client.launch_model(MODEL))
    print("Chat:", model.chat(MESSAGES, generate_config=CONFIG)["choices"][0]["message"]["content"])
    print("Generate:", model.generate("What is the tallest animal?", generate_config=CONFIG)["choices"][0]["text"])
    for chunk in model.chat(MESSAGES, generate_config=CONFIG | {"stream": True}):
        print(chunk["choices"][0]["delta"]["content"], end="", flush=True)
    print()


async def ask_several(questions: list[str]) -> None:
    """Ask all questions at once, and have one more answer streamed."""
    client = AsyncRESTfulClient(URL, api_key=API_KEY)
    model = await client.get_model(MODEL)
    asked = (model.chat([{"role": "user", "content": question}], generate_config=CONFIG) for question in questions)
    for answer in await asyncio.gather(*asked):
        print("Chat:", answer["choices"][0]["message"]["content"])
    async for chunk in await model.generate("What is the largest bird?", generate_config=CONFIG | {"stream": True}):
        print(chunk["choices"][0]["text"], end="", flush=True)
    print()
    await client.close()


if __name__ == "__main__":
    ask()
    asyncio.run(ask_several(["What is the tallest animal?", "What is the smallest bird?"]))
