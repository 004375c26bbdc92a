"""Can a job's opened scalars rebuild a data owner's rows better than the public models alone?

A two-layer network on the digits; every owner has few rows and takes one full step a round, which is when
inversion works best. The attacker knows the architecture, the learning rate, how many rows an owner has, the
public model before and after every round, and all questions. Three attackers, one optimiser:

- ``public``: looks for rows whose update matches the public step of every round;
- ``scalars``: the same, and all opened scalars of this owner over all rounds must match too (gate,
  projections, value, twins), with several weights of the two goals, the best of which counts;
- ``clear``: sees the owner's updates themselves, as in a federation without secure aggregation. This one
  must succeed, or the experiment shows nothing.

What is compared: the cosine of the rebuilt update with the true one, the peak signal-to-noise ratio of the
rebuilt rows (matched one to one with the true rows), and the total-variation distance of the label histogram.
Source: Zhu, Liu, Han, "Deep Leakage from Gradients" (2019); Geiping et al., "Inverting Gradients" (2020).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import load_digits
from torch import Tensor

from galaxylearning.learning.quantise import Quantizer, clip_norm
from galaxylearning.secagg.questions import Dense, Joined, Signs, quantise_functional

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

INPUTS, HIDDEN, CLASSES = 64, 32, 10
PARAMETERS = INPUTS * HIDDEN + HIDDEN + HIDDEN * CLASSES + CLASSES
BITS, CLIP, NORM = 16, 1.0, 4000.0


@dataclass(frozen=True, slots=True)
class Setting:
    """How large the job is and how hard the attacker works."""

    owners: int = 12
    rows: int = 6
    rounds: int = 10
    projections: int = 16
    twins: int = 2
    learning_rate: float = 0.3
    steps: int = 400
    victims: int = 3
    hidden_rows: int = 500


@dataclass(frozen=True, slots=True)
class Record:
    """What one job left: public parts first, then one owner's secrets (for judging only)."""

    models: Tensor  # [rounds + 1, P], public
    steps: Tensor  # [rounds, P], the mean of accepted updates, public
    questions: list[Tensor]  # per round [k, P], public
    scalars: Tensor  # [owners, rounds, k], opened, in units of the update
    updates: Tensor  # [owners, rounds, P], secret
    rows: Tensor  # [owners, rows, 64], secret
    labels: Tensor  # [owners, rows], secret


@dataclass(frozen=True, slots=True)
class Outcome:
    """How well one attacker did on one owner."""

    cosine: float
    psnr_db: float
    labels_wrong: float


def loss(parameters: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy against class probabilities ``targets`` [n, 10]."""
    first, rest = parameters[: INPUTS * HIDDEN], parameters[INPUTS * HIDDEN :]
    hidden = torch.sigmoid(rows @ first.reshape(INPUTS, HIDDEN) + rest[:HIDDEN])
    rest = rest[HIDDEN:]
    scores = hidden @ rest[: HIDDEN * CLASSES].reshape(HIDDEN, CLASSES) + rest[HIDDEN * CLASSES :]
    return -(targets * torch.log_softmax(scores, 1)).sum(1).mean()


def local_update(parameters: Tensor, rows: Tensor, targets: Tensor, rate: float, *, keep: bool) -> Tensor:
    """One full step's update; differentiable in the rows with ``keep``."""
    at = parameters.detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss(at, rows, targets), at, create_graph=keep)
    return -rate * slope


