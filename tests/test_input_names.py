"""Which files the words of a command name: odd names, links, pipes, devices, folders without files of their own."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_cli_run import ENV, FAKE, chat, ids, listing, responses, run, write
from test_cli_validate import validate
from test_places import places, touch

from xbatch import storage
from xbatch.errors import UsageError
from xbatch.job.inputs import find_inputs
from xbatch.sources.parquet.partitions import partitions_of
from xbatch.storage.pipes import spool_special

NOT_UTF8 = os.fsdecode(b"caf\xe9.jsonl")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that no other test uses."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def inputs(*words: str, **fields: Any) -> list[str]:
    return places(*words, output="out.jsonl", **fields).inputs


def refusal(*words: str) -> str:
    with pytest.raises(UsageError) as told:
        inputs(*words)
    return str(told.value)


@pytest.mark.parametrize("other", ["./a.jsonl", "b/../a.jsonl", "link.jsonl", "hard.jsonl", "b/up/a.jsonl", "file://"])
def test_one_file_named_twice(here: Path, other: str) -> None:
    """Two words that name one file, in whatever way, are refused with both."""
    touch("", "a.jsonl", "b/c.jsonl")
    (here / "link.jsonl").symlink_to("a.jsonl")
    (here / "hard.jsonl").hardlink_to(here / "a.jsonl")
    (here / "b/up").symlink_to("..")
    other = f"file://{here}/a.jsonl" if other == "file://" else other
    why = refusal("a.jsonl", other)
    assert "a.jsonl" in why
    assert f"{other} are the same file" in why
    (here / "list.txt").write_text(f"a.jsonl\n{other}\n")
    assert refusal("@list.txt") == why


def test_one_object_named_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object of a store is one object, however its URI is spelt."""
    monkeypatch.setattr("xbatch.storage.expand", lambda uri: [uri])
    assert "the same file" in refusal("s3://b/k.jsonl", "s3a://b/k.jsonl")
    assert inputs("s3://b/k.jsonl", "s3://b/K.jsonl", "s3://c/k.jsonl")


def test_files_found_again_are_taken_once(here: Path) -> None:
    """What globs and folders find again is taken once, where it was first; another name for it is told."""
    touch("", "a.jsonl", "in/b.jsonl", "in/d.jsonl")
    (here / "in/c.jsonl").symlink_to("b.jsonl")
    (here / "in/e.jsonl").hardlink_to(here / "in/d.jsonl")
    assert inputs("in/b.jsonl", "in", "in/*", "a.jsonl", "*.jsonl") == ["in/b.jsonl", "in/d.jsonl", "a.jsonl"]
    assert inputs("*.jsonl", "a.jsonl") == ["a.jsonl"]
    (note,) = places("in", output="out.jsonl").notes
    assert note.startswith("left out, being the same file as another input")
    assert "in/c.jsonl (in/b.jsonl)" in note
    assert "in/e.jsonl (in/d.jsonl)" in note
    assert "named twice" in refusal("a.jsonl", "*.jsonl", "a.jsonl")


def test_links_are_followed(here: Path) -> None:
    """Folders of links, as caches and Kubernetes make them, stand for what the links lead to."""
    touch("", "blobs/1", "blobs/deep/x.jsonl")
    (here / "in").mkdir()
    (here / "in/a.jsonl").symlink_to("../blobs/1")
    (here / "in/sub").symlink_to("../blobs/deep")
    assert inputs("in") == inputs("in/*.jsonl") == ["in/a.jsonl"]
    assert inputs("in/**/*.jsonl") == ["in/a.jsonl", "in/sub/x.jsonl"]
    (here / "in/sub/back").symlink_to("../../in")
    assert inputs("in/**/*.jsonl") == ["in/a.jsonl", "in/sub/x.jsonl"]


@pytest.mark.parametrize("word", ["loop.jsonl", "loop.jsonl/in.jsonl", "in", "in/*.jsonl", "in/**/*.jsonl"])
def test_circle_of_links(tmp_path: Path, word: str) -> None:
    """A link that leads round in a circle is an input that can't be used, named or found."""
    (tmp_path / "in").mkdir()
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    (tmp_path / "in/x.jsonl").symlink_to("y.jsonl")
    (tmp_path / "in/y.jsonl").symlink_to("x.jsonl")
    for done in (run(tmp_path, word, "--model", "m"), validate(tmp_path, word, "--model", "m")):
        assert done.returncode == 2
        assert "symbolic links" in str(done.stderr)
    assert sorted(os.listdir(tmp_path)) == ["in", "loop.jsonl"]


