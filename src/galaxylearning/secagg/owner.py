"""What a data owner does: mask an update, and share the mask's secret among the members. It speaks once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from blake3 import blake3

from galaxylearning.crypto.ring import DEGREE, Stream, pack, public_rows, wipe
from galaxylearning.crypto.shamir import share
from galaxylearning.errors import UpdateRefused
from galaxylearning.learning.vectors import F64, I32, exact_dot, largest_magnitude, require_vector
from galaxylearning.secagg.plan import MaskingPlan
from galaxylearning.secagg.questions import row_blocks
from galaxylearning.units import Address, Digest, Entropy

_SEED_LABEL: Final = "galaxylearning 2026 secagg v1 public polynomials"


@dataclass(frozen=True, slots=True)
class Masked:
    """What an owner sends in a round: ``body``, open to all, and one share a member, in their order.

    The shares are in the clear here; each must be sealed to its member. Alone they reveal the update.
    """

    body: bytes
    shares: tuple[bytes, ...]


def public_seed(
    *, chain_id: int, contract: Address, job_id: int, round_index: int, model_digest: Digest
) -> bytes:
    """The 32-byte seed of a round's public polynomials: no two rounds of any job share one."""
    hasher = blake3(derive_key_context=_SEED_LABEL)
    hasher.update(chain_id.to_bytes(32, "big"))
    hasher.update(bytes.fromhex(contract[2:]).rjust(20, b"\0"))
    hasher.update(job_id.to_bytes(32, "big"))
    hasher.update(round_index.to_bytes(4, "big"))
    hasher.update(model_digest.rjust(32, b"\0"))
    return hasher.digest()


def mask_update(plan: MaskingPlan, seed: bytes, update: I32, *, entropy: Entropy) -> Masked:
    """Mask ``update`` int32[P] under a fresh secret: ``c = A s + t e + x``.

    Every call draws a new secret, new shares and new errors from ``entropy`` (three keys of 32 bytes). The
    secret and all that would reveal it are overwritten before this returns, whatever happens.

    Raises:
        UpdateRefused: another type or length, a coordinate or an L2 norm beyond the plan's.
    """
    vector = _admitted(plan, update)
    ring = plan.ring
    secret, transformed = np.empty((2, DEGREE)), np.empty((2, DEGREE))
    shares = np.empty((0, 2, DEGREE))
    draws, errors = Stream(entropy(32)), Stream(entropy(32))
    try:
        for index, field in enumerate(ring.fields):
            secret[index, :] = draws.uniform(ring, field.prime, DEGREE)
            transformed[index, :] = field.to_values(secret[index])
        shares = share(ring, secret, members=plan.members, threshold=plan.threshold, entropy=entropy)
        packed = tuple(pack(ring, own[None]) for own in shares)
        body = b"".join(
            _masked_block(plan, seed, block, transformed, _message(plan, vector, rows, errors))
            for block, rows in row_blocks(plan.parameters)
        )
    finally:
        wipe(secret, transformed, shares)
    return Masked(body, packed)


def _masked_block(plan: MaskingPlan, seed: bytes, block: int, transformed: F64, message: F64) -> bytes:
    """A block of ``A s + t e + x``; ``message`` [rows, N] is overwritten."""
    masked = np.empty((2, *message.shape))
    try:
        for index, field in enumerate(plan.ring.fields):
            values = public_rows(plan.ring, seed, index, block, len(message))
            values *= transformed[index]
            mask = field.to_coefficients(field.centred(values, out=values))
            mask += message
            masked[index] = field.canonical(mask)
            wipe(values, mask)
    finally:
        wipe(message)
    return pack(plan.ring, masked.transpose(1, 0, 2))


def _admitted(plan: MaskingPlan, update: I32) -> I32:
    vector = require_vector(update, "update", np.int32, size=plan.parameters)
    largest = largest_magnitude(vector)
    if largest > plan.levels:
        raise UpdateRefused(f"values must lie within ±{plan.levels}, found ±{largest}", where="update")
    square = exact_dot(vector, vector)
    if square > plan.update_norm**2:
        raise UpdateRefused(
            f"the L2 norm must be at most {plan.update_norm:.1f}, not {math.sqrt(square):.1f}", where="update"
        )
    return vector


def _message(plan: MaskingPlan, vector: I32, rows: slice, errors: Stream) -> F64:
    """``t e + x`` of these rows, [rows, N]; what fills the last row up has errors, too."""
    count = (rows.stop - rows.start) * DEGREE
    message = errors.errors(count)
    message *= float(plan.modulus)
    part = vector[rows.start * DEGREE : rows.stop * DEGREE]
    message[: part.size] += part
    return message.reshape(-1, DEGREE)
