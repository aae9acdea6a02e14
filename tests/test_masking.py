"""Secrets in URIs: what is shown of them, and what of a URI names the object."""

import json
import time
from hashlib import blake2b
from pathlib import Path

import pytest

from xbatch.display import shown_json
from xbatch.errors import StorageError
from xbatch.state.folder import StateFolder
from xbatch.storage import masked, masked_all, replace_secrets, same_place, without_secrets

AMZ = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK%2F1&X-Amz-Expires=60&X-Amz-Signature=5e"
SAS = "sv=2024-11-04&st=2026-01-01T00%3A00%3A00Z&se=2026-01-02&sr=b&sp=r&spr=https&sig=a/b%3D"
URIS = [
    (f"https://b.s3.amazonaws.com/k?{AMZ}", "https://b.s3.amazonaws.com/k?***", "https://b.s3.amazonaws.com/k"),
    (f"https://h/k?versionId=3&{AMZ}&x=1", "https://h/k?versionId=3&x=1&***", "https://h/k?versionId=3&x=1"),
    (f"https://a.blob.core.windows.net/c/b?{SAS}", None, "https://a.blob.core.windows.net/c/b"),
    ("https://h/k?AWSAccessKeyId=a&Signature=b&Expires=9", None, "https://h/k"),
    ("https://h/k?X-Goog-Signature=a&X-Goog-Date=1", None, "https://h/k"),
    ("https://h/k?X%2DAmz%2DSignature=a", None, "https://h/k"),
    ("https://h/k?access_token=a#part", "https://h/k?***#part", "https://h/k#part"),
    *[(f"https://h/k?{name}=a", None, "https://h/k") for name in ("token", "api_key", "api-key", "KEY", "password")],
    *[
        (f"https://h/k?{name}=a", None, "https://h/k")
        for name in ("download_token", "X-Api-Key", "accesskey", "auth_key")
    ],
    *[
        (f"https://h/k?{name}=a", None, "https://h/k")
        for name in ("bearer", "hmac", "sessionid", "q-signature", "hdnts")
    ],
    ("https://h/k?x=1;sig=a", "https://h/k?x=1&***", "https://h/k?x=1"),
    ("sftp://me:p@ss@h:22/k k", "sftp://me:***@h:22/k k", "sftp://me@h:22/k k"),
    ("https://me:pw@h/k", "https://me:***@h/k", "https://h/k"),
    ("https://ghp_1@h/k", "https://***@h/k", "https://h/k"),
    ("zip://a.csv::https://h/x.zip?sig=a", "zip://a.csv::https://h/x.zip?***", "zip://a.csv::https://h/x.zip"),
]
PLAIN = [
    "s3://bucket/key?versionId=1",
    "sftp://me@h/k",
    "abfs://container@account.dfs.core.windows.net/k",
    "https://h/k?page=2&se=3&policy=x",
    "https://h/k?author=a&pageToken=3&design=x",
    "data/what?key=1.jsonl",
    "-",
    "",
]


@pytest.mark.parametrize(("uri", "shown", "name"), URIS)
def test_secrets(uri: str, shown: str | None, name: str) -> None:
    """Secrets are masked and no part of an object's name; masking again, or naming what was masked, changes nothing."""
    shown = shown or f"{name}?***"
    assert (masked(uri), without_secrets(uri)) == (shown, name)
    assert (masked(shown), without_secrets(shown), without_secrets(name)) == (shown, name, name)
    assert same_place(uri) == same_place(name)


@pytest.mark.parametrize("uri", PLAIN)
def test_plain(uri: str) -> None:
    """What is no secret stays, and a query means nothing in a path of this machine."""
    assert masked(uri) == without_secrets(uri) == uri


@pytest.mark.parametrize(("uri", "shown", "name"), URIS)
@pytest.mark.parametrize(
    "text", ["{}", "{}: not found", "{}:7: invalid_json_line", "no ({}), and '{}'.", "a?key=b {} -> {}\n{}"]
)
def test_sentences(text: str, uri: str, shown: str | None, name: str) -> None:
    """In a sentence URIs are masked wherever they stand, and the rest of it stays."""
    assert masked(text.replace("{}", uri)) == text.replace("{}", shown or f"{name}?***")


def test_replaced() -> None:
    """Whoever replaces secrets is told each."""
    seen: list[str] = []
    replace_secrets("ftp://a:b@c/d and http://e/f?g=1&sig=h&se=i", lambda secret: seen.append(secret) or "")
    assert seen == ["b", "sig=h&se=i"]


def test_errors_are_masked() -> None:
    """No error tells a secret, whoever raises it."""
    assert str(StorageError("http://h/k?sig=1: gone")) == "http://h/k?***: gone"


def test_json_is_masked() -> None:
    """In JSON every text is masked."""
    assert masked_all({"a": ["http://h/k?sig=1", 2, None], "b": {"c": "ftp://d:e@f/"}}) == {
        "a": ["http://h/k?***", 2, None],
        "b": {"c": "ftp://d:***@f/"},
    }


def test_json_stays_json() -> None:
    """Masking a line of JSON leaves JSON, whatever stands behind a URI in one of its texts."""
    for after in ('"', '".', "\n", "\\", "\u00e9"):
        uri = f"https://h/k?page=1&sig=abc{after}"
        line = shown_json(json.dumps({"message": f'see "{uri}', "n": 1}))
        assert json.loads(line)["n"] == 1
        assert "abc" not in line


def test_long_words() -> None:
    """A text of a million letters is masked in no time."""
    began_s = time.monotonic()
    assert masked(f"{'a' * 1_000_000} https://h/k?sig=1").endswith(" https://h/k?***")
    assert time.monotonic() - began_s < 10


def test_state_in_a_store_with_a_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A state whose password has changed has the same local part, which an older xbatch named by all of the address."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    one, two = (f"memory://u:{password}@h/out.xbatch" for password in ("one", "two"))
    assert StateFolder(one).uri == "memory://u:***@h/out.xbatch"
    assert StateFolder(one).path == StateFolder(two).path
    older = tmp_path / "xbatch" / blake2b(one.encode(), digest_size=10).hexdigest()
    older.mkdir(parents=True)
    assert StateFolder(one).path == older


@pytest.mark.parametrize(
    "uri", ["https://h/get?key=a.jsonl", "https://h/get?key=in%2Fa", "https://h/get?key=a.jsonl.gz"]
)
def test_keys_that_name_an_object(uri: str) -> None:
    """What a server serves may be called its key, and is part of what a URI names."""
    assert masked(uri) == without_secrets(uri) == uri
