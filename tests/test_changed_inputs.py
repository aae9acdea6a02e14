"""Inputs that have moved, were signed anew, have grown or were mended between two runs of one command."""

import asyncio
import http.server
import json
import os
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import object_store
import pytest
import zstandard
from test_cli_run import ENV, SLOW, answering, chat, command, ids, listing, responses, run, start, wait_for, write

from xbatch.assemble.job import Job
from xbatch.job.spec import JobSpec
from xbatch.run import Stop

ROWS = 60
SECRET = "5ecret"


class _Served(http.server.SimpleHTTPRequestHandler):
    """Files below a folder, whatever the query says; every folder has the same ones."""

    root = Path()

    def translate_path(self, path: str) -> str:
        return str(self.root / path.partition("?")[0].rpartition("/")[2])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server that has `served.jsonl`."""
    write(tmp_path / "served.jsonl", [*[chat(i) for i in range(ROWS)], "nonsense"])
    handler = type("Served", (_Served,), {"root": tmp_path})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()


def signed(address: str, date: int) -> str:
    return f"{address}/served.jsonl?X-Amz-Date={date}&X-Amz-Signature={SECRET}{date}"


def everything(folder: Path) -> bytes:
    """All bytes that a job has left in a folder, those that were compressed too."""
    found = b""
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            is_zstd = data.startswith(b"\x28\xb5\x2f\xfd")
            found += data + (zstandard.ZstdDecompressor().decompressobj().decompress(data) if is_zstd else b"")
    return found


def test_renewed_address(server: str, tmp_path: Path) -> None:
    """A job goes on with a presigned address that was renewed, and its signature is neither told nor kept."""
    words = ("-o", "out.jsonl", "--max-failures", "1", "--errors", "errors.jsonl")
    process = start(tmp_path, signed(server, 1), *words, *SLOW)
    wait_for(process, answering(tmp_path / "out.jsonl.xbatch"))
    process.kill()
    told = b"".join(process.communicate(timeout=120))
    again = run(tmp_path, signed(server, 2), *words)
    assert again.returncode == 0, again.stderr
    assert b"settled already" in again.stderr
    assert ids(tmp_path / "out.jsonl") == [f"id-{i}" for i in range(ROWS)]
    (error,) = responses(tmp_path / "errors.jsonl")
    assert f"{server}/served.jsonl?***:{ROWS + 1}: " in error["error"]["message"]
    status = subprocess.run(
        [*command()[:3], "status", "--json", "out.jsonl"], cwd=tmp_path, env=ENV, capture_output=True, check=True
    )
    for kept in (told, again.stderr, status.stdout, everything(tmp_path)):
        assert SECRET.encode() not in kept


def test_output_folder_of_a_signed_address(server: str, tmp_path: Path) -> None:
    """In a folder of outputs the file is called as the object, without the signature."""
    assert run(tmp_path, signed(server, 1), "-o", "out/", "--max-failures", "1").returncode == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["served.responses.jsonl"]


def test_another_address(server: str, tmp_path: Path) -> None:
    """Under another path the object is accepted by --accept-change, if it has the size and version that it had."""
    words = ("-o", "out.jsonl", "--max-failures", "1")
    assert run(tmp_path, signed(server, 1), *words).returncode == 0
    before = responses(tmp_path / "out.jsonl")
    moved = signed(f"{server}/v2", 2)
    refused = run(tmp_path, moved, *words)
    assert refused.returncode == 2
    assert f"--accept-change inputs.{server}/v2/served.jsonl goes on with it".encode() in refused.stderr
    done = run(tmp_path, moved, *words, "--accept-change", "inputs")
    assert done.returncode == 0, done.stderr
    assert responses(tmp_path / "out.jsonl") == before
    assert b"already complete" in run(tmp_path, moved, *words).stderr
    assert SECRET.encode() not in everything(tmp_path) + refused.stderr + done.stderr


def test_renewed_addresses_in_another_order(server: str, tmp_path: Path) -> None:
    """Of several signed addresses each is known again, in whatever order they are named."""
    write(tmp_path / "second.jsonl", [chat(100)])
    others = [f"{server}/second.jsonl?sv=1&sig={SECRET}{i}" for i in range(2)]
    words = ("-o", "out.jsonl", "--max-failures", "1")
    assert run(tmp_path, signed(server, 1), others[0], *words).returncode == 0
    again = run(tmp_path, others[1], signed(server, 2), *words)
    assert (again.returncode, b"already complete" in again.stderr) == (0, True), again.stderr


def test_job_of_an_older_xbatch(server: str, tmp_path: Path) -> None:
    """A job whose job.json and plan hold a whole signed address, and no place, goes on with a renewed one."""
    words = ("-o", "out.jsonl", "--max-failures", "1")
    assert run(tmp_path, signed(server, 1), *words).returncode == 0
    state = tmp_path / "out.jsonl.xbatch"
    job = json.loads((state / "job.json").read_bytes())
    (found,) = job["identity"]["inputs"]
    del found["place"]
    found["uri"] = signed(server, 1)
    (state / "job.json").write_text(json.dumps(job), "utf-8")
    facts, *shards = zstandard.ZstdDecompressor().decompress((state / "plan.jsonl.zst").read_bytes()).splitlines()
    plan = json.loads(facts)
    plan["inputs"] = {signed(server, 1): next(iter(plan["inputs"].values()))}
    data = b"\n".join([json.dumps(plan).encode(), *shards, b""])
    (state / "plan.jsonl.zst").write_bytes(zstandard.compress(data))
    (state / "report.json").unlink()
    again = run(tmp_path, signed(server, 2), *words)
    assert again.returncode == 0, again.stderr
    assert json.loads((state / "report.json").read_bytes())["this_run"]["rows"] == 0


def test_from_another_working_directory(tmp_path: Path) -> None:
    """The same files from elsewhere, by a link or as URIs are the same job, whose inputs keep their positions."""
    for i, name in enumerate("ab"):
        write(tmp_path / f"{name}.jsonl", [chat(i)])
    assert run(tmp_path, "a.jsonl", "b.jsonl", "-o", "out.jsonl").returncode == 0
    before = listing(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/link").symlink_to(tmp_path)
    whole = ("link/a.jsonl", f"file://{tmp_path}/b.jsonl")
    for inputs in (("../a.jsonl", "../b.jsonl"), whole):
        again = run(tmp_path / "elsewhere", *inputs, "-o", "../out.jsonl")
        assert again.returncode == 0, again.stderr
        assert b"already complete" in again.stderr
        assert b"when the job began" not in again.stderr
    after = listing(tmp_path)
    assert {name: after[name] for name in before if name != "."} == before


def test_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    """A job in a folder whose name is not UTF-8 is the same job from elsewhere."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    write(folder / "in.jsonl", [chat(0)])
    assert run(folder, "in.jsonl").returncode == 0
    (tmp_path / "link").symlink_to(folder)
    again = run(tmp_path, "link/in.jsonl", "-o", "link/in.responses.jsonl")
    assert (again.returncode, b"already complete" in again.stderr) == (0, True), again.stderr


