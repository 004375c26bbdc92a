"""What a running node tells its operator: one line a step, Prometheus metrics, whether it lives and is ready.

No secret is in any of them: steps name accounts, jobs, rounds and counts.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from galaxylearning.cli import output
from galaxylearning.cli.options import Format

if TYPE_CHECKING:
    from galaxylearning.errors import GalaxyError
    from galaxylearning.nodes.site import Progress

LOOPBACK: Final = "127.0.0.1"
STALE_S: Final = 60.0
"""A node that has not finished a look for so long is not ready."""


class NodeHealth:
    """Hears what a node does, prints it, and counts it.

    Metrics: ``galaxy_steps_total{actor, step}``, ``galaxy_troubles_total{kind}``, ``galaxy_looks_total``,
    ``galaxy_last_look_timestamp_seconds``, ``galaxy_ready``, beside those of the process.
    """

    def __init__(self, format: Format, node: str) -> None:
        from prometheus_client import (
            GC_COLLECTOR,
            CollectorRegistry,
            Counter,
            Gauge,
            Info,
            ProcessCollector,
        )

        from galaxylearning import __version__

        self._format, self.node = format, node
        self._trouble: str | None = None
        self._looked_at: float | None = None
        self._started_at = time.monotonic()
        self.registry = CollectorRegistry()
        self.registry.register(GC_COLLECTOR)
        ProcessCollector(registry=self.registry)
        Info("galaxy", "Version and node.", registry=self.registry).info(
            {"version": __version__, "node": node}
        )
        self._steps = Counter("galaxy_steps", "Steps done.", ("actor", "step"), registry=self.registry)
        self._troubles = Counter(
            "galaxy_troubles", "What went wrong and may pass by itself.", ("kind",), registry=self.registry
        )
        self._looks = Counter("galaxy_looks", "Looks around that ended well.", registry=self.registry)
        self._last_look = Gauge(
            "galaxy_last_look_timestamp_seconds", "When the last look ended well.", registry=self.registry
        )
        Gauge("galaxy_ready", "1 if the node is ready.", registry=self.registry).set_function(
            lambda: float(self.is_ready())
        )

    def report(self, progress: Progress) -> None:
        """A step was done."""
        actor, _, account = progress.actor.partition(" 0x")
        self._steps.labels(actor, progress.step).inc()
        facts = {**({"account": f"0x{account}"} if account else {}), **progress.facts}
        self._print("info", progress.job_id, actor, progress.step, facts)

    def pulse(self, error: GalaxyError | None) -> None:
        """A look ended; a trouble is told when it begins, when it changes, and when it is over."""
        if error is None:
            self._looks.inc()
            self._last_look.set_to_current_time()
            self._looked_at = time.monotonic()
            if self._trouble is not None:
                self._trouble = None
                self._print("info", 0, self.node, "all is well again", {})
            return
        kind = type(error).__name__
        self._troubles.labels(kind).inc()
        if self._trouble != str(error):
            self._trouble = str(error)
            self._print("warning", 0, self.node, "trouble, trying again", {"kind": kind, "error": str(error)})

    def announce(self, url: str) -> None:
        """Say where the metrics are."""
        self._print("info", 0, self.node, "metrics are served", {"url": url})

    def is_ready(self) -> bool:
        """Whether the node looked around lately with chain and store answering."""
        return (
            self._trouble is None
            and self._looked_at is not None
            and time.monotonic() - self._looked_at <= STALE_S
        )

    def facts(self) -> dict[str, Any]:
        """For ``/ready``."""
        now = time.monotonic()
        return {
            "node": self.node,
            "ready": self.is_ready(),
            "seconds_up": round(now - self._started_at, 1),
            "seconds_since_look": None if self._looked_at is None else round(now - self._looked_at, 1),
            "trouble": self._trouble,
        }

    def _print(self, level: str, job_id: int, actor: str, step: str, facts: dict[str, Any]) -> None:
        now = datetime.now(UTC)
        if self._format is Format.JSON:
            output.print_line(
                {
                    "at": now.isoformat(timespec="milliseconds"),
                    "level": level,
                    "job": str(job_id),
                    "actor": actor,
                    "step": step,
                    "facts": {name: str(value) for name, value in facts.items()},
                }
            )
            return
        from galaxylearning.nodes.site import told

        job = f"job {job_id}  " if job_id else ""
        output.print_plain(f"{now:%H:%M:%S} {job}{actor}: {step}  {told(facts)}".rstrip())


@asynccontextmanager
async def serve_health(health: NodeHealth, port: int | None) -> AsyncIterator[str | None]:
    """Serve ``/metrics``, ``/live`` and ``/ready`` on localhost while the block runs; nothing without a port.

    ``/live`` answers 200 as long as the node's loop turns, ``/ready`` 200 or 503 with the reason as JSON.

    Raises:
        ConfigRefused: the port is taken.
    """
    if port is None:
        yield None
        return
    from aiohttp import web
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    from galaxylearning.errors import ConfigRefused

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(health.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def live(_request: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def ready(_request: web.Request) -> web.Response:
        return web.json_response(health.facts(), status=200 if health.is_ready() else 503)

    app = web.Application(client_max_size=1024)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/live", live)
    app.router.add_get("/ready", ready)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, LOOPBACK, port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigRefused(
                f"cannot listen on {LOOPBACK}:{port}: {error.strerror}", where="--metrics-port"
            ) from error
        url = f"http://{LOOPBACK}:{runner.addresses[0][1]}"
        health.announce(url)
        yield url
    finally:
        await runner.cleanup()