def play(setting: Setting, seed: int) -> Record:
    """Run a job and keep everything."""
    rng = np.random.default_rng(seed)
    digits = load_digits()
    order = rng.permutation(len(digits.target))
    inputs = torch.from_numpy((digits.data[order] / 16.0).astype(np.float32))
    labels = torch.from_numpy(digits.target[order])
    count = setting.owners * setting.rows
    rows = inputs[:count].reshape(setting.owners, setting.rows, INPUTS)
    owned = labels[:count].reshape(setting.owners, setting.rows)
    hidden = inputs[count : count + setting.hidden_rows], labels[count : count + setting.hidden_rows]
    hidden_targets = torch.nn.functional.one_hot(hidden[1], CLASSES).float()
    spread = np.concatenate(
        [np.full(INPUTS * HIDDEN + HIDDEN, 1 / 8), np.full(HIDDEN * CLASSES + CLASSES, 1 / math.sqrt(HIDDEN))]
    )
    model = torch.from_numpy((rng.standard_normal(PARAMETERS) * spread).astype(np.float32))
    quantizer = Quantizer(BITS, CLIP)
    common = rng.bytes(32)
    models, steps, questions, scalars, updates = [model], [], [], [], []
    for _ in range(setting.rounds):
        integers = []
        for owner in range(setting.owners):
            targets = torch.nn.functional.one_hot(owned[owner], CLASSES).float()
            update = local_update(model, rows[owner], targets, setting.learning_rate, keep=False).numpy()
            clipped = clip_norm(update.astype(np.float32), CLIP).astype(np.float64)
            integers.append(np.floor(clipped * quantizer.scale + rng.random(PARAMETERS)).astype(np.int32))
        matrix = np.stack(integers)
        step = torch.from_numpy((matrix.mean(0) / quantizer.scale).astype(np.float32))
        gate, value = (
            local_update(at, hidden[0], hidden_targets, 1.0, keep=False).numpy().astype(np.float64)
            for at in (model, model + step / 2)
        )
        dense = [quantise_functional(vector, norm=NORM, rng=rng)[0] for vector in (gate, value)]
        asked = Joined(
            (
                Dense(np.stack(dense)),
                Signs(setting.projections, PARAMETERS, rng.bytes(32)),
                Signs(setting.twins, PARAMETERS, common),
            )
        )
        opened = asked.products(matrix) / quantizer.scale
        vectors = [*dense, *(_signs(part) for part in asked.parts[1:] if isinstance(part, Signs))]
        questions.append(torch.from_numpy(np.vstack(vectors).astype(np.float32)))
        scalars.append(torch.from_numpy(opened.astype(np.float32)))
        updates.append(torch.from_numpy((matrix / quantizer.scale).astype(np.float32)))
        steps.append(step)
        model = model + step
        models.append(model)
    return Record(
        torch.stack(models),
        torch.stack(steps),
        questions,
        torch.stack(scalars, 1),
        torch.stack(updates, 1),
        rows,
        owned,
    )


def _signs(part: Signs) -> npt.NDArray[np.int64]:
    """The vectors [count, P] that a projection's seed stands for."""
    a, b = part.signs
    return (a[:, :, None] * b[:, None, :]).reshape(part.count, -1)[:, :PARAMETERS].astype(np.int64)


def nearest_updates(record: Record, owner: int, *, with_scalars: bool) -> Tensor:
    """The attacker's linear guess of the owner's updates [rounds, P].

    It is the public step, moved as little as possible to agree with the opened scalars.
    """
    guesses = []
    for round_index, step in enumerate(record.steps):
        guess = step.double()
        if with_scalars:
            asked = record.questions[round_index].double()
            missing = record.scalars[owner, round_index].double() - asked @ guess
            guess = guess + torch.linalg.lstsq(asked @ asked.T, missing[:, None]).solution[:, 0] @ asked
        guesses.append(guess.float())
    return torch.stack(guesses)


