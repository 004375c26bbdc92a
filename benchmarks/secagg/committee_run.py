"""What a member and an opener spend on a round, and whether what is opened is right.

Run as: python -m benchmarks.secagg.committee_run PARAMETERS BITS OWNERS COHORT

``OWNERS`` masked updates take part, in a job planned for ``COHORT``; they lie in a file, so that 1,000 owners
need no memory. A member opens its sealed shares, expands the round's public polynomials, answers gate and
value (17 scalars an owner) and one weighted sum. An opener opens all three from T + 3 members' answers, one
of which is wrong.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt
from benchmarks.measuring import PREFIX
from benchmarks.secagg.sizes import (
    CONTRACT,
    SCALARS,
    SENDER,
    planned,
    sealing_keys,
    seed_of_round,
    send,
    update,
)

from galaxylearning.crypto.seal import SealContext, open_sealed
from galaxylearning.secagg.member import answer_scalars, answer_sum, read_share
from galaxylearning.secagg.opener import open_scalars, open_sum
from galaxylearning.secagg.plan import MaskingPlan
from galaxylearning.secagg.questions import (
    Dense,
    Joined,
    Questions,
    Signs,
    quantise_functional,
    question_polynomials,
)
from galaxylearning.secagg.weights import shared_weights

T = TypeVar("T")


def timed(action: Callable[[], T]) -> tuple[T, float]:
    """The result, and the CPU seconds of this process."""
    start = time.process_time()
    found = action()
    return found, time.process_time() - start


def asked(plan: MaskingPlan, rng: np.random.Generator) -> tuple[Questions, Questions]:
    """The gate's questions (one product, 15 projections) and the value's (one product)."""
    vectors = [
        quantise_functional(rng.standard_normal(plan.parameters), norm=plan.functional_norm, rng=rng)[0]
        for _ in range(2)
    ]
    gate = Joined((Dense(vectors[0][None]), Signs(SCALARS - 2, plan.parameters, rng.bytes(32))))
    return gate, Dense(vectors[1][None])


class Bodies(Sequence[bytes]):
    """Masked updates in a file, read one at a time."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size, self._count = file, size, 0

    def append(self, body: bytes) -> None:
        """Add one at the end."""
        self._file.seek(self._count * self._size)
        self._file.write(body)
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self._count:
            raise IndexError(index)
        self._file.seek(index * self._size)
        return self._file.read(self._size)


def main() -> None:
    """Measure and say the result."""
    parameters, bits, owners, cohort = map(int, sys.argv[1:5])
    plan = planned(parameters=parameters, bits=bits, cohort=cohort)
    with tempfile.TemporaryFile() as file:
        say(plan, owners, Bodies(file, plan.body_bytes))


def say(plan: MaskingPlan, owners: int, bodies: Bodies) -> None:
    """Make the masked updates, let members answer, open, compare with the clear."""
    rng, seed = np.random.default_rng(1), seed_of_round(0)
    keys = sealing_keys(plan.members)
    weights = shared_weights(rng.integers(0, plan.max_weight + 1, owners), plan.minimum_sum)
    gate, value = asked(plan, rng)
    envelopes: list[list[bytes]] = []
    clear_gate, clear_value = np.empty((owners, gate.count), np.int64), np.empty((owners, 1), np.int64)
    clear_sum = np.zeros(plan.parameters, np.int64)
    for owner in range(owners):
        integers = update(plan, rng)
        masked, sealed = send(plan, seed, integers, [key.public for key in keys])
        bodies.append(masked.body)
        envelopes.append(sealed)
        clear_gate[owner], clear_value[owner] = gate.products(integers[None]), value.products(integers[None])
        clear_sum += weights[owner] * integers

    def member(index: int) -> tuple[list[bytes], dict[str, float]]:
        context = SealContext(31337, CONTRACT, 1, 0, f"share-{index}", SENDER)

        def opened() -> npt.NDArray[np.float64]:
            found = [
                open_sealed(sealed[index], keys[index], context, max_bytes=plan.share_bytes)
                for sealed in envelopes
            ]
            return np.stack([read_share(plan, share) for share in found])

        shares, open_s = timed(opened)
        polynomials, expand_s = timed(
            lambda: [question_polynomials(plan.ring, seed, question) for question in (gate, value)]
        )
        answers, answer_s = timed(
            lambda: [
                answer_scalars(plan, polynomials[0], shares),
                answer_sum(plan, shares, weights),
                answer_scalars(plan, polynomials[1], shares),
            ]
        )
        spent = {"open_cpu_s": open_s, "expand_cpu_s": expand_s, "answer_cpu_s": answer_s}
        return answers, spent

    all_answers: dict[int, list[bytes]] = {}
    spent: dict[str, float] = {}
    for index in range(plan.threshold + 3):
        all_answers[index], spent = member(index)
    liar = 2
    all_answers[liar] = [_spoilt(plan, answer) for answer in all_answers[liar]]
    by_step = [{member: answers[i] for member, answers in all_answers.items()} for i in range(3)]
    opened_gate, gate_s = timed(lambda: open_scalars(plan, gate, bodies, by_step[0]))
    opened_sum, sum_s = timed(lambda: open_sum(plan, seed, bodies, weights, by_step[1]))
    opened_value, value_s = timed(lambda: open_scalars(plan, value, bodies, by_step[2]))
    is_exact = (
        bool((opened_gate.values == clear_gate).all())
        and bool((opened_value.values == clear_value).all())
        and bool((opened_sum.total == clear_sum).all())
        and not opened_sum.overflowed.any()
    )
    result = {
        "version": "0.1.0",
        "ring": plan.ring.name,
        "owners": owners,
        "parameters": plan.parameters,
        "member_cpu_s": sum(spent.values()),
        **spent,
        "member_bytes": sum(map(len, all_answers[0])),
        "opener_cpu_s": gate_s + sum_s + value_s,
        "opener_gate_cpu_s": gate_s,
        "opener_sum_cpu_s": sum_s,
        "opener_value_cpu_s": value_s,
        "is_exact": is_exact,
        "is_liar_named": liar in opened_sum.wrong
        and liar in opened_gate.wrong
        and liar in opened_value.wrong,
    }
    print(PREFIX + json.dumps(result), flush=True)


def _spoilt(plan: MaskingPlan, answer: bytes) -> bytes:
    """A well-formed answer that is right about the first half only."""
    half = len(answer) // 2 // plan.ring.pair_bytes * plan.ring.pair_bytes
    return answer[:half] + bytes(len(answer) - half)


if __name__ == "__main__":
    main()