def test_moved_folder(tmp_path: Path) -> None:
    """A job that was interrupted goes on where its folder has been moved to, and one line says so."""
    (tmp_path / "old").mkdir()
    write(tmp_path / "old/in.jsonl", [chat(i) for i in range(ROWS)])
    process = start(tmp_path / "old", "in.jsonl", *SLOW)
    wait_for(process, answering(tmp_path / "old/in.responses.jsonl.xbatch"))
    process.kill()
    process.communicate(timeout=120)
    shutil.move(tmp_path / "old", tmp_path / "new")
    again = run(tmp_path / "new", "in.jsonl")
    assert again.returncode == 0, again.stderr
    told = f"in.jsonl was {tmp_path}/old/in.jsonl when the job began, and holds the same\n"
    assert again.stderr.decode().count(told) == 1
    assert b"settled already" in again.stderr
    assert ids(tmp_path / "new/in.responses.jsonl") == [f"id-{i}" for i in range(ROWS)]


def test_extended_job_in_a_moved_folder(tmp_path: Path) -> None:
    """In a moved folder too, inputs of an extended job keep the positions that they had, however they are named."""
    (tmp_path / "old").mkdir()
    for name, first in (("b", 0), ("a", 10)):
        write(tmp_path / f"old/{name}.jsonl", [chat(i) for i in range(first, first + 10)])
    assert run(tmp_path / "old", "b.jsonl", "-o", "out.jsonl").returncode == 0
    assert run(tmp_path / "old", "a.jsonl", "b.jsonl", "-o", "out.jsonl", "--extend").returncode == 0
    shutil.move(tmp_path / "old", tmp_path / "new")
    write(tmp_path / "new/c.jsonl", [chat(i) for i in range(20, 30)])
    done = run(tmp_path / "new", "c.jsonl", "a.jsonl", "b.jsonl", "-o", "out.jsonl", "--extend")
    assert done.returncode == 0, done.stderr
    rows = responses(tmp_path / "new/out.jsonl")
    assert [row["custom_id"] for row in rows] == [f"id-{i}" for i in range(30)]
    texts = [row["response"]["body"]["choices"][0]["message"]["content"] for row in rows]
    assert texts == [f"text {i}" for i in range(30)]


