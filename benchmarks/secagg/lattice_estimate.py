"""The lattice-estimator's figures for the masks, in an environment of its own.

The estimator imports ``sage.all``; the parts of Sage that it needs can be had from a package registry:

    python -m venv /tmp/lattice
    /tmp/lattice/bin/pip install passagemath-symbolics==10.8.13 passagemath-schemes==10.8.13 \
        passagemath-modules==10.8.13 passagemath-maxima==10.8.13 passagemath-repl==10.8.13
    git clone https://github.com/malb/lattice-estimator /tmp/lattice-estimator
    git -C /tmp/lattice-estimator checkout 27a581bb8e9d49f5e9e2db315bd48ac769d5f5f5
    PYTHONPATH=/tmp/lattice-estimator /tmp/lattice/bin/python benchmarks/secagg/lattice_estimate.py

Prints log2 of the classical cost of each attack.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

CASES = (
    ("narrow", 2048, 40, 3.24),
    ("narrow, 128 scalars opened", 1920, 40, 3.24),
    ("narrow, two equal weights summed", 2048, 40, 3.24 / 2**0.5),
    ("narrow, weights 1 and 2 summed", 2048, 40, 1.45),
    ("wide", 2048, 48, 3.24),
    ("wide, 128 scalars opened", 1920, 48, 3.24),
    ("wide, two equal weights summed", 2048, 48, 3.24 / 2**0.5),
    ("wide, weights 1 and 2 summed", 2048, 48, 1.45),
    ("the standard's limit", 2048, 54, 3.24),
)


def give_sage() -> None:
    """Put together ``sage.all`` from the parts that are installed."""
    whole: Any = types.ModuleType("sage.all")
    for part in ("symbolics", "schemes", "modules"):
        module = importlib.import_module(f"sage.all__sagemath_{part}")
        vars(whole).update({name: value for name, value in vars(module).items() if not name.startswith("__")})
    whole.line = None  # for drawing only
    sage = importlib.import_module("sage")
    sys.modules["sage.all"] = whole
    vars(sage)["all"] = whole


def main() -> None:
    """Print one line a case and attack."""
    give_sage()
    estimator = importlib.import_module("estimator")
    costs = importlib.import_module("estimator.reduction").RC
    infinity, log = sys.modules["sage.all"].oo, sys.modules["sage.all"].log
    for name, unknowns, log2_q, sigma in CASES:
        q = 2**log2_q
        parameters = estimator.LWE.Parameters(
            n=unknowns,
            q=q,
            Xs=estimator.ND.UniformMod(q),
            Xe=estimator.ND.DiscreteGaussian(sigma),
            m=infinity,
        )
        lwe = estimator.LWE
        found = {
            "core-SVP": lwe.primal_usvp(parameters, red_cost_model=costs.ADPS16, red_shape_model="gsa"),
            "uSVP": lwe.primal_usvp(parameters, red_cost_model=costs.MATZOV),
            "BDD": lwe.primal_bdd(parameters, red_cost_model=costs.MATZOV),
            "dual hybrid": lwe.dual_hybrid(parameters, red_cost_model=costs.MATZOV),
        }
        figures = ", ".join(f"{attack} {float(log(cost['rop'], 2)):.1f}" for attack, cost in found.items())
        print(f"{name} (n {unknowns}, log2 q {log2_q}, error {sigma:.2f}): {figures}", flush=True)


if __name__ == "__main__":
    main()
