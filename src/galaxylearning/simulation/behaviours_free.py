"""Behaviours that need no plan: honest, slow and absent data owners, free riders, simple saboteurs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from galaxylearning.learning.vectors import F32, I64, require_number
from galaxylearning.simulation.behaviours_base import Acts, AttackView, Bool, Plain, require_choice, single

MOST = 1e12


@dataclass(frozen=True, slots=True)
class Honest(Plain):
    """Trains on its data and sends what came out."""


@dataclass(frozen=True, slots=True)
class Slow(Plain):
    """Honest, but takes ``factor`` times the normal duration; a round's window may close before that.

    Raises:
        ConfigRefused: ``factor`` is not in [1, 10^6].
    """

    name: ClassVar[str] = "slow"
    factor: float = 3.0

    def __post_init__(self) -> None:
        require_number(self.factor, "slow.factor", low=1, high=1e6)

    @property
    def delay(self) -> float:
        """The factor."""
        return self.factor


@dataclass(frozen=True, slots=True)
class Absent(Plain):
    """Enrols, and then stays away from each round with ``probability``, independently.

    Raises:
        ConfigRefused: ``probability`` is not in [0, 1].
    """

    name: ClassVar[str] = "absent"
    probability: float = 1.0

    def __post_init__(self) -> None:
        require_number(self.probability, "absent.probability", low=0, high=1)

    @property
    def trains(self) -> bool:
        """Unless it never comes."""
        return self.probability < 1

    def absent(self, round_index: int, owners: I64, *, rng: np.random.Generator) -> Bool:  # noqa: ARG002
        """One draw for each."""
        return rng.random(len(owners)) < self.probability


@dataclass(frozen=True, slots=True)
class Zero(Plain):
    """Free rider: sends the model back unchanged, a zero update.

    Source: Fraboni, Vidal & Lorenzi 2021 (arXiv 2006.11901), plain free-riding.
    """

    name: ClassVar[str] = "zero"

    @property
    def trains(self) -> bool:
        """No."""
        return False

    @property
    def acts(self) -> Acts:
        """Each for itself."""
        return "alone"

    def update(self, view: AttackView, *, rng: np.random.Generator) -> F32:  # noqa: ARG002
        """Zeros."""
        return np.zeros_like(view.own)


@dataclass(frozen=True, slots=True)
class Noise(Plain):
    """Free rider: sends Gaussian noise whose root-mean-square norm is ``scale`` times the clip norm.

    Without training it cannot know how large honest updates are; the clip norm stands in the terms.

    Source: Lin, Du & Liu 2019 (arXiv 1911.12560), random weights.

    Raises:
        ConfigRefused: ``scale`` is not in (0, 10^12].
    """

    name: ClassVar[str] = "noise"
    scale: float = 1.0

    def __post_init__(self) -> None:
        require_number(self.scale, "noise.scale", low=0, high=MOST, low_open=True)

    @property
    def trains(self) -> bool:
        """No."""
        return False

    @property
    def acts(self) -> Acts:
        """Each for itself."""
        return "alone"

    def update(self, view: AttackView, *, rng: np.random.Generator) -> F32:
        """Independent for every data owner."""
        sigma = self.scale * view.clip_norm / max(1.0, view.params.size) ** 0.5
        return single(rng.standard_normal((len(view.owners), view.params.size)) * sigma)


@dataclass(frozen=True, slots=True)
class LastStep(Plain):
    """Free rider: replays the last global step, ``factor`` times; sends zeros in the first round.

    ``noise`` adds Gaussian noise with that fraction of the step's norm, as a disguise.

    Source: Lin, Du & Liu 2019 (arXiv 1911.12560), delta weights and advanced delta weights.

    Raises:
        ConfigRefused: ``factor`` is not in [-10^12, 10^12], ``noise`` not in [0, 10^6].
    """

    name: ClassVar[str] = "last-step"
    factor: float = 1.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        require_number(self.factor, "last-step.factor", low=-MOST, high=MOST)
        require_number(self.noise, "last-step.noise", low=0, high=1e6)

    @property
    def trains(self) -> bool:
        """No."""
        return False

    @property
    def acts(self) -> Acts:
        """Each for itself."""
        return "alone"

    def update(self, view: AttackView, *, rng: np.random.Generator) -> F32:
        """The step for each, with noise of its own."""
        if view.last_global_step is None:
            return np.zeros_like(view.own)
        step = self.factor * view.last_global_step
        if not self.noise:
            return view.everybody(step)
        sigma = self.noise * float(np.linalg.norm(step)) / max(1.0, step.size) ** 0.5
        return single(step + sigma * rng.standard_normal((len(view.owners), step.size)))


@dataclass(frozen=True, slots=True)
class SignFlip(Plain):
    """Saboteur: trains honestly and sends the opposite.

    Source: Li, Xu, Chen, Giannakis & Ling 2019 (arXiv 1811.03761), sign-flipping attack.
    """

    name: ClassVar[str] = "sign-flip"

    @property
    def acts(self) -> Acts:
        """Each for itself."""
        return "alone"

    def update(self, view: AttackView, *, rng: np.random.Generator) -> F32:  # noqa: ARG002
        """Minus what training gave."""
        return -view.own


@dataclass(frozen=True, slots=True)
class Scaled(Plain):
    """Sends its update times ``factor``, to weigh more than its share; negative ones also turn it round.

    Source: Bagdasaryan et al. 2018 (arXiv 1807.00459), model replacement by scaling.

    Raises:
        ConfigRefused: ``factor`` is not in [-10^12, 10^12].
    """

    name: ClassVar[str] = "scaled"
    factor: float = 10.0

    def __post_init__(self) -> None:
        require_number(self.factor, "scaled.factor", low=-MOST, high=MOST)

    @property
    def acts(self) -> Acts:
        """Each for itself."""
        return "alone"

    def update(self, view: AttackView, *, rng: np.random.Generator) -> F32:  # noqa: ARG002
        """What training gave, times the factor."""
        return single(self.factor * view.own.astype(np.float64))


@dataclass(frozen=True, slots=True)
class Malformed(Plain):
    """Sends numbers that are none: a protocol without checks would lose its global model.

    ``kind`` says which; with ``alternate`` every second coordinate is NaN and the others are infinite.

    Source: Blanchard et al. 2017 (arXiv 1703.02757), arbitrary values from Byzantine workers.

    Raises:
        ConfigRefused: ``kind`` is another word.
    """

    name: ClassVar[str] = "nan"
    kind: Literal["nan", "inf", "alternate"] = "nan"

    def __post_init__(self) -> None:
        require_choice(self.kind, "nan.kind", ("nan", "inf", "alternate"))

    @property
    def trains(self) -> bool:
        """No."""
        return False

    @property
    def acts(self) -> Acts:
        """Each for itself."""
        return "alone"

    def update(self, view: AttackView, *, rng: np.random.Generator) -> F32:  # noqa: ARG002
        """Nothing finite."""
        bad = np.full_like(view.own, np.nan if self.kind == "nan" else np.inf)
        if self.kind == "alternate":
            bad[:, ::2] = np.nan
        return bad
