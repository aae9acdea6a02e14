"""Commands that make JSONL or Parquet of other files, for messages."""

import shlex
from dataclasses import dataclass
from enum import Enum

_UNPACK = {"gzip": "gzip -dc", "bzip2": "bzip2 -dc", "xz": "xz -dc", "zstd": "zstd -dc"}
_ENDS = (".gz", ".bz2", ".xz", ".zst")
_FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".arrow", ".feather", ".orc")


class Way(Enum):
    """A way to convert a file; `{0}` stands for its name, `{1}` for a detail."""

    JQ = "jq -c ."
    JQ_ARRAY = "jq -c '.[]'"
    JQ_TEXT = "jq -Rc '{{prompt: .}}'"
    ICONV = "iconv -f {1} -t UTF-8"
    SED = "sed 's/,$//'"
    CSV = "import pyarrow.csv as c, pyarrow.parquet as p; p.write_table(c.read_csv({0!r}{1}), {2!r})"
    ARROW = "import pyarrow.feather as f, pyarrow.parquet as p; p.write_table(f.read_table({0!r}), {2!r})"
    ARROW_STREAM = (
        "import pyarrow as a, pyarrow.parquet as p; p.write_table(a.ipc.open_stream({0!r}).read_all(), {2!r})"
    )
    ORC = "import pyarrow.orc as o, pyarrow.parquet as p; p.write_table(o.read_table({0!r}), {2!r})"


_FILTERS = (Way.JQ, Way.JQ_ARRAY, Way.JQ_TEXT, Way.ICONV, Way.SED)
_STDIN = "stdin"


@dataclass(frozen=True, slots=True)
class Conversion:
    """How to convert one file."""

    name: str
    """What the user calls it."""
    codec: str | None
    """How it is compressed."""

    def by(self, way: Way, detail: str = "") -> str:
        """Return the command, with what it makes."""
        if way not in _FILTERS:
            return f"{self._script(way, detail)} makes Parquet of it"
        tool = way.value.format(self._source, detail)
        if self.name == _STDIN:
            return f"pipe it through {tool}"
        source, target = shlex.quote(self._source), shlex.quote(self._target(".jsonl"))
        if self.codec is None:
            return f"{tool} {source} > {target}"
        return f"{_UNPACK[self.codec]} {source} | {tool} > {target}"

    def _script(self, way: Way, detail: str) -> str:
        if way is Way.CSV:
            detail = "" if detail == "," else f", parse_options=c.ParseOptions(delimiter={detail!r})"
        unpacked = self._source.removesuffix(self._compression)
        if self.codec and unpacked == self._source:  # its name does not say that it is compressed
            unpacked = f"{self._source}.unpacked"
        code = way.value.format(unpacked, detail, self._target(".parquet")).replace("'", '"')
        unpack = (
            f"{_UNPACK[self.codec]} {shlex.quote(self._source)} > {shlex.quote(unpacked)} && " if self.codec else ""
        )
        return f"{unpack}python -c {shlex.quote(code)}"

    @property
    def _source(self) -> str:
        """The file's name; of one in a store what it will be called here."""
        return self.name.rpartition("/")[2] if "://" in self.name else self.name

    @property
    def _compression(self) -> str:
        return next((end for end in _ENDS if self.codec and self.name.endswith(end)), "")

    def _target(self, extension: str) -> str:
        stem = self._source.removesuffix(self._compression)
        stem = next((stem.removesuffix(end) for end in _FORMATS if stem.endswith(end)), stem)
        target = f"{stem}{extension}"
        return target if target != self._source else f"{stem}.converted{extension}"
