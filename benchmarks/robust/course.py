"""One federation from its first round to its last, with some data owners attacking and one defence."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from benchmarks.robust.attacks import ATTACKS, BACKDOORS, SHORT, shortened, worst_update
from benchmarks.robust.cases import OWNERS, Case
from benchmarks.robust.defences import Defence, Seen

from galaxylearning.engines.choose import choose_engine
from galaxylearning.engines.engine import Engine, Training
from galaxylearning.errors import UpdateRefused
from galaxylearning.learning import Standings, clip_norm, quantise_rows, train_local
from galaxylearning.learning.exact import IntRows
from galaxylearning.learning.vectors import F32, I64
from galaxylearning.protocol.gradients import mean_gradient
from galaxylearning.protocol.hardening import harden
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.protocol.updates import hidden_plan, local_plan, quantizer
from galaxylearning.simulation.behaviours import enlist
from galaxylearning.simulation.behaviours_data import Backdoor
from galaxylearning.simulation.players import Players

MEMORY_MIB = 1024.0
GUESSES = 2
MOST_JUDGED = 200
"""Rows by which attackers foresee what a candidate does."""
_NO_BUFFERS = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True)
class Ended:
    """What a federation came to: accuracy on the judged rows, and how often a backdoor's trigger worked;
    where nobody taught one, how often each works by itself. All also of the hardened model, if asked for."""

    accuracy: float
    backdoor: float | None = None
    untaught: dict[str, float] = field(default_factory=dict)
    hardened: Ended | None = None


class Course:
    """A case with one attack by some data owners, ready to be run under any defence."""

    def __init__(self, case: Case, attack: str | None, attackers: int) -> None:
        self.case, self.attack, self.attackers = case, attack, attackers if attack else 0
        behaviour = None
        if attack is not None:
            behaviour = BACKDOORS.get(attack) or ATTACKS[attack]
        # Attackers are drawn, so that a partition's order does not matter; they are the same for all attacks.
        order = np.random.default_rng([case.seed, 0xBAD]).permutation(OWNERS)
        self.bad = np.sort(order[: self.attackers]).astype(np.int64)
        cast = enlist(
            case.cohort,
            dict.fromkeys(self.bad.tolist(), behaviour) if behaviour is not None else {},
            seed=case.seed,
        )
        self.trigger = behaviour if isinstance(behaviour, Backdoor) else None
        self.engine: Engine = choose_engine(
            case.graph,
            case.weights,
            cast.cohort,
            Training(local_plan(case.plan), case.seed),
            wanted="stacked" if case.data == "digits-mlp" else "vmapped",
            budget_mib=MEMORY_MIB,
            workers=1,
            report=lambda _line: None,
        )
        self.players = Players(cast, self.engine, case.plan, seed=case.seed)
        self.own_rows = (
            _joined([case.cohort.rows(who) for who in self.bad.tolist()]) if self.attackers else None
        )

    def run(self, defence: Defence, *, is_hardened: bool = False) -> Ended:
        """Train to the end; then, if asked, harden with the hidden set."""
        case, scale = self.case, quantizer(self.case.plan)
        params, last, standings = case.model.initial()[0], None, Standings()
        everybody = np.arange(OWNERS, dtype=np.int64)
        for index in range(case.plan.rounds):
            played = self.players.play(params, _NO_BUFFERS, everybody, index, last)
            rows = shortened(played.parameters, self.bad) if self.attack in SHORT else played.parameters
            reference = self._step(params, case.hidden.gating, index, 0x6A7E)
            as_owner = self._step(params, case.hidden.gating, index, 0x6A7E, is_long=False)
            if reference is None or as_owner is None:
                break
            rng = np.random.default_rng([case.seed, index, 0x5161])
            seen = Seen(rows, reference, as_owner, self.attackers, rng, standings)
            if self.attack is not None and self.attack.startswith("gate-aware"):
                seen = replace(seen, rows=seen.rows.copy())
                seen.rows[self.bad] = self._adapted(params, seen, index, defence)
            mean = defence(seen)
            step = mean / scale.scale
            params, last = (params + step).astype(np.float32), step
        ended = self._judged(params)
        if not is_hardened:
            return ended
        rng = np.random.default_rng([case.seed, 0x4A2D])
        hidden, plan = case.hidden.everything, local_plan(case.plan)
        hardened, _ = harden(case.model, (params, _NO_BUFFERS), hidden, plan, rng=rng)
        return replace(ended, hardened=self._judged(hardened))

    def close(self) -> None:
        """Let go of the engine."""
        self.engine.close()

    def _step(self, params: F32, rows: Rows, index: int, salt: int, *, is_long: bool = True) -> I64 | None:
        """The quantised step of training on ``rows``, as long as the gate's; None where it diverges."""
        plan, model = self.case.plan, self.case.model
        local = hidden_plan(plan, len(rows)) if is_long else local_plan(plan)
        gradient = mean_gradient(model, rows)
        rng = np.random.default_rng([self.case.seed, index, salt])
        try:
            found = train_local(gradient, params, _NO_BUFFERS, len(rows), local, rng=rng)
        except UpdateRefused:
            return None
        return quantizer(plan).quantize(clip_norm(found.update, plan.clip_norm)).astype(np.int64)

    def _adapted(self, params: F32, seen: Seen, index: int, defence: Defence) -> IntRows:
        """What all adaptive attackers send, quantised: the worst of their candidates as they foresee it.

        They play the defence through with the step on the hidden set as they guess it, from samples of
        their own rows, or as they were told it, and see what the model then loses on their own rows.
        """
        own, model, plan = self.own_rows, self.case.model, self.case.plan
        if own is None:
            raise ValueError("nobody attacks")
        scale = quantizer(plan)
        guesses = [seen.reference] if "told" in str(self.attack) else self._guesses(params, own, index)
        rows = seen.rows.copy()
        rng = np.random.default_rng([self.case.seed, index, 0x6E54])
        judged = own.take(rng.permutation(len(own))[:MOST_JUDGED].astype(np.int64))

        def harm(sent: F32) -> float:
            rows[self.bad] = quantise_rows(sent[None], scale, plan.clip_norm)
            losses = []
            for guess in guesses:
                rng = np.random.default_rng([self.case.seed, index, 0x6E55])
                played = replace(
                    seen,
                    rows=rows,
                    reference=guess,
                    as_owner=_scaled_to(guess, seen.as_owner),
                    rng=rng,
                    is_real=False,
                )
                step = defence(played) / scale.scale
                moved = (params + step).astype(np.float32)
                found = model.per_sample_loss(moved, _NO_BUFFERS, (judged.inputs,), judged.labels)
                losses.append(float(np.minimum(found, plan.loss_clip).mean()))
            return sum(losses) / max(1, len(losses))

        real = (seen.rows / scale.scale).astype(np.float32)
        middle = np.mean(guesses, axis=0) / scale.scale if guesses else np.zeros(params.size)
        sent = worst_update(np.delete(real, self.bad, axis=0), real[self.bad], middle, harm)
        return quantise_rows(sent[None], scale, plan.clip_norm)

    def _guesses(self, params: F32, own: Rows, index: int) -> list[I64]:
        """Steps as the hidden set may give them, from samples of the attackers' rows."""
        rng = np.random.default_rng([self.case.seed, index, 0x6E56])
        size = len(self.case.hidden.gating)
        found = []
        for number in range(GUESSES):
            sample = own.take(rng.choice(len(own), size, replace=True).astype(np.int64))
            step = self._step(params, sample, index, 0x6E57 + number)
            if step is not None:
                found.append(step)
        return found

    def _judged(self, params: F32) -> Ended:
        if not np.isfinite(params).all():
            return Ended(0.1, None)
        accuracy = self._accuracy(params, self.case.judged)
        if self.trigger is None:
            probes = {name: one.probe(self.case.judged) for name, one in BACKDOORS.items()}
            return Ended(
                accuracy, untaught={name: self._accuracy(params, rows) for name, rows in probes.items()}
            )
        return Ended(accuracy, self._accuracy(params, self.trigger.probe(self.case.judged)))

    def _accuracy(self, params: F32, rows: Rows) -> float:
        found = self.case.model.predict(params, _NO_BUFFERS, (rows.inputs,))
        return float((np.argmax(found, axis=-1) == rows.labels).mean())


def _scaled_to(step: I64, other: I64) -> I64:
    """A step as long as another one."""
    longer = float(np.linalg.norm(step)) or 1.0
    found: I64 = np.rint(step * (float(np.linalg.norm(other)) / longer)).astype(np.int64)
    return found


def _joined(parts: list[Rows]) -> Rows:
    return Rows(np.concatenate([one.inputs for one in parts]), np.concatenate([one.labels for one in parts]))
