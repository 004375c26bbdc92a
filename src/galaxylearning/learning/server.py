"""Server optimisers: how the mean update of a round moves the model.

Float64, element by element and without BLAS, so that the same inputs give the same bytes on every machine.
Source: Reddi et al., Adaptive Federated Optimization (arXiv 2003.00295), algorithm 2; FedAvgM: Hsu et al.
(arXiv 1909.06335).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from galaxylearning.errors import ConfigRefused, UpdateRefused
from galaxylearning.learning.vectors import F32, F64, require_integer, require_number, require_vector

MOMENTS = {"fedavg": 0, "fedavgm": 1, "fedadam": 2, "fedyogi": 2}
"""How many vectors each optimiser carries from round to round."""

_MAGIC = b"GLSO\x01"
_HEADER = struct.Struct("<5sBQQ")
_NAMES = tuple(MOMENTS)
_MAX_SIZE = 1 << 31


@dataclass(frozen=True, slots=True, eq=False)
class ServerState:
    """What a server optimiser carries between rounds; compare two of them by their bytes.

    ``moments`` holds 0, 1 or 2 vectors f64[P]: the momentum, then the second moment (>= 0).
    """

    name: str
    size: int
    rounds: int
    moments: tuple[F64, ...]

    def to_bytes(self) -> bytes:
        """The canonical form: a fixed header, then each moment as little-endian float64."""
        header = _HEADER.pack(_MAGIC, _NAMES.index(self.name), self.rounds, self.size)
        return header + b"".join(moment.astype("<f8").tobytes() for moment in self.moments)

    @classmethod
    def from_bytes(cls, data: bytes) -> ServerState:
        """Read ``to_bytes`` back.

        Raises:
            UpdateRefused: any other bytes: a wrong header, length, non-finite or negative second moment.
        """
        field = "server state"
        if len(data) < _HEADER.size:
            raise UpdateRefused(f"must be at least {_HEADER.size} bytes, not {len(data)}", where=field)
        magic, code, rounds, size = _HEADER.unpack_from(data)
        if magic != _MAGIC or code >= len(_NAMES):
            raise UpdateRefused("does not begin with a known header", where=field)
        name = _NAMES[code]
        expected = _HEADER.size + MOMENTS[name] * size * 8
        if size > _MAX_SIZE or len(data) != expected:
            raise UpdateRefused(
                f"must be {expected} bytes for {size} parameters, not {len(data)}", where=field
            )
        moments = []
        for index in range(MOMENTS[name]):
            raw = np.frombuffer(data, "<f8", count=size, offset=_HEADER.size + index * size * 8)
            moments.append(require_vector(raw.astype(np.float64), field, np.float64, size=size))
        if len(moments) == 2 and bool((moments[1] < 0).any()):
            raise UpdateRefused("the second moment must not be negative", where=field)
        return cls(name, size, rounds, tuple(moments))


@dataclass(frozen=True, slots=True)
class ServerOptimizer:
    """One of ``fedavg``, ``fedavgm``, ``fedadam``, ``fedyogi``.

    With D the mean update of the round: fedavg ``w += rate * D``; fedavgm ``m = momentum * m + D,
    w += rate * m``; fedadam and fedyogi ``m = momentum * m + (1 - momentum) * D`` (``momentum`` is the
    paper's beta_1), ``v`` by their own rules, ``w += rate * m / (sqrt(v) + tau)``, ``v`` starting at
    ``tau**2`` and without bias correction, as in the paper.

    Raises:
        ConfigRefused: naming the field and what is allowed.
    """

    name: str
    learning_rate: float = 1.0
    momentum: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        if self.name not in MOMENTS:
            raise ConfigRefused(f"server_optimizer must be one of {', '.join(_NAMES)}, not {self.name!r}")
        require_number(self.learning_rate, "server_learning_rate", low=0, high=1e3, low_open=True)
        require_number(self.momentum, "server_momentum", low=0, high=1, high_open=True)
        require_number(self.beta2, "beta2", low=0, high=1, high_open=True)
        require_number(self.tau, "tau", low=0, high=1e3, low_open=True)

    def init(self, size: int) -> ServerState:
        """The state before the first round, for ``size`` parameters."""
        require_integer(size, "size", low=0, high=_MAX_SIZE)
        zero, floor = np.zeros(size, np.float64), np.full(size, self.tau * self.tau, np.float64)
        return ServerState(self.name, size, 0, (zero, floor)[: MOMENTS[self.name]])

    def apply(self, state: ServerState, params: F32, mean_update: F64) -> tuple[ServerState, F32]:
        """Give the next ``(state, params f32[P])``; the inputs are left unchanged.

        Raises:
            UpdateRefused: a wrong type, size, non-finite value, a state of another optimiser, or a result
                that float32 cannot hold.
        """
        if state.name != self.name:
            raise UpdateRefused(f"must belong to {self.name}, not {state.name}", where="server state")
        before = require_vector(params, "params", np.float32, size=state.size)
        mean = require_vector(mean_update, "mean_update", np.float64, size=state.size)
        with np.errstate(over="ignore", invalid="ignore"):
            direction, moments = self._direction(state.moments, mean)
            after = (before.astype(np.float64) + self.learning_rate * direction).astype(np.float32)
        if not all(bool(np.isfinite(vector).all()) for vector in [after.astype(np.float64), *moments]):
            raise UpdateRefused("moves the parameters beyond float32", where="mean_update")
        return ServerState(self.name, state.size, state.rounds + 1, moments), after

    def _direction(self, moments: tuple[F64, ...], mean: F64) -> tuple[F64, tuple[F64, ...]]:
        if self.name == "fedavg":
            return mean, ()
        if self.name == "fedavgm":
            velocity = self.momentum * moments[0] + mean
            return velocity, (velocity,)
        first = self.momentum * moments[0] + (1.0 - self.momentum) * mean
        square = mean * mean
        if self.name == "fedadam":
            second = self.beta2 * moments[1] + (1.0 - self.beta2) * square
        else:
            second = moments[1] - (1.0 - self.beta2) * square * np.sign(moments[1] - square)
        return first / (np.sqrt(second) + self.tau), (first, second)
