"""Notes about bodies that can be sent: fields that are ignored, and wishes that settings do not allow."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from xbatch.rows.known_fields import NOT_MISSED, hint, ignored_fields, ignored_in_messages, ignored_inside
from xbatch.rows.needs import Allowed, brings_media, unmet_need
from xbatch.rows.request import CHAT, ENDPOINTS, Request
from xbatch.rows.row import Row

MAX_SHAPES = 4096
"""Shapes of bodies that are remembered; rows of others are examined one by one."""
MAX_NAMES = 100
"""Ignored fields that are told apart by their names."""
MAX_NAME_CHARS = 100
"""Longer names of ignored fields are cut: any text may stand there."""
_DEEP = frozenset({"response_format", "structured_outputs", "tools"})
"""Fields of a body that hold fields which can be wrong."""


Bounds = tuple[tuple[str, int], ...]
"""Fields of a body, each with the largest number about which there is nothing to say."""


@dataclass(slots=True)
class Noted:
    """Rows that have something in common."""

    rows: int
    first_place: str
    hint: str | None = None
    """What to write instead of an ignored field."""


@dataclass(slots=True)
class BodyNotes:
    """Counts ignored fields and unmet needs of requests.

    The keys of most bodies, as they stand, are those of an earlier one, so a usual row costs one look into a set of
    such shapes.
    """

    allowed: Allowed | None = None
    """What the settings allow; None where that is not asked."""
    ignored: dict[str, Noted] = field(default_factory=dict)
    """Ignored fields by name."""
    ignored_rows: int = 0
    """Rows that have any of them."""
    unmet: dict[str, Noted] = field(default_factory=dict)
    """Needs that the settings do not allow, by their names in `xbatch.rows.needs`."""
    completions: int = 0
    """Rows that are no chats."""
    first_chat: str | None = None
    """Place of the first row that is one."""
    media: Noted | None = None
    """Rows with media, which some models refuse."""
    _plain: dict[str, dict[tuple[str, ...], Bounds]] = field(default_factory=lambda: {each: {} for each in ENDPOINTS})
    """By endpoint, shapes of bodies about which there is nothing to say unless a number is above its bound."""

    def take(self, request: Request, row: Row) -> None:
        """Look at one request; cheap if its body has the fields of an earlier one."""
        body, endpoint = request.body, request.endpoint
        if endpoint != CHAT:
            self.completions += 1
        bounds = self._plain[endpoint].get(tuple(body))
        if bounds is None or not (_are_texts(body.get("messages")) and _are_within(body, bounds)):
            self._examine(body, endpoint, row)

    def facts(self) -> list[dict[str, Any]]:
        """Return the ignored fields as JSON."""
        return [{"name": name, **asdict(noted)} for name, noted in list(self.ignored.items())]

    @classmethod
    def of(cls, facts: list[dict[str, Any]]) -> Self:
        """Return the notes that gave these facts."""
        return cls(ignored={each["name"]: Noted(each["rows"], each["first_place"], each["hint"]) for each in facts})

    def _examine(self, body: dict[str, Any], endpoint: str, row: Row) -> None:
        """Note whatever there is to say about a body, and remember its shape if that is nothing."""
        inside = (*ignored_inside(body), *ignored_in_messages(body.get("messages")))
        names = dict.fromkeys(name[:MAX_NAME_CHARS] for name in (*ignored_fields(body, endpoint), *inside))
        for name in names:
            if (noted := self.ignored.get(name)) is not None:
                noted.rows += 1
            elif len(self.ignored) < MAX_NAMES:
                self.ignored[name] = Noted(1, row.place, hint(name, endpoint))
        self.ignored_rows += bool(names)
        if self.allowed is not None and (need := unmet_need(body, endpoint, self.allowed)) is not None:
            self.unmet[need] = _one_more(self.unmet.get(need), row)
        if endpoint == CHAT:
            self.first_chat = self.first_chat or row.place
            if brings_media(body.get("messages")):
                self.media = _one_more(self.media, row)
        if len(plain := self._plain[endpoint]) < MAX_SHAPES and self._is_plain(body, endpoint):
            bounds = self.allowed.bounds if self.allowed else {}
            plain[tuple(body)] = tuple((name, bounds[name]) for name in body if name in bounds)

    def _is_plain(self, body: dict[str, Any], endpoint: str) -> bool:
        """Tell whether there is nothing to say about any body with these fields whose numbers are within bounds."""
        names = body.keys()
        if not names <= NOT_MISSED[endpoint] or not names.isdisjoint(_DEEP):
            return False
        return self.allowed is None or names.isdisjoint(self.allowed.watched)


def _are_texts(messages: Any) -> bool:
    """Tell whether all messages have a content, and it is text."""
    for message in messages if type(messages) is list else ():
        content = message.get("content") if type(message) is dict else None
        if type(content) is list:
            if not all(type(part) is dict and part.get("type") == "text" for part in content):
                return False
        elif type(content) is not str:
            return False
    return True


def _are_within(body: dict[str, Any], bounds: Bounds) -> bool:
    """Tell whether no number of a body is above its bound."""
    return not bounds or not any(type(value := body[name]) is int and value > most for name, most in bounds)


def _one_more(noted: Noted | None, row: Row) -> Noted:
    return Noted(1, row.place) if noted is None else replace(noted, rows=noted.rows + 1)
