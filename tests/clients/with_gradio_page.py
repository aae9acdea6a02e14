"""The Gradio page of Xinference's documents, on the versions that it was written for, against xbatch."""

from pathlib import Path

from checking import MODEL, QUESTION, URL, check
from driving_gradio import page

SCRIPT = str(Path(__file__).with_name("gradio_page.py"))
AS_DOCUMENTED = ("--model_size_in_billions", "7", "--model_format", "ggmlv3", "--quantization", "q2_K")


@check
def launches_the_model_and_chats() -> None:
    with page(SCRIPT, "--endpoint", URL, "--model_name", MODEL, *AS_DOCUMENTED) as client:
        # The page asks at the server's own temperature, so an answer is all that is known.
        assert client.predict(QUESTION, api_name="/chat")
        assert client.predict("And the tallest?", api_name="/chat")