def invert(
    record: Record, owner: int, setting: Setting, attacker: str, seed: int, *, weight: float = 1.0
) -> Outcome:
    """Rebuild the owner's rows and labels as ``attacker`` and judge the result.

    ``weight`` is that of the scalars beside the public steps.
    """
    torch.manual_seed(seed)
    rows = torch.full((setting.rows, INPUTS), 0.3).add_(0.1 * torch.randn(setting.rows, INPUTS))
    rows.requires_grad_()
    scores = (0.1 * torch.randn(setting.rows, CLASSES)).requires_grad_()
    optimiser = torch.optim.Adam([rows, scores], lr=0.05)
    target = record.updates[owner] if attacker == "clear" else record.steps
    scale = target.square().sum()
    sizes = [asked.norm(dim=1) for asked in record.questions]
    for _ in range(setting.steps):
        optimiser.zero_grad()
        pixels, targets = rows.clamp(0, 1), torch.softmax(scores, 1)
        miss = torch.zeros(())
        for round_index in range(setting.rounds):
            update = local_update(
                record.models[round_index], pixels, targets, setting.learning_rate, keep=True
            )
            miss = miss + (update - target[round_index]).square().sum() / scale
            if attacker == "scalars":
                gap = record.questions[round_index] @ update - record.scalars[owner, round_index]
                typical = sizes[round_index] * record.steps[round_index].norm() / math.sqrt(PARAMETERS)
                miss = miss + weight * (gap / typical).square().mean() / setting.rounds
        miss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        with torch.no_grad():
            rows.clamp_(0, 1)
    found, targets = rows.detach(), torch.softmax(scores, 1).detach()
    updates = (
        record.updates[owner]
        if attacker == "clear"
        else nearest_updates(record, owner, with_scalars=attacker == "scalars")
    )
    return _judge(record, owner, found, targets, updates)


def _judge(record: Record, owner: int, found: Tensor, targets: Tensor, updates: Tensor) -> Outcome:
    truth = record.rows[owner]
    errors = (truth[:, None] - found[None]).square().mean(2).numpy()
    at = linear_sum_assignment(errors)
    psnr = float(np.mean(-10 * np.log10(errors[at] + 1e-6)))
    histogram = torch.bincount(record.labels[owner], minlength=CLASSES) / len(truth)
    wrong = 0.5 * float((histogram - targets.mean(0)).abs().sum())
    cosine = torch.nn.functional.cosine_similarity(updates, record.updates[owner], dim=1).mean()
    return Outcome(float(cosine), psnr, wrong)


WEIGHTS = (0.003, 0.03, 0.3)


@dataclass(frozen=True, slots=True)
class Inversion:
    """Outcomes of each attacker on the same owners, in order; a list for each weight of the scalars."""

    public: list[Outcome]
    scalars: dict[float, list[Outcome]]
    clear: list[Outcome]

    def best_scalars(self, name: str, *, largest: bool) -> list[float]:
        """A figure under the weight whose mean is best for the attacker."""
        means = {weight: [getattr(one, name) for one in found] for weight, found in self.scalars.items()}
        chosen = max if largest else min
        return means[chosen(means, key=lambda weight: float(np.mean(means[weight])))]

    def gain(self, name: str, *, largest: bool) -> tuple[float, float]:
        """Mean of what scalars add to public models, and its standard error; positive helps the attacker."""
        sign = 1.0 if largest else -1.0
        pairs = zip(self.best_scalars(name, largest=largest), self.public, strict=True)
        differences = [sign * (found - getattr(other, name)) for found, other in pairs]
        return float(np.mean(differences)), float(np.std(differences, ddof=1) / math.sqrt(len(differences)))


def measure(seeds: int, setting: Setting | None = None) -> Inversion:
    """All attackers on ``victims`` owners of each of ``seeds`` jobs; the same start for each attacker."""
    setting = setting or Setting()
    torch.set_num_threads(1)
    found = Inversion([], {weight: [] for weight in WEIGHTS}, [])
    for seed in range(seeds):
        record = play(setting, seed)
        for owner in range(setting.victims):
            start = 1000 * seed + owner
            found.public.append(invert(record, owner, setting, "public", start))
            found.clear.append(invert(record, owner, setting, "clear", start))
            for weight in WEIGHTS:
                found.scalars[weight].append(invert(record, owner, setting, "scalars", start, weight=weight))
    return found