def test_link_to_nothing(tmp_path: Path) -> None:
    """A link in a folder that leads nowhere is missed, and not left out in silence."""
    (tmp_path / "in").mkdir()
    write(tmp_path / "in/a.jsonl", [chat(0)])
    (tmp_path / "in/b.jsonl").symlink_to("gone.jsonl")
    done = run(tmp_path, "in")
    assert done.returncode == 2
    assert b"in/b.jsonl does not exist" in done.stderr


@pytest.mark.usefixtures("here")
def test_names_that_look_like_globs() -> None:
    """Whatever exists under a name is meant by it; only then is it a glob."""
    touch(
        "", "data[1].jsonl", "data1.jsonl", "d[1]/a.jsonl", "d[1]/b*.jsonl", "d[1]/bc.jsonl", "d1/x.jsonl", "q?.jsonl"
    )
    assert inputs("data[1].jsonl") == ["data[1].jsonl"]
    assert inputs("d[1]") == inputs("d[1]/*") == ["d[1]/a.jsonl", "d[1]/b*.jsonl", "d[1]/bc.jsonl"]
    assert inputs("d[1]/b*.jsonl") == ["d[1]/b*.jsonl"]
    assert inputs("d[1]/[a]*") == ["d[1]/a.jsonl"]
    assert inputs("d[[]1]/a*") == ["d[1]/a.jsonl"]
    assert inputs("q?.jsonl") == ["q?.jsonl"]
    assert inputs("data[12].jsonl") == ["data1.jsonl"]
    assert inputs("dat**1.jsonl") == ["data1.jsonl"]


@pytest.mark.parametrize("name", ["new\nline.jsonl", " blank.jsonl", "-x.jsonl", "@at.jsonl", "x" * 230 + ".jsonl"])
def test_odd_names_in_a_folder(tmp_path: Path, name: str) -> None:
    """Names that would be something else as words are names where a folder or a glob finds them."""
    write(tmp_path / name, [chat(0)])
    for word in (".", "*"):
        assert run(tmp_path, word, "-o", f"{tmp_path}/out/{len(word)}.jsonl", "--restart").returncode == 0
        assert ids(tmp_path / f"out/{len(word)}.jsonl") == ["id-0"]


@pytest.mark.parametrize("name", ["x" * 300 + ".jsonl", "d/" * 3000 + "x.jsonl", "x" * 250])
def test_names_that_are_too_long(tmp_path: Path, name: str) -> None:
    """A name too long for the file system, or for that of its output, is refused."""
    if len(name) == 250:
        write(tmp_path / name, [chat(0)])
    done = run(tmp_path, name)
    assert done.returncode == 2
    assert b"too long" in done.stderr
    assert len(os.listdir(tmp_path)) == (len(name) == 250)


def test_lists_of_names(tmp_path: Path) -> None:
    """A list may come from a command and name files that are not UTF-8; what is no list is refused at once."""
    write(tmp_path / NOT_UTF8, [chat(0)])
    write(tmp_path / "b.jsonl", [chat(1)])
    (tmp_path / "utf-16.txt").write_bytes("b.jsonl".encode("utf-16"))
    command = f"{sys.executable} -m xbatch run @<(ls *.jsonl) -o out.jsonl --engine fake"
    assert subprocess.run(["bash", "-c", command], cwd=tmp_path, env=ENV, check=False, timeout=180).returncode == 0
    assert sorted(ids(tmp_path / "out.jsonl")) == ["id-0", "id-1"]
    for name in ("/dev/zero", "utf-16.txt", "."):
        done = run(tmp_path, f"@{name}", "-o", "other.jsonl")
        assert done.returncode == 2
        assert name.encode() in done.stderr


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("word", ["", "a\0b"], ids=["empty", "NUL"])
def test_words_that_name_nothing(word: str) -> None:
    """An empty word, as an unset variable leaves it, is not the working directory."""
    touch("", "a.jsonl")
    with pytest.raises(UsageError):
        find_inputs([word], lambda _: False)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """Files whose names are no UTF-8 are answered: found in a folder or named, once and again, output beside them."""
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / NOT_UTF8, [chat(0), "nonsense"])
    write(tmp_path / "in/ok.jsonl", [chat(1)])
    for _ in range(2):
        assert run(tmp_path, "in", "-o", "out.jsonl").returncode == 1
    assert ids(tmp_path / "out.jsonl") == ["id-0", "row-1", "id-1"]
    assert "in/caf\\xe9.jsonl:2: not valid JSON" in responses(tmp_path / "out.jsonl")[1]["error"]["message"]
    assert run(tmp_path, f"in/{NOT_UTF8}").returncode == 1
    assert b"caf\xe9.responses.jsonl" in os.listdir(os.fsencode(tmp_path / "in"))
    told = validate(tmp_path, f"in/{NOT_UTF8}")
    assert (told.returncode, told.stdout.partition(": ")[0]) == (1, "in/caf\\xe9.jsonl:2")
    assert run(tmp_path, "in/ok.jsonl", "-o", os.fsdecode(b"\xff/")).returncode == 0
    assert ids(tmp_path / os.fsdecode(b"\xff") / "ok.responses.jsonl") == ["id-1"]


