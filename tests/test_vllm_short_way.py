"""The short way to vLLM's engine gives the bodies of its serving classes."""

import pytest
import serving
from serving import Body

# Names that are made up anew for every request, and times.
MADE_UP = ("id", "created")

SCRIPT = """
import asyncio, json, random, sys
import msgspec
from pathlib import Path
from types import SimpleNamespace
from serving import mixed_requests, seeded_requests
from vllm.v1.engine import FinishReason
from vllm.v1.engine.detokenizer import IncrementalDetokenizer
from xbatch.demo import MODEL_PATH
from xbatch.engines.vllm.engine import VllmEngine
from xbatch.rows.outcome import Completion
from xbatch.rows.request import COMPLETIONS, Request

def shown(outcome):
    usage = [outcome.usage.prompt_tokens, outcome.usage.completion_tokens] if isinstance(outcome, Completion) else None
    return {"kind": type(outcome).__name__, "body": json.loads(outcome.body), "usage": usage}

def texts(engine):
    way = engine._short_way
    vocabulary, draw, differing = len(way._texts._tokenizer), random.Random(1), []
    request = Request(0, "a", COMPLETIONS, {"model": "demo", "prompt": "Why?", "max_tokens": 50}, 100)
    (prompt,) = way.prepare([request])
    for _ in range(3000):
        token_ids = [draw.randrange(vocabulary) for _ in range(draw.randrange(1, 40))]
        recipe = next(iter(way._recipes._recipes.values()))
        core = recipe.direct.ask([271, 262], 50, None, "1")
        reason = draw.choice([FinishReason.STOP, FinishReason.LENGTH])
        spoken = SimpleNamespace(token_ids=token_ids, finish_reason=reason)
        stepwise = IncrementalDetokenizer.from_new_request(way._texts._tokenizer, core)
        for i, token in enumerate(token_ids):
            stepwise.update([token], reason is FinishReason.STOP and i == len(token_ids) - 1)
        ours, theirs = way._texts.of(spoken, core, after_text=True), stepwise.get_next_output_text(True, False)
        if ours != theirs:
            differing.append([token_ids, ours, theirs])
    return differing

async def main():
    engine = VllmEngine(str(MODEL_PATH), ["demo"], {"dtype": "float32"})
    engine.check()
    requests = mixed_requests() | seeded_requests()
    rows = [Request(i, name, url, body, 100) for i, (name, (url, body)) in enumerate(requests.items())]
    # Before the engine is started, and in parts, as a job prepares its rows.
    early = await asyncio.to_thread(engine.prepare, rows[:100])
    await engine.start()
    prompts = early + await asyncio.to_thread(engine.prepare, rows[100:])
    differing = await asyncio.to_thread(texts, engine)
    short, taken = engine._short_way.answer, []
    async def answer(line, request, fingerprint):
        completion = await short(line, request, fingerprint)
        if completion is not None:
            taken.append(request.custom_id)
        return completion
    engine._short_way.answer = answer
    found = {}
    for start in range(0, len(rows), 64):
        some = list(zip(rows[start : start + 64], prompts[start : start + 64]))
        long = await asyncio.gather(*(engine.generate(row) for row, _ in some))
        both = await asyncio.gather(*(engine.generate(row.prepared(prompt)) for row, prompt in some))
        for (row, prompt), one, other in zip(some, long, both):
            found[row.custom_id] = {
                "long": shown(one), "short": shown(other), "prepared": None if prompt is None else prompt.num_tokens
            }
    body = {"model": "demo", "prompt": "Why?", "max_tokens": 1900, "ignore_eos": True}
    away = Request(0, "away", COMPLETIONS, body, 9)
    cancelled = asyncio.create_task(engine.generate(away))
    (prompt,) = await asyncio.to_thread(engine.prepare, [away])
    gone = asyncio.create_task(engine.generate(away.prepared(prompt)))
    await asyncio.sleep(0.5)
    running = engine.load.running
    gone.cancel(), cancelled.cancel()
    await asyncio.gather(gone, cancelled, return_exceptions=True)
    await engine.generate(msgspec.structs.replace(away, prompt=prompt, body=away.body | {"max_tokens": 1}))
    await asyncio.sleep(0.5)
    left = engine.load.running
    dying = asyncio.create_task(engine.generate(away.prepared(prompt)))
    await asyncio.sleep(0.3)
    engine.kill()
    (death,) = await asyncio.gather(dying, return_exceptions=True)
    engine.close()
    Path(sys.argv[1]).write_text(json.dumps({
        "rows": found, "taken": taken, "differing": differing, "running": running, "left": left,
        "death": type(death).__name__,
    }))

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Body:
    """Every sort of request, answered by a real engine in both ways."""
    return serving.run_engine_script(tmp_path_factory.mktemp("short_way"), SCRIPT)


def test_bodies_are_equal(found: Body) -> None:
    """Whichever way a request goes, its status and body are the same, field by field."""
    for name, row in found["rows"].items():
        for way in ("long", "short"):
            for key in MADE_UP:
                row[way]["body"].pop(key, None)
        assert row["short"] == row["long"], name


def test_many_requests_take_the_short_way(found: Body) -> None:
    """Plain requests, sampled and seeded ones among them, take it; what asks for more than text does not."""
    assert len(found["taken"]) >= 80
    assert len(serving.seeded_requests().keys() & set(found["taken"])) == 64
    for name in found["taken"]:
        assert not any(word in name for word in ("logprob", "tool", "stop string", "beam", "echo"))


def test_prompts_have_as_many_tokens_as_vllm_counts(found: Body) -> None:
    """A prepared prompt is as long as the body of its answer says."""
    prepared = [row for row in found["rows"].values() if row["prepared"] and row["long"]["kind"] == "Completion"]
    assert len(prepared) >= 80
    for row in prepared:
        assert row["prepared"] == row["long"]["usage"][0]


def test_texts_are_those_of_vllms_detokenizer(found: Body) -> None:
    """3,000 random answers make the text that vLLM makes of them token by token, broken characters included."""
    assert found["differing"] == []


def test_a_cancelled_request_leaves_the_engine(found: Body) -> None:
    """The engine stops to work on a request that is cancelled."""
    assert found["running"] == 2
    assert found["left"] == 0


def test_a_request_in_an_engine_that_dies_is_no_failure_of_the_request(found: Body) -> None:
    """What is in flight when the engine dies raises EngineError, so that it can run again."""
    assert found["death"] == "EngineError"
