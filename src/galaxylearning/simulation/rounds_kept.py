"""A round of a run as a checkpoint holds it: the model after it, and all that settlement will ask of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galaxylearning.contribution import SentUpdates
from galaxylearning.errors import Refused, StorageError
from galaxylearning.learning import ServerState
from galaxylearning.protocol.outcomes import Measured, ModelState, RoundOutcome
from galaxylearning.simulation.history import RoundRecord
from galaxylearning.units import Address, Digest, round_name

Arrays = dict[str, NDArray[Any]]


def pack(
    outcome: RoundOutcome, state: ModelState, record: RoundRecord, accounts: Sequence[Address]
) -> tuple[dict[str, Any], Arrays]:
    """Header and arrays; ``accounts`` are those of all identities by position."""
    place = {who: position for position, who in enumerate(accounts)}
    header = {
        "reasons": {place[who]: reason for who, reason in outcome.reasons.items()},
        "gain": outcome.gain,
        "model_digest": outcome.model_digest.hex(),
        "measured": [
            [outcome.measured_before.utility, outcome.measured_before.correct],
            [outcome.measured_after.utility, outcome.measured_after.correct],
        ],
        "record": record.to_document(),
    }
    arrays: Arrays = {
        "params": state.params,
        "buffers": state.buffers,
        "server": np.frombuffer(state.server.to_bytes(), np.int8),
        "owners": np.array([place[who] for who in outcome.data_owners], np.int64),
        "codes": outcome.codes,
        "weights": outcome.weights,
        "cosines": outcome.cosines,
        "values": outcome.values,
        "errors": outcome.errors,
    }
    if state.previous_step is not None:
        arrays["previous_step"] = state.previous_step
    if outcome.sent is not None:
        arrays["players"] = np.array([place[who] for who in outcome.sent.players], np.int64)
        arrays["sent"] = outcome.sent.updates
    return header, arrays


def unpack(
    round_index: int,
    header: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    accounts: Sequence[Address],
) -> tuple[RoundOutcome, ModelState, RoundRecord]:
    """Read ``pack`` back.

    Raises:
        StorageError: the checkpoint lacks something.
    """
    try:
        before, after = header["measured"]
        outcome = RoundOutcome(
            round_index=round_index,
            data_owners=tuple(accounts[who] for who in arrays["owners"].tolist()),
            codes=arrays["codes"],
            weights=arrays["weights"],
            cosines=arrays["cosines"],
            values=arrays["values"],
            errors=arrays["errors"],
            gain=float(header["gain"]),
            reasons={accounts[int(who)]: str(reason) for who, reason in header["reasons"].items()},
            model_digest=Digest(bytes.fromhex(header["model_digest"])),
            measured_before=Measured(*before),
            measured_after=Measured(*after),
            history=None,
            sent=SentUpdates(tuple(accounts[who] for who in arrays["players"].tolist()), arrays["sent"])
            if "sent" in arrays
            else None,
        )
        state = ModelState(
            arrays["params"],
            arrays["buffers"],
            ServerState.from_bytes(arrays["server"].tobytes()),
            arrays.get("previous_step"),
        )
        return outcome, state, RoundRecord.from_document(header["record"])
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError, Refused) as error:
        raise StorageError(
            f"is not a checkpoint of this version: {str(error)[:200]}", where=round_name(round_index)
        ) from error
