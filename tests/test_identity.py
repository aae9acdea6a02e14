"""A job's identity: what may not change unnoticed between two runs of it."""

from pathlib import Path
from typing import Any

import pytest

from xbatch.errors import UsageError
from xbatch.job.fingerprint import EDGE_BYTES, edges, model_version
from xbatch.job.identity import SPEED_ONLY, agree, changes, identify, merged
from xbatch.job.pairing import describe_input, pair_inputs, pair_uris
from xbatch.job.spec import JobSpec
from xbatch.storage import Stat, stat

JOB = "out.xbatch belongs to job 12345678, begun 2026-03-31,"


def one(uri: str, size_bytes: int = 1000, version: str = "1", edges: str | None = "e") -> dict[str, Any]:
    return {"uri": uri, "size_bytes": size_bytes, "version": version, **({} if edges is None else {"edges": edges})}


def identity(*inputs: dict[str, Any], **fields: Any) -> dict[str, Any]:
    known = {"model": "demo", "engine": "vllm 0.32", "model_version": "abc", "format": "batch", "max_line_bytes": 9}
    known |= {"served_model_name": [], "lora_modules": {}, "engine_args": {"dtype": "float32"}}
    return {"inputs": list(inputs or [one("a.jsonl")]), **known, **fields}


def same(*_: int) -> bool:
    return True


def other(*_: int) -> bool:
    return False


def test_nothing_changed() -> None:
    """A run like the one before has changed nothing, and no input is read to find that out."""

    def read(*positions: int) -> bool:
        raise AssertionError(positions)

    assert changes(identity(), identity(), read) == []
    assert agree(JOB, [], [], extend=False) == []


FIELDS = [
    ({"model": "other"}, "model", "demo", "other"),
    ({"engine": "vllm 0.33"}, "engine", "vllm 0.32", "vllm 0.33"),
    ({"model_version": "def"}, "model_version", "abc", "def"),
    ({"max_line_bytes": 0}, "max_line_bytes", "9", "0"),
    ({"served_model_name": ["x"]}, "served_model_name", "none", "['x']"),
    ({"lora_modules": {"x": "/y"}}, "lora_modules.x", "none", "/y"),
    ({"engine_args": {"dtype": "half"}}, "engine_args.dtype", "float32", "half"),
    ({"engine_args": {}}, "engine_args.dtype", "float32", "none"),
    ({"engine_args": {"dtype": "float32", "seed": "1"}}, "engine_args.seed", "none", "1"),
]


@pytest.mark.parametrize(("fields", "field", "before", "now"), FIELDS)
def test_changed_setting(fields: dict[str, Any], field: str, before: str, now: str) -> None:
    """Whatever changes answers is refused with both values and the flag that accepts it; then it is accepted."""
    [change] = changes(identity(), identity(**fields), same)
    assert (change.field, change.before, change.now) == (field, before, now)
    with pytest.raises(UsageError) as caught:
        agree(JOB, [change], [], extend=True)
    assert f"  {field}  {before} -> {now}\n" in str(caught.value)
    assert f"go on knowingly by --accept-change {field}, or" in str(caught.value)
    for accepted in (field, field.partition(".")[0]):
        assert agree(JOB, [change], [accepted], extend=False) == [field]


@pytest.mark.parametrize("name", ["engine_args.dtyp", "engine", "dtype", "engine_args.dtype.x", ""])
def test_only_what_is_named_is_accepted(name: str) -> None:
    """A name accepts a field, or all fields below it, and no other one that begins alike."""
    changed = changes(identity(), identity(engine_args={"dtype": "half"}), same)
    with pytest.raises(UsageError):
        agree(JOB, changed, [name], extend=False)


@pytest.mark.parametrize(("before", "now"), [(None, "abc"), ("abc", None), (None, None)])
def test_unknown_model_version(before: str | None, now: str | None) -> None:
    """A model that is still to be downloaded has not changed."""
    assert changes(identity(model_version=before), identity(model_version=now), same) == []


