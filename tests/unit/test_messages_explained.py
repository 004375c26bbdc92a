"""What is allowed is told beside what is not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from galaxylearning.config import settings_from_json
from galaxylearning.errors import ConfigRefused, JobRefused
from galaxylearning.messages.explained import MAX_CHARS, explained
from galaxylearning.messages.plan import Plan
from galaxylearning.messages.terms import Column, Schema
from galaxylearning.protocol.consent import policy_from_json


def told(data: bytes, kind: Any) -> str:
    with pytest.raises(msgspec.MsgspecError) as caught:
        msgspec.json.decode(data, type=kind)
    return explained(caught.value, kind)


def test_a_value_that_is_none_of_a_few_is_told_with_these() -> None:
    with pytest.raises(JobRefused, match=r"plan\.optimizer: .*'adamw'; allowed: 'adam', 'sgd'$"):
        Plan(rounds=1, optimizer="adamw")  # type: ignore[arg-type]
    with pytest.raises(ConfigRefused, match=r"'foo' - at `\$\.sandbox`; allowed: '"):
        policy_from_json(b'{"sandbox": "foo"}')


def test_a_field_nobody_knows_is_told_with_those_there_are() -> None:
    with pytest.raises(ConfigRefused, match=r"`foo`; allowed: .*requesters, "):
        policy_from_json(b'{"foo": 1}')
    with pytest.raises(ConfigRefused, match=r"`foo` - at `\$\.blob_access`; allowed: account, signs_reads, "):
        settings_from_json(b'{"blob_access": {"foo": 1}}')


def test_the_type_is_found_below_lists_and_choices() -> None:
    column = b'{"name": "a", "kind": "date"}'
    allowed = "; allowed: 'category', 'integer', 'number'"
    assert told(column, Column).endswith(allowed)
    schema = b'{"features": [' + column + b'], "label": 1}'
    assert told(schema, Schema).endswith(allowed)
    assert told(b'{"a": [' + column + b"]}", dict[str, list[Column] | None]).endswith(allowed)


def test_other_errors_are_as_they_were() -> None:
    assert told(b'{"rounds": "x"}', Plan) == "Expected `int`, got `str` - at `$.rounds`"
    assert told(b"{", Plan) == "Input data was truncated"
    assert explained(ValueError("x" * 1_000), Plan) == "x" * MAX_CHARS
