"""Loading the Ethereum execution specifications so that a small program can afford them.

Three things of theirs are replaced, none of which changes a result: the interpreter's loop, by one that does
the common operations faster; the deep copies of RLP encoding, by shallow ones; and the precompiles over
pairing curves, whose library takes most of a second to import, by placeholders that import it when called.
The package imports this module before any other.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from types import ModuleType
from typing import Any

_PRECOMPILES = "ethereum.prague.vm.precompiled_contracts"
_SLOW_TO_IMPORT = {
    f"{_PRECOMPILES}.alt_bn128": ("alt_bn128_add", "alt_bn128_mul", "alt_bn128_pairing_check"),
    f"{_PRECOMPILES}.point_evaluation": ("point_evaluation",),
    f"{_PRECOMPILES}.bls12_381": (),
    f"{_PRECOMPILES}.bls12_381.bls12_381_g1": ("bls12_g1_add", "bls12_g1_msm", "bls12_map_fp_to_g1"),
    f"{_PRECOMPILES}.bls12_381.bls12_381_g2": ("bls12_g2_add", "bls12_g2_msm", "bls12_map_fp2_to_g2"),
    f"{_PRECOMPILES}.bls12_381.bls12_381_pairing": ("bls12_pairing",),
}


def _import_pairings_later() -> None:
    """Put modules in place whose functions import the real ones when first called."""
    placeholders: dict[str, ModuleType] = {}

    def later(module_name: str, function_name: str) -> Callable[[Any], None]:
        def run(evm: Any) -> None:
            for name, placeholder in placeholders.items():
                if sys.modules.get(name) is placeholder:
                    del sys.modules[name]
            getattr(importlib.import_module(module_name), function_name)(evm)

        return run

    for module_name, function_names in _SLOW_TO_IMPORT.items():
        if module_name not in sys.modules:
            module = ModuleType(module_name)
            if not function_names:
                module.__path__ = []
            for function_name in function_names:
                setattr(module, function_name, later(module_name, function_name))
            sys.modules[module_name] = placeholders[module_name] = module


_import_pairings_later()
_USUAL_RECURSION_LIMIT = sys.getrecursionlimit()

from ethereum.prague.vm import interpreter  # noqa: E402
from ethereum_rlp import rlp  # noqa: E402

from galaxylearning.chain.bounded_json import recursion_limit_kept  # noqa: E402
from galaxylearning.chain.embedded import fast_loop  # noqa: E402

_EVM_RECURSION_LIMIT = sys.getrecursionlimit()
sys.setrecursionlimit(_USUAL_RECURSION_LIMIT)


@contextmanager
def deep_calls() -> Iterator[None]:
    """Room for 1,024 nested calls, only while they run.

    Importing EELS raises the limit for the whole process, and with it a deeply nested JSON document, which
    otherwise ends in a RecursionError, overflows the stack and takes the process down.
    """
    with recursion_limit_kept():
        sys.setrecursionlimit(max(sys.getrecursionlimit(), _EVM_RECURSION_LIMIT))
        yield


def _shallow(record: Any) -> tuple[Any, ...]:
    """A record's fields. RLP encodes records inside records one by one, so nothing need be copied deeply."""
    return tuple(getattr(record, field.name) for field in fields(record))


spec_execute_code = interpreter.execute_code
"""The specification's own loop, for comparison."""

interpreter.execute_code = fast_loop.execute_code
vars(rlp)["astuple"] = _shallow