def test_all_that_has_changed_is_told_at_once() -> None:
    """The refusal holds every field that is not accepted, and only these, each with its way on."""
    now = identity(one("a.jsonl"), one("b.jsonl"), model="other", max_line_bytes=0)
    changed = changes(identity(), now, same)
    assert {change.field for change in changed} == {"inputs.b.jsonl", "model", "max_line_bytes"}
    with pytest.raises(UsageError) as caught:
        agree(JOB, changed, ["max_line_bytes"], extend=False)
    text = str(caught.value)
    assert text.startswith(f"{JOB} with other inputs or settings:\n")
    assert "inputs.b.jsonl  not among the inputs -> 1,000 bytes, version 1\n" in text
    assert "\n  max_line_bytes" not in text
    assert "--extend" in text
    assert "--restart" in text
    assert "--accept-change model" in text
    assert sorted(agree(JOB, changed, ["max_line_bytes", "model"], extend=True)) == [
        "inputs.b.jsonl",
        "max_line_bytes",
        "model",
    ]


def test_format_is_fixed() -> None:
    """The format can't be accepted: rows that are settled have the old one."""
    changed = changes(identity(), identity(format="plain"), same)
    with pytest.raises(UsageError):
        agree(JOB, changed, ["format"], extend=False)


# Inputs.


def test_touched_input() -> None:
    """An input of which only the time has changed, and whose bytes are the same, has not changed."""
    asked: list[tuple[int, int]] = []

    def read(before: int, now: int) -> bool:
        asked.append((before, now))
        return True

    before, now = identity(one("a.jsonl"), one("b.jsonl")), identity(one("a.jsonl"), one("b.jsonl", version="2"))
    assert changes(before, now, read) == []
    assert asked == [(1, 1)]


@pytest.mark.parametrize(
    ("now", "alike"),
    [(one("a.jsonl", version="2"), other), (one("a.jsonl", version="2", edges="f"), same)],
    ids=["middle", "edges"],
)
def test_edited_input_of_the_same_size(now: dict[str, Any], alike: Any) -> None:
    """An input with other bytes has changed, and goes on only if the user accepts that."""
    [change] = changes(identity(), identity(now), alike)
    assert change.field == "inputs.a.jsonl"
    with pytest.raises(UsageError, match=r"go on knowingly by --accept-change inputs\.a\.jsonl, or"):
        agree(JOB, [change], [], extend=True)
    for accepted in ("inputs.a.jsonl", "inputs"):
        assert agree(JOB, [change], [accepted], extend=False) == ["inputs.a.jsonl"]


def test_replaced_object_of_the_same_size() -> None:
    """An object in a store with another ETag has changed: nobody reads it all to find out that it has not."""
    before, now = (identity(one("s3://b/a.jsonl", version=v, edges="")) for v in "12")
    [change] = changes(before, now, same)
    assert agree(JOB, [change], ["inputs.s3://b/a.jsonl"], extend=False) == ["inputs.s3://b/a.jsonl"]


@pytest.mark.parametrize("size_bytes", [999, 1001])
def test_input_of_another_size(size_bytes: int) -> None:
    """An input of another size can't be accepted, and the refusal says what to do with one that has grown."""
    [change] = changes(identity(), identity(one("a.jsonl", size_bytes, "2")), same)
    with pytest.raises(UsageError) as caught:
        agree(JOB, [change], ["inputs", "inputs.a.jsonl"], extend=True)
    assert f"inputs.a.jsonl  1,000 bytes, version 1 -> {size_bytes:,} bytes, version 2" in str(caught.value)
    assert "knowingly" not in str(caught.value)
    grown = "a.jsonl has grown, and --extend takes only further files: put the new rows into a file of their own"
    assert (grown in str(caught.value)) == (size_bytes > 1000)
    assert ("a.jsonl has become shorter" in str(caught.value)) == (size_bytes < 1000)


def test_missing_input() -> None:
    """An input that the job has and this run has not can't be accepted."""
    [change] = changes(identity(one("a"), one("b")), identity(one("a")), same)
    with pytest.raises(UsageError, match=r"inputs\.b  .* -> not among the inputs\nb is not among the inputs any more"):
        agree(JOB, [change], ["inputs", "inputs.b"], extend=True)


def test_further_input() -> None:
    """An input that has come since is taken in by --extend, and by nothing else."""
    [change] = changes(identity(one("a")), identity(one("a"), one("b")), same)
    with pytest.raises(UsageError, match="go on knowingly by --extend, or"):
        agree(JOB, [change], ["inputs", "inputs.b"], extend=False)
    assert agree(JOB, [change], [], extend=True) == ["inputs.b"]


