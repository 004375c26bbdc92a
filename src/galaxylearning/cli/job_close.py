"""``galaxy job close``: what anybody may do for the money of a job."""

from __future__ import annotations

from galaxylearning.cli import output
from galaxylearning.cli.options import (
    DEFAULT_HOME,
    AsOption,
    ChainOption,
    Format,
    FormatOption,
    HomeOption,
    JobArgument,
)
from galaxylearning.config import Home


def close(
    job: JobArgument,
    account: AsOption = None,
    home: HomeOption = DEFAULT_HOME,
    chain: ChainOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Have a job pay all that it owes: payouts, fees, bonds, and the rest to its requester.

    Anybody may, and pays the gas (--as); relayers do it by themselves where they can. A job that nobody has
    moved on in time is moved on: mostly it is then aborted, and its escrow goes back. Once the claim window
    is over, what could be paid to nobody goes back too. Doing it again does no harm.

    Example: galaxy job close 1
    """
    from galaxylearning.cli.job_actions import close_job
    from galaxylearning.cli.running import acted

    facts = acted(Home(home), chain, account, lambda site: close_job(site, job))
    if format is Format.JSON:
        output.print_json(facts)
        return
    left = [("not paid yet", output.tokens(facts["unclaimed"]))] if int(facts["unclaimed"]) else []
    if facts["expires_at"] is not None:
        left.append(("anybody may close it again", f"from {output.moment(facts['expires_at'])} on"))
    names = (("paid", "payouts"), ("fees_paid", "fees"), ("refunded", "refunded"))
    sums = [(words, output.tokens(facts[name])) for name, words in names]
    lines = [("phase", facts["phase"]), *sums, ("bonds returned", facts["bonds_returned"]), *left]
    output.print_facts(f"Job {job}", lines)