def test_watched_names_that_are_not_utf8(tmp_path: Path) -> None:
    """A watcher answers such a file like any other, and a link in a circle keeps it from nothing."""
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / NOT_UTF8, [chat(0)])
    write(tmp_path / "in/ok.jsonl", [chat(1)])
    write(tmp_path / "in" / ("x" * 240 + ".jsonl"), [chat(2)])
    (tmp_path / "in/loop.jsonl").symlink_to("loop.jsonl")
    words = ["watch", "in", "-o", "out", "--once", "--settle", "0.1s", "--every", "0.1s", *FAKE]
    done = subprocess.run(
        [sys.executable, "-m", "xbatch", *words], cwd=tmp_path, env=ENV, capture_output=True, check=False, timeout=180
    )
    assert done.returncode == 2
    assert done.stderr.count(b"in/loop.jsonl can't be read") == done.stderr.count(b"would be too long") == 1
    assert sorted(os.listdir(os.fsencode(tmp_path / "out"))) == [
        b".xbatch",
        b"caf\xe9.responses.jsonl",
        b"ok.responses.jsonl",
    ]


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/full", "/dev/urandom", "socket.jsonl"])
def test_inputs_that_never_end(tmp_path: Path, device: str) -> None:
    """A device or a socket is refused at once."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.jsonl"))
        for done in (run(tmp_path, device, "-o", "out.jsonl"), validate(tmp_path, device)):
            assert done.returncode == 2
            assert "not a file" in str(done.stderr)
    assert os.listdir(tmp_path) == ["socket.jsonl"]


def test_endless_standard_input(tmp_path: Path) -> None:
    """Standard input that is a device is refused, not copied until the disk is full; /dev/null is empty."""
    command = f"{sys.executable} -m xbatch run - --model m --engine fake"
    for device, code in (("/dev/zero", 2), ("/dev/null", 0)):
        done = subprocess.run(["bash", "-c", f"{command} < {device}"], cwd=tmp_path, env=ENV, check=False, timeout=180)
        assert done.returncode == code
    assert run(tmp_path, "/dev/null", "-o", "out.jsonl").returncode == 0
    assert ids(tmp_path / "out.jsonl") == []


def test_pipe_without_a_writer(tmp_path: Path) -> None:
    """A named pipe is waited for a while only."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="nobody writes to"):
        spool_special(str(tmp_path / "pipe"), tmp_path / "copy", wait_s=0.1)
    assert not (tmp_path / "copy").exists()


def test_pipe_with_a_writer(tmp_path: Path) -> None:
    """A named pipe is read to its end, whenever its writer comes, also if it writes nothing."""
    os.mkfifo(tmp_path / "pipe")
    for number, data in enumerate((b"a" * 3_000_000, b"")):
        writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(data,))
        writer.start()
        copy = spool_special(str(tmp_path / "pipe"), tmp_path / f"copy{number}")
        writer.join()
        assert Path(copy).read_bytes() == data


def test_process_substitution(tmp_path: Path) -> None:
    """`<(command)` is read as standard input is: answers go to standard output, or to a job that goes on."""
    write(tmp_path / "in.jsonl", [chat(0), chat(1)])
    command = f"{sys.executable} -m xbatch run {{}} --engine fake --quiet"

    def bash(words: str) -> "subprocess.CompletedProcess[bytes]":
        line = command.format(words)
        return subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=ENV, capture_output=True, check=False, timeout=180
        )

    assert bash("<(cat in.jsonl)").stdout.count(b"\n") == 2
    assert bash("/dev/stdin < in.jsonl").stdout.count(b"\n") == 2
    assert bash("<(cat in.jsonl) -o out.jsonl").returncode == 0
    before = listing(tmp_path)
    assert bash("<(cat in.jsonl) -o out.jsonl").returncode == 0
    assert listing(tmp_path) == before
    assert bash("<(head -1 in.jsonl) -o out.jsonl").returncode == 2
    assert bash("<(head -1 in.jsonl) <(tail -1 in.jsonl) -o both.jsonl").returncode == 0
    assert ids(tmp_path / "both.jsonl") == ["id-0", "id-1"]
    assert b"by -o" in bash("<(head -1 in.jsonl) <(tail -1 in.jsonl)").stderr


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, here: Path) -> str:
    """A folder that no other test uses, the working directory if it is local."""
    return "" if request.param == "local" else f"memory://{here.name}/"