def test_other_order() -> None:
    """The same inputs in another order are another job, for the output would be another."""
    [change] = changes(identity(one("a"), one("b")), identity(one("b"), one("a")), same)
    assert (change.field, change.before, change.now) == ("inputs", "a b", "b a")
    with pytest.raises(UsageError):
        agree(JOB, [change], ["inputs"], extend=True)


def test_merged() -> None:
    """A job that goes on keeps its inputs' places; changed ones are as they are now, further ones come last."""
    before = identity(one("b"), one("a"), format="batch")
    now = identity(one("a", version="2"), one("c"), one("b"), format="plain")
    goes_on = merged(before, now)
    assert goes_on["inputs"] == [one("b"), one("a", version="2"), one("c")]
    assert goes_on["format"] == "plain"
    assert goes_on["extended"]
    assert not merged(before, before)["extended"]
    assert merged(goes_on, now)["extended"]


def test_extended_job_in_any_order() -> None:
    """An extended job keeps the order in which its inputs came; a run has to put them in that order first."""
    goes_on = merged(identity(one("b")), identity(one("a"), one("b")))
    assert [each["uri"] for each in goes_on["inputs"]] == ["b", "a"]
    assert pair_uris(goes_on["inputs"], ["a", "b"]) == [1, 0]
    assert changes(goes_on, identity(one("b"), one("a")), same) == []
    assert [change.field for change in changes(goes_on, identity(one("a"), one("b")), same)] == ["inputs"]
    [change] = changes(goes_on, identity(one("b")), same)
    assert change.field == "inputs.a"


def test_merged_agrees_with_itself() -> None:
    """What was accepted once is not asked for again."""
    before = identity(one("a"), model="m")
    now = identity(one("a", version="2", edges="f"), one("b"), model="n", engine_args={})
    assert changes(merged(before, now), now, other) == []


# Where inputs lie.


def remote(uri: str, size_bytes: int = 1000, version: str = "etag") -> dict[str, Any]:
    return describe_input(uri, Stat(size_bytes, version))


def placed(path: Path, content: bytes, *, name: str | None = None) -> dict[str, Any]:
    """An input on this machine, which the user calls by its path or by `name`."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return {**describe_input(str(path), stat(str(path))), **({} if name is None else {"uri": name})}


SIGNED = [
    ("http://h/in.jsonl?X-Amz-Date=1&X-Amz-Signature=a", "http://h/in.jsonl?X-Amz-Date=2&X-Amz-Signature=b"),
    ("https://acc.blob.core.windows.net/c/b?sv=1&se=2&sig=a%2F", "https://acc.blob.core.windows.net/c/b?sig=c"),
    ("https://b.storage.googleapis.com/o?Expires=1&GoogleAccessId=x&Signature=y", "https://b.storage.googleapis.com/o"),
    ("http://user:pw@h/in.jsonl", "http://user:other@h/in.jsonl"),
    ("s3://b/k", "s3a://b/k"),
]


@pytest.mark.parametrize(("before", "now"), SIGNED)
def test_renewed_address(before: str, now: str) -> None:
    """An address that was signed anew, or spelt otherwise, names the same input, and no secret is kept of it."""
    assert changes(identity(remote(before)), identity(remote(now)), other) == []
    # A job that began with an older xbatch has the whole address.
    assert changes(identity(one(before, version="etag", edges="")), identity(remote(now)), other) == []
    kept = str(remote(before))
    assert not any(secret in kept for secret in ("Signature", "sig=", "pw", "Date"))


def test_versions_of_one_object_are_two_inputs() -> None:
    """What a query says of the object, such as its version, is part of the identity."""
    found = changes(identity(remote("s3://b/k?versionId=1")), identity(remote("s3://b/k?versionId=2", 7)), same)
    assert {change.field for change in found} == {"inputs.s3://b/k?versionId=1", "inputs.s3://b/k?versionId=2"}


@pytest.mark.parametrize("accepted", ["inputs", "inputs.http://h/v2/in.jsonl", "inputs.http://h/v2/in.jsonl?sig=b"])
def test_another_address_of_the_same_version(accepted: str) -> None:
    """An address may change while size and version hold, if the user accepts it; the refusal says how."""
    before, now = identity(remote("http://h/in.jsonl?sig=a")), identity(remote("http://h/v2/in.jsonl?sig=b"))
    [change] = changes(before, now, other)
    told = (
        r"http://h/v2/in\.jsonl was http://h/in\.jsonl when the job began, and has the same size and version: "
        r"--accept-change inputs\.http://h/v2/in\.jsonl goes on"
    )
    with pytest.raises(UsageError, match=told):
        agree(JOB, [change], [], extend=True)
    assert agree(JOB, [change], [accepted], extend=False) == ["inputs.http://h/v2/in.jsonl"]
    assert merged(before, now)["inputs"] == now["inputs"]


def test_an_address_of_another_object() -> None:
    """Another address where another object lies is another input."""
    changed = changes(identity(remote("http://h/a?sig=a")), identity(remote("http://h/b?sig=a", version="2")), same)
    assert [change.way_on for change in changed] == ["", "--extend"]


def test_other_spellings_of_a_local_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local file is the same by a relative or absolute path, a link or a URI, from any working directory."""
    before = identity(placed(tmp_path / "x/in.jsonl", b"row\n", name="in.jsonl"))
    (tmp_path / "link.jsonl").symlink_to("x/in.jsonl")
    (tmp_path / "y").mkdir()
    monkeypatch.chdir(tmp_path / "y")
    for uri in ("../x/in.jsonl", str(tmp_path / "x/in.jsonl"), "../link.jsonl", f"file://{tmp_path}/x/in.jsonl"):
        assert changes(before, identity(describe_input(uri, stat(uri))), other) == []


