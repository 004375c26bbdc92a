"""The tree of expected failures. Programmer mistakes stay ``ValueError`` and ``TypeError``.

::

    GalaxyError
    ├── Refused                  something from outside was not acceptable; the sender is at fault
    │   ├── GraphRefused         a model graph or its weights
    │   ├── BlobRefused          a blob, frame or sealed envelope
    │   │   └── BlobDamaged      what a store gave is not what its digest says (retryable)
    │   ├── MessageRefused       a record, signature or typed message
    │   ├── UpdateRefused        an owner's update
    │   ├── DataRefused          a user's data file or data set
    │   ├── JobRefused           a job file, its terms or an enrolment
    │   ├── WorkerRefused        a training that hit a cap, or whose worker crashed or broke a rule
    │   └── ConfigRefused        a setting, option or policy file
    ├── UnsupportedModel         the requester's model cannot be compiled
    ├── BlobMissing              a blob that should exist does not
    ├── LedgerError              the chain could not be read or written
    │   ├── LedgerUnreachable    nothing answered in time (retryable)
    │   │   └── AnswerRefused    what answered said what cannot be
    │   ├── ChainDisagreement    endpoints contradict each other, or one the chain it was (retryable)
    │   ├── FinalityBroken       a block that was final is no longer there; nothing may be signed any more
    │   └── TransactionReverted  a contract refused, with its reason
    ├── StorageError             a disk or database failed
    │   └── DiskFull             nothing more can be written (retryable)
    ├── PhaseError               an event the job's state does not allow
    ├── QuorumMissing            too few evaluators or owners (retryable)
    │   └── NoSharing            more members lie than their answers can tell
    ├── PurseEmpty               a relayer has spent what its operator allows (retryable)
    ├── AuditFailed              what was recomputed differs from what was recorded
    └── KeyUnavailable           no key, or a wrong passphrase
"""

from __future__ import annotations


class GalaxyError(Exception):
    """Base of every expected failure.

    ``where`` names the thing at fault (a field, a blob, a peer), ``retryable`` says whether the same
    call may succeed later without anything being changed. Messages quote strangers: what is not printable
    in them (escapes of a terminal, letters that turn writing around, half a surrogate pair) is escaped.
    """

    retryable = False
    exit_code = 1

    def __init__(self, message: str, *, where: str | None = None) -> None:
        super().__init__(_printable(message if where is None else f"{where}: {message}"))
        self.where = where


_MAX_ESCAPED_CHARS = 1_000


def _printable(text: str) -> str:
    if text.replace("\n", "").isprintable():
        return text
    escaped = "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode()
        for letter in text
    )
    return escaped if len(escaped) <= _MAX_ESCAPED_CHARS else f"{escaped[:_MAX_ESCAPED_CHARS]}..."


class Refused(GalaxyError):
    """Input from outside that is not acceptable."""

    exit_code = 3


class GraphRefused(Refused):
    """A model graph or its weights broke a rule."""


class BlobRefused(Refused):
    """A blob, frame or sealed envelope is malformed or not what its digest or context says."""


class BlobDamaged(BlobRefused):
    """What a store gave is not what its digest says: the blob itself may be had later, or elsewhere."""

    retryable = True


class MessageRefused(Refused):
    """A record or typed message is malformed, wrongly signed, or for somebody or something else."""


class UpdateRefused(Refused):
    """An owner's update is malformed, out of range, late or not its own."""


class DataRefused(Refused):
    """A data file or data set cannot be used."""


class JobRefused(Refused):
    """A job file, its terms or an enrolment is not acceptable."""


class WorkerRefused(Refused):
    """A training that hit a cap, or whose worker crashed or sent what it must not.

    ``cap`` names the cap as the owner's policy does; None where it was none.
    """

    def __init__(self, message: str, *, where: str | None = None, cap: str | None = None) -> None:
        super().__init__(message, where=where)
        self.cap = cap


class ConfigRefused(Refused):
    """A setting, option or policy is not acceptable."""


class UnsupportedModel(GalaxyError):
    """The requester's model uses something that a model graph cannot express."""

    exit_code = 3


class BlobMissing(GalaxyError):
    """A blob that should exist does not."""

    retryable = True
    exit_code = 4


class LedgerError(GalaxyError):
    """The chain could not be read or written."""

    exit_code = 5


class LedgerUnreachable(LedgerError):
    """No answer in time."""

    retryable = True


class AnswerRefused(LedgerUnreachable):
    """An endpoint said what cannot be: a malformed or cut-off answer, a header or log that is none."""


class ChainDisagreement(LedgerError):
    """Endpoints of one chain contradict each other about what is final."""

    retryable = True


class FinalityBroken(LedgerError):
    """A block that was final is not on the chain any more: whoever acted on it must stop and look."""

    exit_code = 10


class TransactionReverted(LedgerError):
    """A contract refused; ``reason`` is its custom error's name.

    ``gas_used``: what that cost where it failed in its block; 0 where it was not sent.
    """

    def __init__(self, message: str, *, reason: str, where: str | None = None, gas_used: int = 0) -> None:
        super().__init__(message, where=where)
        self.reason, self.gas_used = reason, gas_used


class StorageError(GalaxyError):
    """A disk or database failed."""

    exit_code = 6


class DiskFull(StorageError):
    """Nothing more can be written until somebody makes room."""

    retryable = True


class PhaseError(GalaxyError):
    """The job's state does not allow this event."""

    exit_code = 7


class QuorumMissing(GalaxyError):
    """Too few evaluators or data owners took part."""

    retryable = True
    exit_code = 7


class NoSharing(QuorumMissing):
    """The answers of a committee fit no sharing: more of its members lie than so many answers can tell."""


class PurseEmpty(GalaxyError):
    """A relayer has spent what its operator allows it; what is left waits for another day."""

    retryable = True


class AuditFailed(GalaxyError):
    """What was recomputed differs from what was recorded."""

    exit_code = 8


class KeyUnavailable(GalaxyError):
    """No key under that name, or a wrong passphrase."""

    exit_code = 9
