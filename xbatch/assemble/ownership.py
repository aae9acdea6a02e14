"""Which output files a job may replace: those that it has written itself, or any with --overwrite."""

from collections.abc import Callable, Collection, Sequence

from xbatch import storage
from xbatch.errors import StorageError, UsageError
from xbatch.job.folders import few
from xbatch.job.places import Places, watched_state_of
from xbatch.job.spec import JobSpec
from xbatch.state.folder import StateFolder

_WAYS_ON = "choose another output by {flag}, or have what is there replaced by --overwrite"


class Ownership:
    """A guard that keeps a job from replacing files that no run of it has written.

    The job's state lists the places of its outputs, each from before a file of the job lies there, so that a run that
    was killed is known by the next one as the one who wrote it. `occupied` returns the places in the way of the output
    at which files lie now.
    """

    def __init__(self, spec: JobSpec, places: Places, state: StateFolder, occupied: Callable[[], list[str]]) -> None:
        self._overwrite = spec.overwrite
        self._errors = spec.errors
        self._beside_output = spec.state is None or spec.state == watched_state_of(spec.output or "")
        self._folder = places.shown_output if places.shown_output.endswith("/") else None
        self._made = places.streams.keys()
        self._state = state
        self._occupied = occupied

    def check(self) -> None:
        """Raise UsageError if a file is in the way of the output that no run of this job has written."""
        own = self._own()
        if not self._overwrite and own is not None and (foreign := self._foreign(self._occupied(), own)):
            exist, them = ("exists", "it") if len(foreign) == 1 else ("exist", "them")
            raise UsageError(
                f"{few(foreign)} {exist}, and no run of this job has written {them}: {self._way_on(foreign)}"
            )

    def begin(self) -> None:
        """Note which files may be replaced from here on; only for the holder of the lease."""
        noted = self._state.own_outputs()
        if noted is None or self._overwrite:
            there = self._occupied() if self._overwrite or self._own() is None else []
            self._note(noted, there)

    def claim(self, uris: Sequence[str]) -> None:
        """Note places at which files of this job will lie, or which it will clear.

        Raises StorageError if there is a file by now that no run of this job has written.
        """
        noted = self._state.own_outputs() or frozenset()
        if not self._overwrite and (foreign := self._foreign(storage.existing(self._files(uris)), noted)):
            raise StorageError(
                f"{few(foreign)}: this output has come to exist while the job ran, and nothing of it was replaced; "
                "move it away and run the same command again, or add --overwrite"
            )
        self._note(noted, uris)

    def _own(self) -> frozenset[str] | None:
        """Return the places that the job has noted; None if all is its own, for an older version noted nothing."""
        noted = self._state.own_outputs()
        return frozenset() if noted is None and not self._state.used else noted

    def _note(self, noted: frozenset[str] | None, uris: Collection[str]) -> None:
        places = (noted or frozenset()) | {storage.same_place(uri) for uri in self._files(uris)}
        if places != noted:
            self._state.note_outputs(places)

    def _files(self, uris: Collection[str]) -> list[str]:
        """Return those of some outputs that lie where the user has said."""
        return [uri for uri in uris if uri not in self._made]

    def _foreign(self, uris: Collection[str], own: Collection[str]) -> list[str]:
        foreign = [uri for uri in self._files(uris) if storage.same_place(uri) not in own]
        if not self._beside_output:
            return foreign
        # A state that lies beside its output is moved together with it.
        names = {uri: self._below(uri) for uri in foreign}
        depths = {name.count("/") + 1 for name in names.values()}
        moved = {"/".join(place.split("/")[-depth:]) for place in own for depth in depths}
        return [uri for uri, name in names.items() if name not in moved]

    def _below(self, uri: str) -> str:
        """Return a file's name below the folder of the output."""
        if self._folder is not None and uri.startswith(self._folder):
            return uri.removeprefix(self._folder)
        return uri.rpartition("/")[2]

    def _way_on(self, foreign: Sequence[str]) -> str:
        return _WAYS_ON.format(flag="--errors" if foreign[0] == self._errors else "-o")
