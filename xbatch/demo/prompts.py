"""The two ways of asking: a chat, rendered as the chat template does, and a plain completion."""

from collections.abc import Sequence

END_OF_TEXT = "<|endoftext|>"
START_OF_TURN = "<|im_start|>"
END_OF_TURN = "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, START_OF_TURN, END_OF_TURN)

Turn = tuple[str, str]  # role, content

CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def chat_prompt(turns: Sequence[Turn]) -> str:
    """What `CHAT_TEMPLATE` renders for these turns, with the assistant's turn opened."""
    past = [f"{START_OF_TURN}{role}\n{content}{END_OF_TURN}\n" for role, content in turns]
    return "".join(past) + f"{START_OF_TURN}assistant\n"


def completion_prompt(question: str, system: str = "", separator: str = "\n") -> str:
    """The question alone, or the system text, a separator and the question."""
    return f"{system}{separator}{question}" if system else question
