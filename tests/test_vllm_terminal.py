"""What a job on vLLM's real engine shows on a terminal."""

import re
from pathlib import Path

from pseudo_terminal import on_terminal
from serving import batch_line, command, environment, output_of, write_rows

from xbatch.demo import questions

REFUSED = {"model": "demo", "temperature": 0, "messages": [{"role": "user", "content": "Why?"}]}
VLLMS_OWN = re.compile(r"INFO|WARNING|ERROR|EngineCore|\(APIServer|it/s\]|vllm/")


def test_the_screen_has_no_line_of_vllms(tmp_path: Path) -> None:
    """The screen has the bar and xbatch's own sentences, why rows failed among them; vllm.log has what vLLM prints."""
    asked = [{"model": "demo", "messages": [{"role": "user", "content": each}]} for each, _ in questions()[:2]]
    bodies = [*asked, *({**REFUSED, "n": n} for n in (2, 3)), {**REFUSED, "max_tokens": 100_000}]
    url = "/v1/chat/completions"
    rows = write_rows(tmp_path / "in.jsonl", [batch_line(str(i), url, body) for i, body in enumerate(bodies)])
    seen = on_terminal(command(rows), tmp_path, environment())
    assert seen.returncode == 1, seen.text
    assert "loading" in seen.text
    settings, *lines = seen.lines
    assert settings.startswith("vLLM ")
    assert not VLLMS_OWN.search(seen.text.replace(settings, "")), seen.text
    text = "\n".join(lines)
    greedy = r"^failed +400 n must be 1 when using greedy sampling.*: 2 rows, first in .*in.jsonl:3 "
    assert re.search(greedy, text, re.MULTILINE)
    assert re.search(r"^failed +400 max_tokens=100000 .*: 1 row, in .*in.jsonl:5 ", text, re.MULTILINE)
    log = Path(f"{output_of(rows)}.xbatch/vllm.log").read_text()
    assert "EngineCore" in log
