"""``galaxy job``: what requesters, data owners and onlookers do with jobs."""

from __future__ import annotations

import typer

from galaxylearning.cli import job_close, job_data_owner, job_onlooker, job_requester

app = typer.Typer(
    help="Check, post, watch, accept, claim and close jobs.\n\nExample: galaxy job show 1",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for name, command in (
    ("check", job_requester.check),
    ("post", job_requester.post),
    ("list", job_onlooker.list_),
    ("show", job_onlooker.show),
    ("watch", job_onlooker.watch),
    ("parties", job_onlooker.parties),
    ("accept", job_data_owner.accept),
    ("claim", job_data_owner.claim),
    ("bond", job_data_owner.bond),
    ("cancel", job_requester.cancel),
    ("collect", job_requester.collect),
    ("close", job_close.close),
):
    app.command(name)(command)