def test_grown_input(tmp_path: Path) -> None:
    """A file to which rows were appended is refused, and what the refusal advises then works."""
    rows = [chat(i) for i in range(5)]
    write(tmp_path / "in.jsonl", rows[:3])
    words = ("-o", "out.jsonl")
    assert run(tmp_path, "in.jsonl", *words).returncode == 0
    write(tmp_path / "in.jsonl", rows)
    for more in ([], ["--extend"]):
        refused = run(tmp_path, "in.jsonl", *words, *more)
        assert refused.returncode == 2
        assert b"in.jsonl has grown, and --extend takes only further files: put the new rows into" in refused.stderr
    write(tmp_path / "in.jsonl", rows[:3])
    write(tmp_path / "more.jsonl", rows[3:])
    assert run(tmp_path, "in.jsonl", "more.jsonl", *words, "--extend").returncode == 0
    assert ids(tmp_path / "out.jsonl") == [f"id-{i}" for i in range(5)]


# A job that has answered nothing.

ANEW = b"was answered, so it begins anew with what has changed: "
WRONG = {
    "failed for good": (["nonsense"], (), 1),
    "failed, to be tried again": ([chat(0)], ("--engine-arg", "fail_on=0"), 1),
    "engine that dies": ([chat(0)], ("--engine-arg", "poison=0", "--max-engine-restarts", "0"), 3),
}


@pytest.mark.parametrize("kind", WRONG)
def test_mended_file(kind: str, tmp_path: Path) -> None:
    """Where nothing was answered, the same command with a mended file begins anew and says so; then it is a job."""
    rows, words, code = WRONG[kind]
    write(tmp_path / "in.jsonl", rows)
    assert run(tmp_path, "in.jsonl", *words).returncode == code
    write(tmp_path / "in.jsonl", [chat(i) for i in (7, 8)])
    again = run(tmp_path, "in.jsonl", "--engine-arg", "seed=3")
    assert again.returncode == 0, again.stderr
    assert again.stderr.count(ANEW + b"inputs.in.jsonl, engine_args.seed\n") == 1
    assert ids(tmp_path / "in.responses.jsonl") == ["id-7", "id-8"]
    assert b"already complete" in run(tmp_path, "in.jsonl", "--engine-arg", "seed=3").stderr
    write(tmp_path / "in.jsonl", [chat(9)])
    refused = run(tmp_path, "in.jsonl", "--engine-arg", "seed=3")
    assert refused.returncode == 2
    assert b"--restart" in refused.stderr


@pytest.mark.parametrize("words", [("--max-line-bytes", "1000"), ("--format", "body"), ("--model", "n")])
def test_changed_settings_without_an_answer(words: tuple[str, ...], tmp_path: Path) -> None:
    """Settings may change as freely as files where nothing was answered, fixed ones too."""
    write(tmp_path / "in.jsonl", ["nonsense"])
    assert run(tmp_path, "in.jsonl", "--model", "m", "--max-failures", "1").returncode == 0
    again = run(tmp_path, "in.jsonl", "--model", "m", *words, "--max-failures", "1")
    assert again.returncode == 0, again.stderr
    assert again.stderr.count(ANEW) == 1
    assert b"already complete" in run(tmp_path, "in.jsonl", "--model", "m", *words, "--max-failures", "1").stderr


def test_after_a_refusal(tmp_path: Path) -> None:
    """After exit code 2 nothing was begun, and the mended file is a first run."""
    write(tmp_path / "in.jsonl", [chat(0, "a"), chat(1, "b")])
    assert run(tmp_path, "in.jsonl").returncode == 2
    assert os.listdir(tmp_path) == ["in.jsonl"]
    write(tmp_path / "in.jsonl", [chat(0, "a")])
    done = run(tmp_path, "in.jsonl")
    assert (done.returncode, ANEW in done.stderr) == (0, False)


def test_mended_wrongly(tmp_path: Path) -> None:
    """A mended file that is refused leaves the job that has answered nothing as it was."""
    write(tmp_path / "in.jsonl", ["nonsense"])
    assert run(tmp_path, "in.jsonl").returncode == 1
    before = listing(tmp_path / "in.responses.jsonl.xbatch")
    write(tmp_path / "in.jsonl", [chat(0, "a"), chat(1, "b")])
    assert run(tmp_path, "in.jsonl").returncode == 2
    assert listing(tmp_path / "in.responses.jsonl.xbatch") == before


