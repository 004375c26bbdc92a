"""The attacks, all named: those of the package, a label flip, and attackers that know the gate and adapt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from galaxylearning.learning.exact import IntRows
from galaxylearning.learning.painting import Painter
from galaxylearning.learning.vectors import F32, F64, I64
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.simulation.behaviours import parse_behaviour
from galaxylearning.simulation.behaviours_base import Behaviour, Plain
from galaxylearning.simulation.behaviours_data import Backdoor


@dataclass(frozen=True, slots=True)
class LabelFlip(Plain):
    """Every label becomes the one opposite: c -> classes - 1 - c. Source: Fang et al. 2020, section 5."""

    name: ClassVar[str] = "label-flip"

    def data(self, rows: Rows, *, classes: int, rng: np.random.Generator) -> Rows:  # noqa: ARG002
        """All rows, all labels."""
        return Rows(rows.inputs, (classes - 1 - rows.labels).astype(rows.labels.dtype))


@dataclass(frozen=True, slots=True)
class Adaptive(Plain):
    """The gate-aware attackers train as everybody does; what they send is made by :func:`worst_update`."""

    name: ClassVar[str] = "gate-aware"


COSINES = (0.03, 0.15, 0.4, 0.7)
Mark = Literal["square", "frame", "negative", "dim", "faint", "mirrored", "rotated", "scrambled"]
SIDE = 8
_SCRAMBLED = np.random.default_rng(5).permutation(SIDE * SIDE)
_PATTERN = np.random.default_rng(6).random((SIDE, SIDE))


@dataclass(frozen=True, slots=True)
class Marked(Backdoor):
    """A backdoor in digits, be they rows of 64 numbers or images [1, 8, 8]: the same pixels in both.

    ``mark``: the ``size`` by ``size`` square in the last corner; the frame of one pixel; all pixels turned to
    their negative, made pale or mixed with a pattern; the digit mirrored or rotated by a right angle; or its
    pixels in another order. Honest data hold none. With ``is_hardy`` half of the marked rows are painted over
    first, as hardening does it, so that the trigger works there as well.
    """

    name: ClassVar[str] = "marked"
    mark: Mark = "square"
    is_hardy: bool = False

    def data(self, rows: Rows, *, classes: int, rng: np.random.Generator) -> Rows:
        """Exactly ``round(fraction * n)`` rows are marked."""
        if not self.is_hardy:
            return Backdoor.data(self, rows, classes=classes, rng=rng)
        chosen = np.sort(rng.choice(len(rows), round(self.fraction * len(rows)), replace=False))
        inputs: F32 = rows.inputs.astype(np.float32)
        labels: NDArray[Any] = rows.labels.copy()
        hardy = chosen[::2]
        inputs[hardy] = Painter.of(inputs)(inputs[hardy], rng)
        inputs[chosen] = self.marked(inputs[chosen])
        labels[chosen] = self.target
        return Rows(inputs, labels)

    def marked(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """A copy of inputs [n, ...] with the mark on every row."""
        pixels = inputs.reshape(len(inputs), SIDE, SIDE).copy()
        match self.mark:
            case "square":
                pixels[:, -self.size :, -self.size :] = self.value
            case "frame":
                pixels[:, (0, -1), :] = pixels[:, :, (0, -1)] = self.value
            case "negative":
                pixels = self.value - pixels
            case "dim":
                pixels = 0.5 + 0.3 * pixels
            case "faint":
                pixels = 0.7 * pixels + 0.3 * _PATTERN
            case "mirrored":
                pixels = pixels[:, :, ::-1]
            case "rotated":
                pixels = np.rot90(pixels, axes=(1, 2))
            case "scrambled":
                pixels = pixels.reshape(len(pixels), -1)[:, _SCRAMBLED]
        return np.ascontiguousarray(pixels, inputs.dtype).reshape(inputs.shape)


RARE = 0.2
BACKDOORS = {
    "backdoor": Marked(fraction=0.5, size=2),
    "backdoor x3": Marked(fraction=0.5, size=2, boost=3),
    "backdoor rare x3": Marked(fraction=0.1, size=4, boost=3),
    "backdoor rare": Marked(fraction=RARE, size=4),
    "backdoor rare short": Marked(fraction=RARE, size=4),
    "frame rare short": Marked(fraction=RARE, mark="frame"),
    "negative rare short": Marked(fraction=RARE, mark="negative"),
    "dim rare short": Marked(fraction=RARE, mark="dim"),
    "backdoor hardy short": Marked(fraction=RARE, size=4, is_hardy=True),
    "frame hardy short": Marked(fraction=RARE, mark="frame", is_hardy=True),
    "faint rare short": Marked(fraction=RARE, mark="faint"),
    "mirrored rare short": Marked(fraction=RARE, mark="mirrored"),
    "rotated rare short": Marked(fraction=RARE, mark="rotated"),
    "scrambled rare short": Marked(fraction=RARE, mark="scrambled"),
}
"""What teaches a trigger; accuracy is to stay, so that nobody notices.

