"""Terms of a job with nothing special about it."""

from __future__ import annotations

from galaxylearning.messages.plan import Plan
from galaxylearning.messages.terms import Admission, Column, EvaluatorSeat, Price, Schema, Terms, Windows
from galaxylearning.units import Address

HEX = "ab" * 32
ACCOUNT = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
PLAN = Plan(rounds=3, learning_rate=0.3, steps=3, batch_size=8, clip_norm=0.5, minimum_owners=2)


def terms_of(plan: Plan = PLAN, *, seed: int = 3) -> Terms:
    return Terms(
        title="Plain",
        description="",
        requester=ACCOUNT,
        requester_key=HEX,
        evaluators=(EvaluatorSeat(ACCOUNT, HEX, HEX),),
        schema=Schema((Column("x", "number"),), Column("y", "category", classes=("a", "b"))),
        plan=plan,
        price=Price(token=ACCOUNT, bounty="1000", fee_per_seat="1", target_gain=0.5),
        admission=Admission(),
        windows=Windows(1, 1, 1, 1, 1, 1, 1),
        graph=HEX,
        loss="cross_entropy",
        model=HEX,
        model_digest=HEX,
        test_set=HEX,
        test_set_digest=HEX,
        test_rows=128,
        seed=seed,
    )
