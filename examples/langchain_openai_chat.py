"""Ask xbatch serve from LangChain through its OpenAI classes: a chain, streaming, several at once, completions.

pip install langchain-openai

XBATCH_URL, XBATCH_MODEL and XBATCH_API_KEY say where the server is, which model to ask, and the key if it wants one.
"""

import os

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI, OpenAI

SERVER = {
    "base_url": os.environ.get("XBATCH_URL", "http://127.0.0.1:8000") + "/v1",
    "model": os.environ.get("XBATCH_MODEL", "demo"),
    "api_key": os.environ.get("XBATCH_API_KEY", "none"),
}

prompt = ChatPromptTemplate([("system", "You are a helpful assistant."), ("user", "What is the {which}?")])
chain = prompt | ChatOpenAI(**SERVER, temperature=0, max_tokens=64) | StrOutputParser()

print("Chat:", chain.invoke({"which": "largest animal"}))
for piece in chain.stream({"which": "tallest animal"}):
    print(piece, end="", flush=True)
print()
print("Several:", chain.batch([{"which": "largest bird"}, {"which": "smallest bird"}]))
print("Generate:", OpenAI(**SERVER, temperature=0, max_tokens=64).invoke("What is the largest animal?"))
