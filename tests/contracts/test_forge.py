"""A Foundry test that fails must fail the build: npm's wrapper of forge answers 0 to everything."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

CONTRACTS = Path(__file__).parents[2] / "contracts"


def test_forge_answers_with_its_own_exit_code() -> None:
    command = ["node", "scripts/forge.js"]
    for arguments, is_fine in ((["--version"], True), (["no-such-command"], False)):
        done = subprocess.run([*command, *arguments], cwd=CONTRACTS, capture_output=True, check=False)
        assert (done.returncode == 0) is is_fine
    makefile = (CONTRACTS / "Makefile").read_text()
    assert re.search(r"^FORGE := node scripts/forge.js$", makefile, re.MULTILINE)
