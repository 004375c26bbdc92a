"""The token and the registry of a ``LightLedger``, function by function.

Named and ordered as in Solidity. Every function checks all before it changes anything, so that a refused call
leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from galaxylearning.errors import TransactionReverted
from galaxylearning.messages import typed
from galaxylearning.units import Address

if TYPE_CHECKING:
    from galaxylearning.simulation.light_ledger import LightLedger

BURN: Final = Address("0x000000000000000000000000000000000000dEaD")
NOBODY: Final = Address("0x" + "0" * 40)


def revert(reason: str) -> NoReturn:
    """Refuse, as a contract does with a custom error."""
    raise TransactionReverted(reason, reason=reason)


def require(condition: bool, reason: str) -> None:
    """Refuse unless ``condition`` holds."""
    if not condition:
        revert(reason)


def struct_of(message: typed.TypedMessage) -> Mapping[str, Any]:
    """A message as events show it."""
    names = [name for _, name in message.abi_fields()]
    return dict(zip(names, message.abi_tuple(), strict=True))


class Token:
    """The demonstration's ERC-20: anybody may mint."""

    def __init__(self, ledger: LightLedger) -> None:
        self._ledger = ledger
        self.balances: dict[Address, int] = {}
        self._allowances: dict[tuple[Address, Address], int] = {}

    def mint(self, _sender: Address, account: Address, amount: int) -> None:
        """Make tokens."""
        self.balances[account] = self.balances.get(account, 0) + amount
        self._transferred(NOBODY, account, amount)

    def approve(self, sender: Address, spender: Address, amount: int) -> None:
        """Let ``spender`` take up to ``amount``."""
        self._allowances[sender, spender] = amount
        self._ledger.emit("token", "Approval", owner=sender, spender=spender, value=amount)

    def check_take(self, payer: Address, payee: Address, amount: int) -> None:
        """Refuse what ``take`` could not do."""
        require(self._allowances.get((payer, payee), 0) >= amount, "ERC20InsufficientAllowance")
        require(self.balances.get(payer, 0) >= amount, "ERC20InsufficientBalance")

    def take(self, payer: Address, payee: Address, amount: int) -> None:
        """``transferFrom``, which ``check_take`` has allowed."""
        self._allowances[payer, payee] -= amount
        self.send(payer, payee, amount)

    def send(self, payer: Address, payee: Address, amount: int) -> None:
        """Move tokens of a contract that has them."""
        if self.balances.get(payer, 0) < amount:
            raise AssertionError(f"{payer} would send {amount} and has {self.balances.get(payer, 0)}")
        self.balances[payer] -= amount
        self.balances[payee] = self.balances.get(payee, 0) + amount
        self._transferred(payer, payee, amount)

    def view_balanceOf(self, account: Address) -> int:  # noqa: N802 - the contract's name
        """Tokens of an account."""
        return self.balances.get(account, 0)

    def view_allowance(self, owner: Address, spender: Address) -> int:
        """What ``spender`` may take of ``owner``'s."""
        return self._allowances.get((owner, spender), 0)

    def _transferred(self, payer: Address, payee: Address, amount: int) -> None:
        self._ledger.emit("token", "Transfer", **{"from": payer, "to": payee, "value": amount})


@dataclass
class Account:
    """What the registry knows of an evaluator; amounts in smallest units."""

    sealing_key_digest: bytes = bytes(32)
    staked: int = 0
    locked: int = 0


class Registry:
    """GalaxyRegistry, without permits and withdrawals."""

    def __init__(self, ledger: LightLedger, token: Token) -> None:
        self._ledger, self._token = ledger, token
        self.accounts: dict[Address, Account] = {}
        self._datasets: dict[bytes, tuple[Address, bool]] = {}

    @property
    def _address(self) -> Address:
        return self._ledger.address_of("registry")

    def _emit(self, name: str, **arguments: Any) -> None:
        self._ledger.emit("registry", name, **arguments)

    def registerEvaluator(self, sender: Address, digest: bytes) -> None:  # noqa: N802
        """Become an evaluator, or change the sealing key."""
        require(any(digest), "ZeroDigest")
        self.accounts.setdefault(sender, Account()).sealing_key_digest = digest
        self._emit("EvaluatorRegistered", evaluator=sender, sealingKeyDigest=digest)

    def depositStake(self, sender: Address, amount: int) -> None:  # noqa: N802
        """Add to the caller's stake."""
        require(amount > 0, "ZeroAmount")
        self._token.check_take(sender, self._address, amount)
        self.accounts.setdefault(sender, Account()).staked += amount
        self._emit("StakeDeposited", evaluator=sender, amount=amount)
        self._token.take(sender, self._address, amount)

    def registerDataset(self, sender: Address, values: tuple[Any, ...], signature: bytes) -> None:  # noqa: N802
        """Register a data set by its commitment."""
        message = typed.DatasetRegistration(*values)
        require(any(message.commitment) and any(message.schema_digest), "ZeroDigest")
        self._ledger.check_data_owner("registry", sender, message.data_owner, message, signature)
        dataset = message.dataset_id()
        require(dataset not in self._datasets, "DatasetExists")
        self._datasets[dataset] = message.data_owner, True
        arguments = struct_of(message)
        self._emit("DatasetRegistered", datasetId=dataset, **arguments)

    def revokeDataset(self, sender: Address, values: tuple[Any, ...], signature: bytes) -> None:  # noqa: N802
        """Withdraw consent for good."""
        message = typed.DatasetRevocation(*values)
        self._ledger.check_data_owner("registry", sender, message.data_owner, message, signature)
        require(self.is_active(message.dataset_id, message.data_owner), "DatasetNotActive")
        self._datasets[message.dataset_id] = message.data_owner, False
        self._emit("DatasetRevoked", datasetId=message.dataset_id, dataOwner=message.data_owner)

    def is_active(self, dataset: bytes, data_owner: Address) -> bool:
        """Whether a data set is this data owner's and not revoked."""
        return self._datasets.get(dataset) == (data_owner, True)

    def view_evaluator(self, evaluator: Address) -> Mapping[str, Any]:
        """What is known of an evaluator."""
        account = self.accounts.get(evaluator, Account())
        return {
            "sealingKeyDigest": account.sealing_key_digest,
            "staked": account.staked,
            "locked": account.locked,
            "withdrawing": 0,
            "withdrawableAt": 0,
        }

    def check_lock(self, evaluator: Address, amount: int) -> None:
        """Refuse what ``lock`` could not do."""
        account = self.accounts.get(evaluator, Account())
        require(amount <= account.staked - account.locked, "InsufficientStake")

    def lock(self, evaluator: Address, amount: int) -> None:
        """Lock stake for a seat."""
        self.accounts[evaluator].locked += amount
        self._emit("StakeLocked", evaluator=evaluator, amount=amount)

    def release(self, evaluator: Address, amount: int) -> None:
        """Free the stake of a seat."""
        self.accounts[evaluator].locked -= amount
        self._emit("StakeReleased", evaluator=evaluator, amount=amount)

    def slash(self, evaluator: Address, amount: int) -> None:
        """Burn the stake of a seat."""
        account = self.accounts[evaluator]
        account.locked -= amount
        account.staked -= amount
        self._emit("StakeSlashed", evaluator=evaluator, amount=amount)
        self._token.send(self._address, BURN, amount)
        self._emit("StakeBurned", amount=amount)
