"""The exceptions that end a job, each with the exit code that a scheduler acts on."""

from enum import IntEnum

from xbatch.masking import masked


class ExitCode(IntEnum):
    """What the process tells its caller; README lists what a scheduler does with each."""

    COMPLETE = 0
    TOO_MANY_FAILURES = 1
    UNUSABLE = 2
    ENGINE = 3
    STORAGE = 4
    BUG = 70
    INTERRUPTED = 75


class XbatchError(Exception):
    """Trouble with the job; its text is one sentence for the user, in which the secrets of URIs are masked."""

    exit_code = ExitCode.BUG

    def __init__(self, text: str = "") -> None:
        super().__init__(masked(text))


class UsageError(XbatchError):
    """The command, an input or an output can't be used; nothing was run."""

    exit_code = ExitCode.UNUSABLE


class EngineError(XbatchError):
    """The engine can't be started or has died; what is settled is kept."""

    exit_code = ExitCode.ENGINE


class StorageError(XbatchError):
    """Reading or writing failed for good; what is settled is kept."""

    exit_code = ExitCode.STORAGE


class PlaceUnusable(StorageError):
    """An address that can't be used as it is: no such host, or a certificate that is not trusted."""

    exit_code = ExitCode.UNUSABLE


class AddressInvalid(PlaceUnusable):
    """An address that means nothing, now or later: an unknown protocol, no host or bucket, a port that can't be."""


class StorageUnavailable(StorageError):
    """A store has not answered for as long as it was waited for; what is settled is kept."""

    exit_code = ExitCode.INTERRUPTED


class Interrupted(XbatchError):
    """The job was stopped and goes on when the same command is run again."""

    exit_code = ExitCode.INTERRUPTED
