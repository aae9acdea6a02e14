"""The index pass: one walk over the whole input that finds out what the job is about."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from xbatch.display import counted
from xbatch.planning.body_notes import BodyNotes
from xbatch.planning.repeats import LinePlace, RepeatFinder
from xbatch.planning.shards import SHARD_ROWS, ShardCutter
from xbatch.rows.request import ParsedRow, Rejected, Request, parse
from xbatch.rows.row import Row
from xbatch.rows.shard import Shard
from xbatch.rows.sizes import RowSizes

MAX_NAMED_MODELS = 1000
"""More names than this in one job are a mistake; the rest is not remembered."""


@dataclass(slots=True)
class NamedModel:
    """A model that rows ask for."""

    rows: int
    first_place: str


@dataclass(slots=True)
class Index:
    """What the index pass has found; grows while it runs."""

    shards: list[Shard] = field(default_factory=list)
    rows: int = 0
    num_bytes: int = 0
    rejected: int = 0
    first_rejected: str | None = None
    """What is wrong with the first row that can't be sent."""
    models: dict[str | None, NamedModel] = field(default_factory=dict)
    """Names in the rows that can be sent; None stands for rows that name no model."""
    seeded: int = 0
    """Rows that bring a seed of their own."""
    sizes: RowSizes = field(default_factory=RowSizes)
    """Of the rows that can be sent."""
    notes: BodyNotes = field(default_factory=BodyNotes)
    """What is to be said about the rows that can be sent."""
    shared_ids: int = 0
    """Rows whose `custom_id` an earlier file has too; only known to who has made the index."""
    first_shared: str | None = None
    """Where the first of them stands, and where the id stands before."""

    def take(self, row: Row, parsed: ParsedRow) -> None:
        """Count one row."""
        self.num_bytes += row.num_bytes
        self.rows += 1
        if isinstance(parsed, Rejected):
            self.reject(parsed)
            return
        self.sizes.take(parsed)
        self.notes.take(parsed, row)
        self.seeded += parsed.body.get("seed") is not None
        if known := self.models.get(_model_of(parsed)):
            known.rows += 1
        else:
            self.name_model(parsed, row.place)

    def name_model(self, request: Request, place: str) -> None:
        """Note the model that a row at `place` asks for, unless another row has named it."""
        if len(self.models) < MAX_NAMED_MODELS:
            self.models.setdefault(_model_of(request), NamedModel(1, place))

    def reject(self, rejected: Rejected) -> None:
        """Count a row that never becomes a request."""
        self.rejected += 1
        self.first_rejected = self.first_rejected or rejected.failure.message

    def facts(self) -> dict[str, Any]:
        """Everything but the shards, as JSON."""
        return {
            "rows": self.rows,
            "num_bytes": self.num_bytes,
            "rejected": self.rejected,
            "first_rejected": self.first_rejected,
            "models": [{"name": name, **asdict(named)} for name, named in self.models.items()],
            "seeded": self.seeded,
            "sizes": self.sizes.facts(),
            "ignored_fields": self.notes.facts(),
        }

    @classmethod
    def of(cls, shards: list[Shard], facts: dict[str, Any]) -> Self:
        """Return the index that gave these shards and facts."""
        models = {each["name"]: NamedModel(each["rows"], each["first_place"]) for each in facts["models"]}
        return cls(
            shards,
            facts["rows"],
            facts["num_bytes"],
            facts["rejected"],
            facts["first_rejected"],
            models,
            facts["seeded"],
            RowSizes.of(facts.get("sizes", {})),
            BodyNotes.of(facts.get("ignored_fields", [])),
        )


def _model_of(request: Request) -> str | None:
    name = request.body.get("model")
    return name if type(name) is str else None


def shared_ids_note(rows: int, first: str | None) -> list[str]:
    """Say of a joint output that its rows can't all be told apart by their ids, if that is so."""
    if not rows:
        return []
    which = counted(rows, "row has a custom_id", "rows have custom_ids")
    order = "all are answered, in the order of the inputs; an output for each input, by -o FOLDER/, keeps them apart"
    return [f"{which} that another input has too ({first}): {order}"]


def index_rows(
    scans: Iterable[Iterator[Row]],
    index: Index,
    places: Callable[[LinePlace], str],
    spool_folder: Path | None = None,
    shard_rows: int = SHARD_ROWS,
    stopped: Callable[[], bool] = lambda: False,
    parse_row: Callable[[Row], ParsedRow] = parse,
) -> None:
    """Walk over every row of every input and fill in `index`; its shards are complete when this returns.

    `scans` holds one iterator of rows for each input, `places` names a line of an input for the user.
    Ends early, with an index that says so by its counts only, once `stopped` tells it to.
    """
    cutter, repeats = ShardCutter(shard_rows), RepeatFinder(spool_folder)
    for file, rows in enumerate(scans):
        for row in rows:
            parsed = parse_row(row)
            index.take(row, parsed)
            repeats.add(parsed.custom_id.encode(), row.index, file, row.line, generated=parsed.nameless)
            if ended := cutter.add(file, row.offset, row.line, row.num_bytes):
                index.shards.append(ended)
            if stopped():
                return
    if ended := cutter.close():
        index.shards.append(ended)
    index.shards = list(_with_repeats(index.shards, repeats, places))
    if repeats.first_shared is not None:
        index.shared_ids, (place, first) = repeats.shared, repeats.first_shared
        index.first_shared = f"{places(place)} has that of {places(first)}"
    repeats.close()


def _with_repeats(shards: list[Shard], finder: RepeatFinder, places: Callable[[LinePlace], str]) -> Iterator[Shard]:
    """Note in each shard which of its rows repeat an id, and which need another one than theirs."""
    found = finder.repeats()
    pending = next(found, None)
    for shard in shards:
        repeats: dict[int, str] = {}
        fallback_ids: dict[int, str] = {}
        while pending is not None and pending[0] < shard.first_row + shard.rows:
            row, first = pending
            if first is None:
                fallback_ids[row] = finder.replaced_key(row)
            else:
                repeats[row] = places(first)
            pending = next(found, None)
        yield replace(shard, repeats=repeats, fallback_ids=fallback_ids) if repeats or fallback_ids else shard
