"""One cohort, played honestly and with one attacker at a time: who is paid what, under every scheme."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from benchmarks.fairness import schemes
from benchmarks.fairness.attackers import Aligned, Deflate, Disguised, FromPast, Maker, StaleTraining
from benchmarks.fairness.cohorts import Played, Privacy, Setting, play
from benchmarks.fairness.schemes import Worth

from galaxylearning.units import Address

Kind: TypeAlias = Literal["copies", "split", "free", "poison", "trick", "rival"]

COUNTS = (2, 3, 4, 5, 6, 7, 8)
ENOUGH_ROWS = 16


@dataclass(frozen=True, slots=True)
class Attack:
    """What one data owner does; ``does`` is a text of a behaviour or makes one."""

    name: str
    kind: Kind
    does: str | Maker


ATTACKS: tuple[Attack, ...] = (
    *(Attack(f"duplicates, k = {k}", "copies", f"sybil-duplicate:{k}") for k in COUNTS),
    *(Attack(f"splits, k = {k}", "split", f"sybil-split:{k}") for k in COUNTS),
    Attack("zero updates", "free", "zero"),
    Attack("tiny noise", "free", "noise:0.0001"),
    Attack("large noise", "free", "noise:1.0"),
    Attack("replays the last step", "free", "last-step"),
    Attack("replays the mean of past steps", "free", lambda stage: FromPast(stage, "mean")),
    Attack("sends the model of three rounds ago", "free", lambda stage: FromPast(stage, "model")),
    Attack("replays the step of three rounds ago", "free", lambda stage: FromPast(stage, "step")),
    Attack("flips the sign", "poison", "sign-flip"),
    Attack("shuffles its labels", "poison", "shuffled-labels"),
    Attack("sends -5 times its update", "poison", "scaled:-5"),
    Attack("trains once, sends that again", "trick", lambda _stage: StaleTraining([])),
    Attack("inflates its norm tenfold", "trick", "scaled:10"),
    Attack("draws its rows to public class frequencies", "trick", lambda stage: Aligned(stage, "labels")),
    Attack("adds 30 public rows", "trick", lambda stage: Aligned(stage, "more")),
    Attack("has 30 public rows and none of its own", "trick", lambda stage: Aligned(stage, "only")),
    Attack("duplicates, each under a vector of its own", "trick", lambda _stage: Disguised(2, 0.3)),
)
RIVAL = "deflates a rival whose update it knows"
COPIES_RIVAL = "sends what a rival sends"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attack in one cohort under one scheme, in the scheme's unit of pay.

    ``took`` is what all identities of the attacker earned, ``honestly`` what the same data owner earns when
    it is honest, ``median`` what the median honest one earned beside the attacker.
    """

    attack: str
    kind: Kind
    scheme: str
    privacy: Privacy
    setting: str
    seed: int
    took: float
    honestly: float
    median: float


def run_cohort(setting: Setting, seed: int) -> list[Outcome]:
    """All attacks on one cohort, in both modes; the attacker is the data owner of median pay."""
    found: list[Outcome] = []
    honest = play(setting, seed)
    attacker = median_owner(honest)
    for privacy in ("sealed", "masked"):
        base = honest if privacy == "sealed" else play(setting, seed, privacy="masked")
        before = _schemes(base)
        for attack in ATTACKS:
            played = play(setting, seed, {attacker: attack.does}, privacy=privacy)
            for scheme, worth in _schemes(played).items():
                if scheme in before:
                    parts = _compared(base, before[scheme], played, worth, attacker)
                    found.append(_named(attack.name, attack.kind, scheme, privacy, setting, seed, parts))
        found += _on_rival(setting, seed, privacy, base, attacker)
    return found


def _on_rival(setting: Setting, seed: int, privacy: Privacy, base: Played, attacker: int) -> list[Outcome]:
    """What a rival is left with; ``took`` and ``honestly`` are its pay, not the attacker's."""
    rival = (attacker + 1) % setting.owners
    before = schemes.pay(schemes.paid(base))
    found = []
    tricks: dict[str, str | Maker] = {RIVAL: lambda _stage: Deflate(rival), COPIES_RIVAL: f"mimic:{rival}"}
    for name, does in tricks.items():
        played = play(setting, seed, {attacker: does}, privacy=privacy)
        after = schemes.pay(schemes.paid(played))
        parts = (_of(played, after, rival), _of(base, before, rival), _median(played, after, attacker))
        found.append(_named(name, "rival", "paid", privacy, setting, seed, parts))
    return found


def _schemes(played: Played) -> dict[str, Worth]:
    """In masked mode what the protocol pays; in sealed mode all references beside it."""
    found = {"paid": schemes.paid(played)}
    if played.job.terms.privacy == "masked":
        return found
    found["without merging twins"] = schemes.paid(played, is_merged=False)
    found["path, no novelty"] = schemes.plain_path(played)
    found["size"] = schemes.by_size(played)
    found["distance to mean"] = schemes.by_distance(played)
    if len(played.accounts) <= schemes.MOST_IDENTITIES:
        found |= schemes.games(played)
    return found


def _compared(
    base: Played, before: Worth, played: Played, after: Worth, attacker: int
) -> tuple[float, float, float]:
    pays, earlier = schemes.pay(after), schemes.pay(before)
    return _of(played, pays, attacker), _of(base, earlier, attacker), _median(played, pays, attacker)


def _named(
    name: str,
    kind: Kind,
    scheme: str,
    privacy: Privacy,
    setting: Setting,
    seed: int,
    parts: tuple[float, float, float],
) -> Outcome:
    return Outcome(name, kind, scheme, privacy, f"{setting.data}, {setting.split}", seed, *parts)


def _of(played: Played, pays: Mapping[Address, float], owner: int) -> float:
    return sum(pays[who] for who in played.behind(owner))


def _median(played: Played, pays: Mapping[Address, float], but: int) -> float:
    others = [pays[who] for who, owner in zip(played.accounts, played.played_by, strict=True) if owner != but]
    return float(np.median(others))


def median_owner(honest: Played) -> int:
    """The data owner of median pay among those with enough rows to split."""
    worth = schemes.paid(honest)
    able = [who for who, size in enumerate(honest.sizes) if size >= ENOUGH_ROWS]
    able.sort(key=lambda who: worth[honest.accounts[who]])
    return able[len(able) // 2]