def test_retried_answer_is_an_answer(tmp_path: Path) -> None:
    """A row that was answered only when it was run again counts: such a job is refused as ever."""
    write(tmp_path / "in.jsonl", [chat(0)])
    assert run(tmp_path, "in.jsonl", "--engine-arg", "fail_on=0").returncode == 1
    assert run(tmp_path, "in.jsonl", "--retry-failed").returncode == 0
    write(tmp_path / "in.jsonl", [chat(1), chat(2)])
    assert run(tmp_path, "in.jsonl").returncode == 2
    assert ids(tmp_path / "in.responses.jsonl") == ["id-0"]


def test_order_of_a_job_that_begins_anew(tmp_path: Path) -> None:
    """A job that begins anew has its inputs in the order of its command, whatever that of the old job was."""
    for name in "ab":
        write(tmp_path / f"{name}.jsonl", [{**chat(0), "custom_id": name}])
    words = ("-o", "out.jsonl")
    assert run(tmp_path, "a.jsonl", "b.jsonl", *words, "--engine-arg", "fail_on=0,1").returncode == 1
    for i, name in enumerate("ab"):
        write(tmp_path / f"{name}.jsonl", [chat(i)])
    again = run(tmp_path, "b.jsonl", "a.jsonl", *words)
    assert again.returncode == 0, again.stderr
    assert ids(tmp_path / "out.jsonl") == ["id-1", "id-0"]


def test_another_process_has_it(tmp_path: Path) -> None:
    """A job that has answered nothing yet, and that another process runs, is left to that one."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(3)])
    state = tmp_path / "in.responses.jsonl.xbatch"
    process = start(tmp_path, "in.jsonl", "--engine-arg", "delay_s=300", "--drain-s", "0")
    wait_for(process, lambda: (state / "plan.jsonl.zst").exists())
    other = run(tmp_path, "in.jsonl", "--max-line-bytes", "1000")
    assert other.returncode == 75, other.stderr
    assert f"process {process.pid} on ".encode() in other.stderr
    assert ANEW not in other.stderr
    process.terminate()
    process.communicate(timeout=120)
    assert process.returncode == 75
    again = run(tmp_path, "in.jsonl", "--max-line-bytes", "1000")
    assert (again.returncode, again.stderr.count(ANEW)) == (0, 1)


def test_anew_with_the_state_in_a_store(tmp_path: Path) -> None:
    """The same holds for a state in an object store; a row that was answered there keeps the job."""
    with object_store.running() as store:
        urllib.request.urlopen(urllib.request.Request(f"{store.address}/jobs", method="PUT")).close()
        keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": store.address}
        env = {**ENV, "XDG_STATE_HOME": str(tmp_path / "home"), **keys}

        def ran() -> tuple[int, bytes]:
            words = [*command("in.jsonl", "--state", "s3://jobs/one"), "--max-failures", "0"]
            done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, check=False)
            return done.returncode, done.stderr

        write(tmp_path / "in.jsonl", ["nonsense"])
        assert ran()[0] == 1
        write(tmp_path / "in.jsonl", [chat(i) for i in range(3)])
        code, told = ran()
        assert (code, told.count(ANEW)) == (0, 1), told
        write(tmp_path / "in.jsonl", [chat(4)])
        assert ran()[0] == 2
    assert ids(tmp_path / "in.responses.jsonl") == ["id-0", "id-1", "id-2"]


def test_password_of_an_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report tells where the output lies without the password, which is kept nowhere."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    write(tmp_path / "in.jsonl", [chat(0)])
    told: list[str] = []

    async def ran(password: str) -> dict[str, Any]:
        place = f"memory://me:{password}@host"
        fields = {"output": f"{place}/out.jsonl", "state": str(tmp_path / "state"), "engine": {"name": "fake"}}
        spec = JobSpec(inputs=[str(tmp_path / "in.jsonl")], **fields)
        job = await asyncio.to_thread(Job, spec, tmp_path, Stop(1), told.append)
        try:
            return await job.run()
        finally:
            job.close()

    report = asyncio.run(ran(SECRET))
    assert [each["uri"] for each in report["outputs"]] == ["memory://me:***@host/out.jsonl"]
    assert SECRET.encode() not in everything(tmp_path)
    assert asyncio.run(ran(SECRET)) == report
    assert told[-1].startswith("already complete")
