"""LlamaIndex's class Xinference with the Xinference client of today: the two do not fit, whatever the server."""

from checking import MODEL, QUESTION, URL, check, raises, same, whole_xinference
from llama_index.llms.xinference import Xinference


@check
def finds_the_model_but_calls_the_client_as_it_was() -> None:
    with whole_xinference():
        llm = Xinference(model_uid=MODEL, endpoint=URL)
    same(llm.context_window, 2048)
    with raises(TypeError, "prompt"):
        llm.complete(QUESTION)
