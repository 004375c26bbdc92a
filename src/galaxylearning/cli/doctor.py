"""``galaxy doctor``: says what is wrong with a machine before a job does."""

from __future__ import annotations

from typing import Final

import anyio
import typer

from galaxylearning.cli import output
from galaxylearning.cli.findings import Finding
from galaxylearning.cli.options import DEFAULT_HOME, AsOption, ChainOption, Format, FormatOption, HomeOption
from galaxylearning.config import Home

PROBLEMS_FOUND: Final = 1


def doctor(
    account: AsOption = None,
    home: HomeOption = DEFAULT_HOME,
    chain: ChainOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Check this machine and, where there is one, this home: libraries, memory, disk, the locked worker,
    permissions, chain, blobs.

    Changes nothing but one small blob under the topic 'doctor', which is written and read back. Exit code 1
    if there is a problem, each with what to do about it; notes stop nothing. Without a home the machine alone
    is looked at. With --as, requests to blob servers are signed by that account.

    Example: galaxy doctor --format json
    """
    from galaxylearning.cli.doctor_home import home_findings
    from galaxylearning.cli.doctor_machine import machine_findings
    from galaxylearning.cli.keys import load_identity

    place = Home(home)
    signer = None if account is None else load_identity(place, account)[1]
    findings = [*machine_findings(place), *anyio.run(home_findings, place, chain, signer)]
    problems = sum(1 for finding in findings if finding.status == "problem")
    if format is Format.JSON:
        output.print_json({"ok": not problems, "checks": [finding.as_json() for finding in findings]})
    else:
        show(findings, problems)
    if problems:
        raise typer.Exit(PROBLEMS_FOUND)


def show(findings: list[Finding], problems: int) -> None:
    """A table, and in one line what comes of it."""
    rows = [
        (one.check, one.status.upper() if one.status == "problem" else one.status, one.found)
        for one in findings
    ]
    output.print_table("galaxy doctor", ("check", "status", "found"), rows)
    for one in findings:
        if one.remedy and one.status != "ok":
            output.console().print(
                output.harmless(f"{one.status}: {one.check}: {one.remedy}"), soft_wrap=True, markup=False
            )
    line = "No problem found." if not problems else f"{problems} problem{'s' if problems > 1 else ''} found."
    output.console().print(line)