def test_moved_file(tmp_path: Path) -> None:
    """A file that was moved is accepted and told of if it holds the same, and else is a changed one."""
    was = placed(tmp_path / "old/in.jsonl", b"row\n", name="in.jsonl")
    old_job = {name: value for name, value in was.items() if name != "place"}
    now = identity(placed(tmp_path / "new/in.jsonl", b"row\n", name="in.jsonl"))
    for before in (identity(was), identity(old_job)):
        [change] = changes(before, now, same)
        assert change.harmless
        assert agree(JOB, [change], [], extend=False) == []
    assert change.hint.startswith("in.jsonl was ")
    [change] = changes(identity(was), now, other)
    with pytest.raises(UsageError, match=r"and was changed: --accept-change inputs\.in\.jsonl goes on"):
        agree(JOB, [change], [], extend=True)


def test_moved_files_keep_their_positions(tmp_path: Path) -> None:
    """Of several inputs that have moved each is found by its content, and by its name where contents are the same."""
    contents = {"a": b"1\n", "b": b"2\n", "c": b"2\n", "d": b"3\n"}
    before = [placed(tmp_path / f"old-{name}", data) for name, data in contents.items()]
    now = [placed(tmp_path / f"new/old-{name}", contents[name]) for name in "dcab"]
    assert pair_inputs(before, now) == [3, 2, 0, 1]
    assert pair_uris(before, [each["uri"] for each in now]) == [3, 2, 0, 1]
    [order] = [change for change in changes(identity(*before), identity(*now), same) if not change.harmless]
    assert (order.field, order.way_on) == ("inputs", "")


def test_missing_files_are_left_to_their_readers(tmp_path: Path) -> None:
    """To put inputs in order, none of them has to be there."""
    before = [placed(tmp_path / name, b"1\n") for name in ("a", "b")]
    (tmp_path / "a").unlink()
    assert pair_uris(before, [str(tmp_path / name) for name in ("gone", "b")]) == [None, 1]


# What goes into it.


def test_speed_is_no_part_of_it() -> None:
    """Settings that make the engine faster or slower, and those of the fake one, may change."""
    slow = JobSpec(inputs=["a"], engine={"dtype": "half"})
    fast = JobSpec(inputs=["a"], engine={"dtype": "half", **dict.fromkeys(SPEED_ONLY, "2"), "delay_s": "1"})
    assert identify(slow, {}, "m", {}) == identify(fast, {}, "m", {})


def test_content_of_a_named_file(tmp_path: Path) -> None:
    """A setting that names a file, such as a chat template, has changed when the file has."""
    template = tmp_path / "template.jinja"
    spec = JobSpec(inputs=["a"], engine={"chat_template": str(template)})
    found = []
    for content in ("one", "one", "two"):
        template.write_text(content, "utf-8")
        found.append(identify(spec, {}, "m", {}))
    assert found[0] == found[1] != found[2]
    [change] = changes(found[1] | {"inputs": []}, found[2] | {"inputs": []}, same)
    assert change.field == "engine_args.chat_template"


