"""Several ways to one chain: requests go to one of them, and to the next where it does not answer.

Which of them must agree before a block counts as final is for :mod:`galaxylearning.chain.follower`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from galaxylearning.chain.transport import PATIENCE_S, REQUEST_TIMEOUT_S, Node, Transport
from galaxylearning.errors import AnswerRefused, ConfigRefused, LedgerError, LedgerUnreachable


class Endpoints(Transport):
    """Sends requests like a ``Transport``. An endpoint that fails is left for the next one in line.

    Raises:
        ConfigRefused: no node at all, or one that is none.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        *,
        timeout_s: float = REQUEST_TIMEOUT_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        if not nodes:
            raise ConfigRefused("there must be at least one endpoint", where="chain")
        # While another endpoint can be asked, nobody waits long for one that asks for patience.
        patience_s = patience_s if len(nodes) == 1 else min(patience_s, timeout_s / 2)
        self.all = tuple(Transport(node, timeout_s=timeout_s, patience_s=patience_s) for node in nodes)
        self._at = 0
        self.faults: dict[str, str] = {}
        """What was wrong with an endpoint the last time, by its name."""

    @property
    def current(self) -> Transport:
        """The endpoint that is asked."""
        return self.all[self._at]

    @property
    def others(self) -> tuple[Transport, ...]:
        """The endpoints beside it."""
        return tuple(node for i, node in enumerate(self.all) if i != self._at)

    @property
    def name(self) -> str:  # type: ignore[override]
        """Of the endpoint that is asked."""
        return self.current.name

    @property
    def is_embedded(self) -> bool:
        """Whether the chain lives in this process."""
        return self.current.is_embedded

    async def request(self, method: str, *params: Any) -> Any:
        """The result of a JSON-RPC call, as JSON, by the first endpoint that answers.

        Raises:
            TransactionReverted: the contract refused.
            NodeRefused: the node refused.
            LedgerUnreachable: no endpoint answered.
        """
        for _ in self.all:
            node = self.current
            try:
                answer = await node.request(method, *params)
            except LedgerUnreachable as error:
                self.blame(node, error)
                last = error
                continue
            self.faults.pop(node.name, None)
            return answer
        raise last

    def blame(self, node: Transport, error: LedgerError) -> None:
        """Remember what was wrong with an endpoint, and ask the next one from now on."""
        prefix = "answers what cannot be: " if isinstance(error, AnswerRefused) else ""
        self.faults[node.name] = (prefix + str(error))[:300]
        if node is self.current:
            self._at = (self._at + 1) % len(self.all)

    async def close(self) -> None:
        """Close the connections where this object opened them."""
        for node in self.all:
            await node.close()
