"""The document, its cost, its weights and its losses, with numbers worked out by hand."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import DataRefused, GraphRefused
from galaxylearning.graph import (
    LABEL_DTYPE,
    LOSSES,
    Cost,
    GraphLimits,
    ModelGraph,
    Node,
    Ref,
    StateEntry,
    batch_loss,
    meter,
    per_sample,
    weights_from_bytes,
    weights_size,
    weights_to_bytes,
)
from galaxylearning.graph.document import Input
from galaxylearning.graph.losses import check_labels
from galaxylearning.graph.operations import OPERATIONS

GRAPH = ModelGraph(
    version=1,
    inputs=(Input("x", "float32", (None, 4)),),
    state=(
        StateEntry("b", "parameter", True, "mean", "float32", (3,)),
        StateEntry("count", "buffer", False, "skip", "int64", ()),
        StateEntry("flags", "constant", False, "skip", "bool", (3,)),
        StateEntry("w", "parameter", True, "mean", "float32", (3, 4)),
    ),
    nodes=(
        Node("next", "aten.add.Tensor", (Ref("state", "count"), 1)),
        Node("step", "state.update", (Ref("state", "count"), Ref("node", "next"))),
        Node("lin", "aten.linear.default", (Ref("input", "x"), Ref("state", "w"), Ref("state", "b"))),
        Node("out", "aten.masked_fill.Scalar", (Ref("node", "lin"), Ref("state", "flags"), float("-inf"))),
    ),
    outputs=(Ref("node", "out"),),
    loss="cross_entropy",
)
TENSORS = {
    "b": torch.tensor([0.0, 1.0, 2.0]),
    "count": torch.tensor(7),
    "flags": torch.tensor([False, True, False]),
    "w": torch.arange(12.0).reshape(3, 4),
}


def test_canonical_bytes_are_fixed() -> None:
    data = GRAPH.to_bytes()
    expected = (
        b'{"inputs":[{"dtype":"float32","name":"x","shape":[null,4]}],"loss":"cross_entropy","nodes":['
        b'{"args":[{"state":"count"},1],"kwargs":{},"name":"next","op":"aten.add.Tensor"},'
        b'{"args":[{"state":"count"},{"node":"next"}],"kwargs":{},"name":"step","op":"state.update"},'
        b'{"args":[{"input":"x"},{"state":"w"},{"state":"b"}],"kwargs":{},"name":"lin","op":"aten.linear.default"},'
        b'{"args":[{"node":"lin"},{"state":"flags"},{"float":"-inf"}],"kwargs":{},"name":"out",'
        b'"op":"aten.masked_fill.Scalar"}],"outputs":[{"node":"out"}],"state":['
        b'{"dtype":"float32","federate":"mean","kind":"parameter","name":"b","shape":[3],"trainable":true},'
        b'{"dtype":"int64","federate":"skip","kind":"buffer","name":"count","shape":[],"trainable":false},'
        b'{"dtype":"bool","federate":"skip","kind":"constant","name":"flags","shape":[3],"trainable":false},'
        b'{"dtype":"float32","federate":"mean","kind":"parameter","name":"w","shape":[3,4],"trainable":true}],'
        b'"version":1}'
    )
    assert data == expected
    assert GRAPH.digest == blake3_digest(expected)
    assert ModelGraph.from_bytes(data) == GRAPH


@pytest.mark.parametrize(
    "indent_or_order",
    [lambda d: json.dumps(d), lambda d: json.dumps(dict(reversed(d.items())), separators=(",", ":"))],
)
def test_another_form_of_the_same_document_is_refused(indent_or_order: object) -> None:
    assert callable(indent_or_order)
    other = indent_or_order(json.loads(GRAPH.to_bytes())).encode()
    with pytest.raises(GraphRefused, match="canonical"):
        ModelGraph.from_bytes(other)


def test_limits_are_the_data_owners() -> None:
    data = GRAPH.to_bytes()
    assert ModelGraph.from_bytes(data, GraphLimits(max_nodes=4)) == GRAPH
    for limits, message in (
        (GraphLimits(max_nodes=3), "nodes: 4 entries, allowed are 3"),
        (GraphLimits(max_state_entries=3), "state: 4 entries, allowed are 3"),
        (GraphLimits(max_document_bytes=100), "allowed are 100"),
        (GraphLimits(max_state_bytes=70), "71 bytes of state, allowed are 70"),
        (GraphLimits(max_tensor_elements=11), r"must be an integer in \[1, 11\]|has 12 elements"),
        (GraphLimits(max_flops=10), "operations, allowed are 10"),
        (GraphLimits(max_activation_bytes=10), "bytes of activations, allowed are 10"),
    ):
        with pytest.raises(GraphRefused, match=message):
            ModelGraph.from_bytes(data, limits)


def test_an_entry_is_found_by_name_or_not_at_all() -> None:
    assert GRAPH.entry("w").elements == 12
    assert GRAPH.entry("w").bytes == 48
    with pytest.raises(KeyError):
        GRAPH.entry("v")


# ---- cost


def test_cost_of_a_batch_of_five() -> None:
    # next and step: 8 bytes each; lin and out: 5 x 3 floats each. Flops: 1 + 1 + 2*5*3*4 + 15.
    assert meter(GRAPH, 5) == Cost(
        parameters=15,
        state_bytes=12 + 8 + 3 + 48,
        activation_bytes=136,
        largest_tensor_bytes=80,
        flops_forward=137,
    )


def test_cost_is_refused_beyond_the_limits_and_for_no_batch() -> None:
    assert meter(GRAPH, 1 << 20).activation_bytes == 16 + 2 * 12 * (1 << 20)
    with pytest.raises(GraphRefused, match="elements"):
        meter(GRAPH, 1 << 20, GraphLimits(max_tensor_elements=1 << 20))
    for batch in (0, -1, (1 << 20) + 1, True):
        with pytest.raises(ValueError, match="batch must be"):
            meter(GRAPH, batch)


# ---- weights


def test_weights_are_safetensors_that_the_library_reads() -> None:
    data = weights_to_bytes(GRAPH, TENSORS)
    assert len(data) == weights_size(GRAPH)
    read = safetensors.torch.load(data)
    assert set(read) == set(TENSORS)
    assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())
    back = weights_from_bytes(GRAPH, data, max_bytes=len(data))
    assert all(torch.equal(back[name], tensor) for name, tensor in TENSORS.items())
    assert [name for name, tensor in back.items() if tensor.requires_grad] == ["b", "w"]


def test_the_header_is_sorted_and_padded() -> None:
    data = weights_to_bytes(GRAPH, TENSORS)
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    header = json.loads(data[8 : 8 + length])
    assert list(header) == ["b", "count", "flags", "w"]
    assert header["flags"] == {"dtype": "BOOL", "shape": [3], "data_offsets": [20, 23]}


def test_transposed_tensors_are_written_in_row_major_order() -> None:
    turned = TENSORS | {"w": TENSORS["w"].t().contiguous().t()}
    assert weights_to_bytes(GRAPH, turned) == weights_to_bytes(GRAPH, TENSORS)


def test_every_element_type_travels() -> None:
    names = ["float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    state = [StateEntry(f"s{i}", "constant", False, "skip", name, (2, 3)) for i, name in enumerate(names)]
    graph = ModelGraph(1, GRAPH.inputs, (*GRAPH.state, *state), GRAPH.nodes, GRAPH.outputs, GRAPH.loss)
    graph = ModelGraph(
        1,
        graph.inputs,
        tuple(sorted(graph.state, key=lambda e: e.name)),
        *(graph.nodes, graph.outputs, graph.loss),
    )
    tensors = TENSORS | {
        f"s{i}": torch.tensor([[0, 1, 0], [1, 1, 0]], dtype=getattr(torch, name))
        for i, name in enumerate(names)
    }
    data = weights_to_bytes(graph, tensors)
    back = weights_from_bytes(graph, data, max_bytes=len(data))
    assert all(
        back[name].dtype == tensor.dtype and torch.equal(back[name], tensor)
        for name, tensor in tensors.items()
    )


# ---- losses


LOGITS = torch.tensor([[2.0, 0.0], [0.0, 0.0]])


def test_losses_have_their_textbook_values() -> None:
    first = math.log(1 + math.exp(-2))
    cross = per_sample("cross_entropy", LOGITS, torch.tensor([0, 1]))
    assert cross.tolist() == pytest.approx([first, math.log(2)], rel=1e-6)
    assert batch_loss("cross_entropy", LOGITS, torch.tensor([0, 1])).item() == pytest.approx(
        float(cross.mean())
    )
    assert per_sample("nll", LOGITS, torch.tensor([0, 1])).tolist() == [-2, 0]
    target = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    assert per_sample("mse", LOGITS, target).tolist() == [2.5, 0]
    assert per_sample("l1", LOGITS, target).tolist() == [1.5, 0]
    assert per_sample("huber", LOGITS, target).tolist() == [1.0, 0]
    binary = per_sample("bce_with_logits", LOGITS, torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    assert binary.tolist() == pytest.approx([(first + math.log(2)) / 2, math.log(2)], rel=1e-6)


def test_dense_labels_are_averaged_within_a_sample() -> None:
    outputs = torch.zeros(2, 3, 5)
    assert per_sample(
        "cross_entropy", outputs, torch.zeros(2, 5, dtype=torch.int64)
    ).tolist() == pytest.approx([math.log(3)] * 2)
    assert check_labels("cross_entropy", np.zeros((2, 5), np.int32), (2, 3, 5)).shape == (2, 5)
    with pytest.raises(DataRefused, match=r"shape must be \[2, 5\]"):
        check_labels("cross_entropy", np.zeros((2,), np.int32), (2, 3, 5))


def test_labels_are_taken_in_the_losss_type_and_range() -> None:
    assert set(LABEL_DTYPE) == set(LOSSES)
    assert LABEL_DTYPE["cross_entropy"] == np.int64
    assert LABEL_DTYPE["mse"] == np.float32
    assert check_labels("cross_entropy", np.array([0, 1], np.uint8), (2, 2)).dtype == torch.int64
    assert check_labels("mse", np.array([0.0, 1.0]), (2, 1)).tolist() == [[0], [1]]
    for bad in (np.array([0, 2]), np.array([-1, 0]), np.array([0.0, 1.0]), np.array([True, False])):
        with pytest.raises(DataRefused, match="labels"):
            check_labels("cross_entropy", bad, (2, 2))
    assert check_labels("bce_with_logits", np.array([True, False]), (2, 1)).tolist() == [[1], [0]]
    for worse in (np.array([0.0, 1.5]), np.array([0.0, np.nan])):
        with pytest.raises(DataRefused, match=r"in \[0, 1\]"):
            check_labels("bce_with_logits", worse, (2, 1))


# ---- the page that describes it


def test_the_page_lists_every_operation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "model-graph.md").read_text(encoding="utf-8")
    listed = page.split("<!-- operations: begin -->")[1].split("<!-- operations: end -->")[0]
    assert re.findall(r"`([^`]+)`", listed) == sorted(OPERATIONS)
