"""The interpreter's loop with the common operations done in place; everything else is left to EELS.

Nine operations in ten that a compiled contract runs only move words about. EELS does each with a dozen
checked number objects; here they work on plain ints, ten times faster, with the same result and the same gas.
Tests run random programs through both.

Source: Ethereum yellow paper appendix H; EIP-145, EIP-3855; ``ethereum.prague.vm.instructions``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ethereum.prague.vm import Evm
from ethereum.prague.vm import interpreter as interpreter
from ethereum.prague.vm.exceptions import (
    ExceptionalHalt,
    InvalidJumpDestError,
    InvalidOpcode,
    OutOfGasError,
    Revert,
    StackOverflowError,
    StackUnderflowError,
)
from ethereum.prague.vm.instructions import op_implementation
from ethereum_types.numeric import U256, Uint

_MASK = (1 << 256) - 1
_SIGN = 1 << 255
_STACK_LIMIT = 1024
_IMPLEMENTATIONS: list[Any] = [None] * 256
for _operation, _function in op_implementation.items():
    _IMPLEMENTATIONS[_operation.value] = _function

_new = object.__new__


def _word(number: int) -> Any:
    """A U256 of a number known to fit."""
    word = _new(U256)
    word._number = number  # type: ignore[misc]
    return word


_ZERO, _ONE = _word(0), _word(1)


@lru_cache(maxsize=256)
def jump_destinations(code: bytes) -> frozenset[int]:
    """Positions of JUMPDEST (0x5b) that are not inside the data of a PUSH1..PUSH32 (0x60..0x7f)."""
    found = []
    position = 0
    while position < len(code):
        operation = code[position]
        if operation == 0x5B:
            found.append(position)
        elif 0x60 <= operation <= 0x7F:
            position += operation - 0x5F
        position += 1
    return frozenset(found)


@lru_cache(maxsize=65_536)
def _pushed(data: bytes) -> Any:
    """The word a PUSH puts on the stack; words are never changed, so one object serves all."""
    return _word(int.from_bytes(data))


def _add(a: int, b: int) -> Any:
    return _word((a + b) & _MASK)


def _multiply(a: int, b: int) -> Any:
    return _word((a * b) & _MASK)


def _subtract(a: int, b: int) -> Any:
    return _word((a - b) & _MASK)


def _divide(a: int, b: int) -> Any:
    return _word(a // b) if b else _ZERO


def _modulo(a: int, b: int) -> Any:
    return _word(a % b) if b else _ZERO


def _less(a: int, b: int) -> Any:
    return _ONE if a < b else _ZERO


def _greater(a: int, b: int) -> Any:
    return _ONE if a > b else _ZERO


def _signed_less(a: int, b: int) -> Any:
    return _ONE if a ^ _SIGN < b ^ _SIGN else _ZERO


def _signed_greater(a: int, b: int) -> Any:
    return _ONE if a ^ _SIGN > b ^ _SIGN else _ZERO


def _equal(a: int, b: int) -> Any:
    return _ONE if a == b else _ZERO


def _and(a: int, b: int) -> Any:
    return _word(a & b)


def _or(a: int, b: int) -> Any:
    return _word(a | b)


def _xor(a: int, b: int) -> Any:
    return _word(a ^ b)


def _shift_left(shift: int, value: int) -> Any:
    return _word((value << shift) & _MASK) if shift < 256 else _ZERO


def _shift_right(shift: int, value: int) -> Any:
    return _word(value >> shift) if shift < 256 else _ZERO


_BINARY: list[tuple[Any, int] | None] = [None] * 256
for _code, _binary in {
    0x01: (_add, 3), 0x02: (_multiply, 5), 0x03: (_subtract, 3), 0x04: (_divide, 5), 0x06: (_modulo, 5),
    0x10: (_less, 3), 0x11: (_greater, 3), 0x12: (_signed_less, 3), 0x13: (_signed_greater, 3),
    0x14: (_equal, 3), 0x16: (_and, 3), 0x17: (_or, 3), 0x18: (_xor, 3),
    0x1B: (_shift_left, 3), 0x1C: (_shift_right, 3),
}.items():  # fmt: skip
    _BINARY[_code] = _binary


def execute_code(message: Any) -> Any:
    """Stands in for ``ethereum.prague.vm.interpreter.execute_code``; calls no tracer."""
    evm = Evm(
        pc=Uint(0),
        stack=[],
        memory=bytearray(),
        code=message.code,
        gas_left=message.gas,
        valid_jump_destinations=set(),
        logs=(),
        refund_counter=0,
        running=True,
        message=message,
        output=b"",
        accounts_to_delete=set(),
        return_data=b"",
        error=None,
        accessed_addresses=message.accessed_addresses,
        accessed_storage_keys=message.accessed_storage_keys,
    )
    try:
        precompile = interpreter.PRE_COMPILED_CONTRACTS.get(message.code_address)
        if precompile is None:
            _run(evm, bytes(message.code), message.data)
        elif not message.disable_precompiles:
            precompile(evm)
    except ExceptionalHalt as error:
        evm.gas_left = Uint(0)
        evm.output = b""
        evm.error = error
    except Revert as error:
        evm.error = error
    return evm


def _run(evm: Any, code: bytes, call_data: bytes) -> None:
    """Run until the code stops, ends or fails. The counters live in locals while EELS has no use for them."""
    stack, memory = evm.stack, evm.memory
    destinations = jump_destinations(code)
    position, gas, size = 0, int(evm.gas_left), len(code)
    while position < size:
        operation = code[position]
        if 0x60 <= operation <= 0x7F:
            gas -= 3
            if len(stack) >= _STACK_LIMIT:
                raise StackOverflowError
            after = position + operation - 0x5E
            data = code[position + 1 : after]
            stack.append(_pushed(data if after <= size else data.ljust(operation - 0x5F, b"\0")))
            position = after
        elif 0x80 <= operation <= 0x8F:
            gas -= 3
            depth = operation - 0x7F
            if len(stack) < depth:
                raise StackUnderflowError
            if len(stack) >= _STACK_LIMIT:
                raise StackOverflowError
            stack.append(stack[-depth])
            position += 1
        elif 0x90 <= operation <= 0x9F:
            gas -= 3
            depth = operation - 0x8E
            if len(stack) < depth:
                raise StackUnderflowError
            stack[-1], stack[-depth] = stack[-depth], stack[-1]
            position += 1
        elif (binary := _BINARY[operation]) is not None:
            function, cost = binary
            gas -= cost
            if len(stack) < 2:
                raise StackUnderflowError
            first = stack.pop()._number
            stack[-1] = function(first, stack[-1]._number)
            position += 1
        elif operation == 0x5B:
            gas -= 1
            position += 1
        elif operation == 0x57:
            gas -= 10
            if len(stack) < 2:
                raise StackUnderflowError
            target, condition = stack.pop()._number, stack.pop()._number
            if not condition:
                position += 1
            elif target in destinations and gas >= 0:
                position = target
            else:
                raise OutOfGasError if gas < 0 else InvalidJumpDestError
        elif operation == 0x56:
            gas -= 8
            if not stack:
                raise StackUnderflowError
            target = stack.pop()._number
            if target not in destinations or gas < 0:
                raise OutOfGasError if gas < 0 else InvalidJumpDestError
            position = target
        elif operation == 0x50:
            gas -= 2
            if not stack:
                raise StackUnderflowError
            stack.pop()
            position += 1
        elif operation == 0x15:
            gas -= 3
            if not stack:
                raise StackUnderflowError
            stack[-1] = _ZERO if stack[-1]._number else _ONE
            position += 1
        elif operation == 0x19:
            gas -= 3
            if not stack:
                raise StackUnderflowError
            stack[-1] = _word(_MASK ^ stack[-1]._number)
            position += 1
        elif operation == 0x5F:
            gas -= 2
            if len(stack) >= _STACK_LIMIT:
                raise StackOverflowError
            stack.append(_ZERO)
            position += 1
        elif operation == 0x51 and stack and (start := stack[-1]._number) + 32 <= len(memory):
            gas -= 3
            stack[-1] = _word(int.from_bytes(memory[start : start + 32]))
            position += 1
        elif operation == 0x52 and len(stack) > 1 and (start := stack[-1]._number) + 32 <= len(memory):
            gas -= 3
            if gas >= 0:
                memory[start : start + 32] = stack[-2]._number.to_bytes(32)
            del stack[-2:]
            position += 1
        elif operation == 0x35 and stack:
            gas -= 3
            start = stack[-1]._number
            stack[-1] = _word(int.from_bytes(call_data[start : start + 32].ljust(32, b"\0")))
            position += 1
        else:
            if gas < 0:
                raise OutOfGasError
            implementation = _IMPLEMENTATIONS[operation]
            if implementation is None:
                raise InvalidOpcode(operation)
            evm.pc, evm.gas_left = Uint(position), Uint(gas)
            implementation(evm)
            if not evm.running:
                return
            position, gas = evm.pc._number, evm.gas_left._number
        if gas < 0:
            raise OutOfGasError
    evm.pc, evm.gas_left = Uint(position), Uint(gas)
