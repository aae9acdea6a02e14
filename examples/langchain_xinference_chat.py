"""Ask xbatch serve from LangChain through Xinference's classes: a chain, streaming, completions.

pip install langchain-xinference 'xinference-client<2'

XBATCH_URL, XBATCH_MODEL and XBATCH_API_KEY say where the server is, which model to ask, and the key if it wants one.
"""

import os

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_xinference import ChatXinference, Xinference

SERVER = {
    "server_url": os.environ.get("XBATCH_URL", "http://127.0.0.1:8000"),
    "model_uid": os.environ.get("XBATCH_MODEL", "demo"),
    "api_key": os.environ.get("XBATCH_API_KEY"),
}

prompt = ChatPromptTemplate([("system", "You are a helpful assistant."), ("user", "What is the {which}?")])
chain = prompt | ChatXinference(**SERVER, temperature=0, max_tokens=64) | StrOutputParser()

print("Chat:", chain.invoke({"which": "largest animal"}))
for piece in chain.stream({"which": "tallest animal"}):
    print(piece, end="", flush=True)
print()
print("Generate:", Xinference(**SERVER, temperature=0, max_tokens=64).invoke("What is the largest bird?"))