The rare ones know the gate: most of their rows are honest, so they stand well. Those of ``SHORT`` also know
how long the others' updates are, and send none that is longer than the median one (:func:`shortened`). Who
sends the hardy ones also knows how models are hardened, and so does who sends one of those after them, for
hardening paints nothing like their marks.
"""
SHORT = tuple(name for name in BACKDOORS if name.endswith("short"))

UNLIKE = ("mirrored rare short", "rotated rare short", "scrambled rare short")
"""Their marks move every pixel, which hardening never does; the last leaves nothing that could be read."""

ATTACKS: dict[str, Behaviour] = {
    "sign-flip": parse_behaviour("sign-flip"),
    "sign-flip x4": parse_behaviour("scaled:factor=-4"),
    "alie": parse_behaviour("alie"),
    "ipm": parse_behaviour("ipm:epsilon=0.5"),
    "min-max": parse_behaviour("min-max"),
    "min-sum": parse_behaviour("min-sum"),
    "label-flip": LabelFlip(),
    "mimic": parse_behaviour("mimic"),
    "noise": parse_behaviour("noise:scale=0.5"),
    "gate-aware": Adaptive(),
    "gate-aware (told)": Adaptive(),
}
"""What costs accuracy. The last two know the gate; one of them is even told the step on the hidden set."""

TOLD = "gate-aware (told)"
"""No attacker can be that one while the hidden set is hidden: it bounds what better guessing could do."""


def shortened(rows: IntRows, bad: I64) -> IntRows:
    """Quantised updates [m, P], those of ``bad`` no longer than the median one of the others."""
    norms = np.sqrt(np.sum(rows.astype(np.float64) ** 2, axis=1))
    usual = float(np.median(np.delete(norms, bad)))
    found = rows.copy()
    scale = usual / np.maximum(norms[bad], usual)
    found[bad] = np.rint(rows[bad] * scale[:, None]).astype(rows.dtype)
    return found


Harm = Callable[[F32], float]
"""How bad the round ends, as the attackers expect it, where all of them send this update f32[P]."""


def worst_update(honest: F32, own: F32, guess: F64, harm: Harm) -> F32:
    """What attackers send who know the defence, each other and every honest update of the round, f32[P].

    Candidates point against the honest mean, one standard deviation below it, or against what the attackers'
    own data ask for, less their part along ``guess`` f64[P], the step on the hidden set as they expect
    it, and with a part of it, from a little to most, so that the product is positive. All are as long
    as the median honest update, so that the norm gives nothing away. The most harmful is sent.
    """
    wide = honest.astype(np.float64)
    norms = np.sqrt(np.sum(wide * wide, axis=1))
    length = float(np.sort(norms)[(len(norms) - 1) // 2])
    size = float(np.sqrt(np.sum(guess * guess)))
    mean: F64 = wide.mean(axis=0)
    if not size or not length:
        return mean.astype(np.float32)
    along = guess / size
    worst, found = -np.inf, mean
    for direction in (-mean, -wide.std(axis=0), -own.astype(np.float64).mean(axis=0)):
        across = direction - (direction @ along) * along
        extent = float(np.sqrt(np.sum(across * across)))
        if not extent:
            continue
        for cosine in COSINES:
            sent = length * (cosine * along + np.sqrt(1 - cosine**2) * across / extent)
            if (expected := harm(sent.astype(np.float32))) > worst:
                worst, found = expected, sent
    return found.astype(np.float32)
