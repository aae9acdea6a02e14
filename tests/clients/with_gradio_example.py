"""The example's chat page on the Gradio of today, against xbatch."""

from itertools import pairwise
from pathlib import Path

from checking import ANSWER, OTHER_QUESTION, QUESTION, check, same
from driving_gradio import page

SCRIPT = str(Path(__file__).parents[2] / "examples/gradio_chat.py")


@check
def chats_and_streams() -> None:
    with page(SCRIPT) as client:
        asked = client.submit(QUESTION, 0, 64, api_name="/chat")
        same(asked.result(timeout=60), ANSWER)
        pieces = asked.outputs()
        assert len(pieces) > 1
        assert all(later.startswith(sooner) for sooner, later in pairwise(pieces))
        assert client.predict(OTHER_QUESTION, 0, 64, api_name="/chat")