def told(folder: str, word: str) -> str:
    return refusal(f"{folder}{word}").replace("memory:///", "memory://").replace(folder or "\0", "")


def test_files_in_folders_below(folder: str) -> None:
    """A folder without files of its own names the glob for those in folders below."""
    parts = [f"hive/lang={lang}/part-{i}.snappy.parquet" for lang in ("de", "en") for i in range(2)]
    touch(folder, *parts, "hive/_SUCCESS", "hive/_delta_log/0.json", "hive/lang=de/.part-0.crc", "one/x/a.jsonl.gz")
    why = told(folder, "hive")
    assert why == "hive has no file of its own; 4 lie in folders below: use 'hive/**/*.parquet'"
    assert told(folder, "hive/*.parquet").startswith("hive/*.parquet matches no file; 4 lie in folders below")
    assert told(folder, "one/").endswith("1 lies in folders below: use 'one/**/*.jsonl.gz'")
    found = inputs(f"{folder}hive/**/*.parquet")
    assert [uri.replace("memory:///", "memory://").removeprefix(folder) for uri in found] == parts


def test_folders_of_other_names(folder: str) -> None:
    """A folder whose files have no name of a known format says which, and how to take them."""
    touch(folder, "text/part-00000", "text/part-00001", "text/_SUCCESS", "only/a.responses.jsonl", "none/.hidden")
    why = told(folder, "text")
    assert "neither JSONL nor Parquet by name: text/part-00000, text/part-00001" in why
    assert why.endswith("a glob takes files of any name: text/*")
    assert "outputs of xbatch" in told(folder, "only")
    assert told(folder, "none") == "none matches no file"


def test_saved_datasets(folder: str) -> None:
    """What save_to_disk has written is refused as such; beside real rows its descriptions are no rows."""
    touch(folder, "saved/data-00000-of-00001.arrow", "saved/dataset_info.json", "saved/state.json")
    touch(folder, "many/dataset_dict.json", "many/train/data-00000-of-00001.arrow", "many/train/dataset_info.json")
    touch(folder, "hub/train.parquet", "hub/dataset_infos.json", "hub/dataset_info.json", "hub/state.json")
    touch(folder, "own/state.json")
    for name in ("saved", "many"):
        why = told(folder, name)
        assert f"{name} is a dataset that Hugging Face's save_to_disk wrote" in why
        assert ("['train']" in why.replace("'\"'\"'", "'")) == (name == "many")
    found = places(f"{folder}hub", output="out.jsonl")
    assert [uri.rpartition("/")[2] for uri in found.inputs] == ["train.parquet"]
    assert all(name in found.notes[0] for name in ("dataset_infos.json", "dataset_info.json", "state.json"))
    assert len(inputs(f"{folder}own")) == 1


def test_hidden_folders(folder: str) -> None:
    """A glob enters no hidden folder, such as those of unfinished jobs of Spark, unless it spells it out."""
    touch(folder, "in/a/x.jsonl", "in/_temporary/0/y.jsonl", "in/.cache/z.jsonl", "in/.cache/_w.jsonl")
    assert len(inputs(f"{folder}in/**/*.jsonl")) == len(inputs(f"{folder}in/*/*.jsonl")) == 1
    assert len(inputs(f"{folder}in/_temporary/0/*.jsonl")) == len(inputs(f"{folder}in/_*/0/*.jsonl")) == 1
    assert len(inputs(f"{folder}in/.cache")) == 1