def test_text_that_no_file_can_be_called() -> None:
    """A chat template in one long line, or an adapter of such a name, is no file, and no trouble with one."""
    text = "{{ messages }}" * 60
    found = identify(JobSpec(inputs=["a"], engine={"chat_template": text}, lora_modules={"x": text}), {}, "m", {})
    assert (found["engine_args"]["chat_template"], found["lora_modules"]["x"]) == (text, text)


def test_inputs_by_content_and_time(tmp_path: Path) -> None:
    """An input is known by size, version, and the digest of its ends if it lies on this machine."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"x" * 10)
    spec = JobSpec(inputs=[str(path)])
    [found] = identify(spec, {str(path): stat(str(path))}, None, {})["inputs"]
    assert found == {
        "uri": str(path),
        "place": str(path.resolve()),
        "size_bytes": 10,
        "version": str(path.stat().st_mtime_ns),
        "edges": edges(str(path)),
    }
    [stdin] = identify(spec, {"-": Stat(10, "digest")}, None, {})["inputs"]
    assert stdin == {"uri": "-", "size_bytes": 10, "version": "digest"}


@pytest.mark.parametrize("size", [1, 100, EDGE_BYTES, EDGE_BYTES + 1, 3 * EDGE_BYTES])
def test_edges(tmp_path: Path, size: int) -> None:
    """The digest of a file's ends tells a change of its first or last byte, and that a byte was added."""
    path = tmp_path / "file"
    data = bytes(size)
    found = set()
    for content in (data, b"x" + data[1:], data[:-1] + b"y", data + b"z", b""):
        path.write_bytes(content)
        found.add(edges(str(path)))
    assert len(found) == 5
    assert edges("s3://bucket/file") == ""


def test_model_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder's version changes with any of its files; a model of the Hub has the commit that its cache holds."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}", "utf-8")
    (model / "weights").write_bytes(bytes(2 << 20))
    found = [model_version(str(model), None)]
    (model / "config.json").write_text("[]", "utf-8")
    found.append(model_version(str(model), None))
    (model / "weights").write_bytes(bytes(2 << 20) + b"1")
    found.append(model_version(str(model), None))
    (model / "further").write_bytes(b"")
    found.append(model_version(str(model), None))
    assert len({*found}) == 4
    assert model_version(str(model), None) == found[-1]
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert model_version("org/name", None) is None
    refs = tmp_path / "hub" / "models--org--name" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("c0ffee\n", "utf-8")
    assert model_version("org/name", None) == "c0ffee"
    assert model_version("org/name", "dev") is None


def test_secrets_are_no_part_of_it() -> None:
    """Keys of models and passwords in settings are not kept, and a job that has kept them goes on with others."""
    with_secrets = JobSpec(inputs=["a"], engine={"hf_token": "hidden", "tokenizer": "http://u:hidden@h/t?sig=hidden"})
    now = identify(with_secrets, {}, "m", {})
    assert "hidden" not in str(now)
    before = {**now, "engine_args": {"hf_token": "old", "tokenizer": "http://u:old@h/t?sig=old"}}
    assert changes(before, now, other) == []


def test_named_files_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chat template or an adapter is the same by another path, and another one when its content has changed."""
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/config.json").write_text("{}", "utf-8")
    (tmp_path / "t.jinja").write_text("one", "utf-8")
    found = []
    for folder, prefix in ((tmp_path, ""), (tmp_path / "adapter", "../")):
        monkeypatch.chdir(folder)
        spec = JobSpec(
            inputs=["a"], engine={"chat_template": f"{prefix}t.jinja"}, lora_modules={"x": f"{prefix}adapter"}
        )
        found.append(identify(spec, {}, "m", {}))
    assert changes(*found, other) == []
    assert changes({**found[0], "lora_modules": {"x": "../adapter"}}, found[1], other) == [], "an older xbatch's"
    (tmp_path / "adapter/config.json").write_text("[]", "utf-8")
    assert [each.field for each in changes(found[0], identify(spec, {}, "m", {}), other)] == ["lora_modules.x"]