def test_folder_that_must_not_be_read(tmp_path: Path) -> None:
    """A folder that this user may not list is an input that can't be used."""
    touch(f"{tmp_path}/", "in/a.jsonl")
    (tmp_path / "in").chmod(0)
    script = (
        "import os, sys\n"
        "from xbatch.errors import UsageError\n"
        "from xbatch.job.inputs import find_inputs\n"
        "import xbatch.storage\n"
        "os.getuid() or (os.setgid(65534), os.setuid(65534))\n"
        "for word in ('in', 'in/*', '**/*.jsonl', 'in/a.jsonl'):\n"
        "    try:\n        print(find_inputs([word], lambda _: False)[0])\n"
        "    except UsageError as e:\n        print(e)\n"
    )
    for each in (tmp_path, *tmp_path.parents[:2]):
        if each.name.startswith(("pytest", "test_")):
            each.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=ENV, capture_output=True, text=True, check=True
    )
    (tmp_path / "in").chmod(0o755)
    lines = done.stdout.splitlines()
    assert [line.endswith("Permission denied") for line in lines] == [True] * 4, lines


def test_texts_of_names() -> None:
    """Names of any bytes become texts that can be encoded, and come back; all others stay as they are."""
    every = os.fsdecode(bytes(range(1, 256)))
    text = storage.as_text(every)
    assert text.encode().decode() == text
    assert str(storage.local_path(text)) == every
    assert storage.shown_name(text).encode().decode("utf-8")
    assert storage.as_text("日本語 é.jsonl") == "日本語 é.jsonl"


TABLE = pa.table({"prompt": ["a", "b"], "lang": ["own", "own"], "extra": [1, 2]})


def partitioned(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(TABLE if "own" in name else TABLE.select(["prompt", "extra"]), folder / name)


def test_columns_of_a_path(tmp_path: Path) -> None:
    """Folders named key=value are columns of their tables, in the output and for templates, nulls and escapes too."""
    names = [
        "t/lang=de/day=2024-01-01/a.parquet",
        "t/lang=en/day=a%3Ab%20c=d/b.parquet",
        "t/lang=__HIVE_DEFAULT_PARTITION__/day=/c.parquet",
        "t/lang=path/day=x/own.parquet",
    ]
    partitioned(tmp_path, *names)
    expected = [("de", "2024-01-01"), ("en", "a:b c=d"), (None, ""), ("own", "x")]
    assert run(tmp_path, *names, "-o", "out.parquet", "--model", "m").returncode == 0
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [(row["lang"], row["day"]) for row in rows] == [pair for pair in expected for _ in range(2)]
    assert [row["extra"] for row in rows] == [1, 2] * 4
    del names[2], expected[2]  # a template over a null fails
    words = (*names, "--prompt", "{{ lang }} {{ day }}", "--model", "m", "-o", "made.jsonl")
    assert run(tmp_path, *words).returncode == 0
    said = [row["response"]["body"]["choices"][0]["message"]["content"] for row in responses(tmp_path / "made.jsonl")]
    assert said == [f"{lang} {day}" for lang, day in expected for _ in range(2)]


def test_columns_of_a_path_make_no_requests(tmp_path: Path) -> None:
    """Without a template what a path tells is data: `model=` names no model, `custom_id=` no row."""
    partitioned(tmp_path, "model=other/custom_id=x/prompt=y/temperature=9/a.parquet")
    assert (
        run(
            tmp_path, "model=other/custom_id=x/prompt=y/temperature=9/a.parquet", "-o", "o.parquet", "--model", "m"
        ).returncode
        == 0
    )
    rows = pq.read_table(tmp_path / "o.parquet").to_pylist()
    assert [(row["custom_id"], row["model"], row["temperature"], row["text"]) for row in rows] == [
        ("row-0", "other", "9", "a"),
        ("row-1", "other", "9", "b"),
    ]


def test_columns_of_a_path_alone(tmp_path: Path) -> None:
    """A template may look at nothing but the path, and the working directory does not matter."""
    partitioned(tmp_path, "lang=de/a.parquet")
    words = ("--prompt", "in {{ lang }}", "--model", "m", "--columns", "lang", "-o", f"{tmp_path}/o.parquet")
    assert run(tmp_path / "lang=de", "a.parquet", *words).returncode == 0
    assert pq.read_table(tmp_path / "o.parquet")["lang"].to_pylist() == ["de", "de"]


@pytest.mark.parametrize(
    "uri",
    [
        "https://user:pass=word@host/t/a.parquet",
        "https://host/a.parquet?sig=ab/cd=ef/gh",
        "s3://key:secret=word@bucket/a.parquet",
    ],
)
def test_secrets_are_no_columns(uri: str) -> None:
    """Only folders hold columns: a login and a signature don't get into an output."""
    assert partitions_of(uri) == {}
    assert partitions_of(uri.replace("/a.parquet", "/lang=de/a.parquet")) == {"lang": "de"}
