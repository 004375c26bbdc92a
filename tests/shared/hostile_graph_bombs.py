"""Graph documents that would take all the memory or for ever, if they were allowed to."""

from __future__ import annotations

from hostile_graphs import ACT, BIG, END, LIN, B, Cases, P, Q, W, X, chain, ending, node, one, squaring

BOMBS: Cases = {
    # ---- bombs
    "zeros of 2^50": (lambda: one("aten.zeros.default", [BIG]), "must be within"),
    "zeros of 2^60": (lambda: one("aten.zeros.default", [1 << 30, 1 << 30]), "elements"),
    "full of 2^60": (lambda: one("aten.full.default", [1 << 30, 1 << 30], 1.0), "elements"),
    "ones of a negative size": (lambda: one("aten.ones.default", [-3]), "no dimension below 1"),
    "ones of no size": (lambda: one("aten.ones.default", [0, 3]), "no dimension below 1"),
    "ones of rank nine": (lambda: one("aten.ones.default", [1] * 9), "dimensions, allowed are 8"),
    "a repeat bomb": (lambda: one("aten.repeat.default", ACT, [1 << 30, 1 << 30]), "elements"),
    "an interleave bomb": (lambda: one("aten.repeat_interleave.self_int", ACT, 1 << 31, 1), "elements"),
    "an expand bomb": (lambda: one("aten.expand.default", B, [1 << 30, 1 << 30, 3]), "elements"),
    "a pad bomb": (lambda: one("aten.pad.default", ACT, [1 << 31, 1 << 31, 1 << 31, 0]), "elements"),
    "a constant pad bomb": (lambda: one("aten.constant_pad_nd.default", ACT, [0, 1 << 31]), "elements"),
    "a negative pad": (lambda: one("aten.constant_pad_nd.default", ACT, [-2, -2]), "no dimension below 1"),
    "an arange bomb": (lambda: one("aten.arange.default", float(1 << 60)), "elements"),
    "an arange of tiny steps": (lambda: one("aten.arange.start_step", 0.0, 1.0, 1e-300), "elements"),
    "an arange of no step": (lambda: one("aten.arange.start_step", 0, 1, 0), "step not zero"),
    "an arange to infinity": (lambda: one("aten.arange.default", {"float": "inf"}), "finite"),
    "an arange to nan": (lambda: one("aten.arange.default", {"float": "nan"}), "finite"),
    "an upsampling bomb": (
        lambda: ending(
            node("u", "aten.unsqueeze.default", ACT, 0),
            node("v", "aten.unsqueeze.default", {"node": "u"}, 0),
            node("bad", "aten.upsample_nearest2d.vec", {"node": "v"}, [1 << 20, 1 << 20], None),
        ),
        "elements",
    ),
    "an adaptive pool bomb": (
        lambda: ending(
            node("u", "aten.unsqueeze.default", ACT, 0),
            node("bad", "aten.adaptive_avg_pool2d.default", {"node": "u"}, [1 << 20, 1 << 20]),
        ),
        "elements",
    ),
    "an outer product bomb": (
        lambda: ending(
            node("p", "aten.ones.default", [1 << 20, 1]),
            node("q", "aten.ones.default", [1, 1 << 20]),
            node("bad", "aten.matmul.default", {"node": "p"}, {"node": "q"}),
        ),
        "elements",
    ),
    "a broadcast bomb": (
        lambda: ending(
            node("p", "aten.ones.default", [1 << 20, 1]),
            node("q", "aten.ones.default", [1 << 20]),
            node("bad", "aten.add.Tensor", {"node": "p"}, {"node": "q"}),
        ),
        "elements",
    ),
    "doubling": (lambda: chain(60, "aten.repeat.default", [2, 1]), "elements"),
    "many large tensors": (
        lambda: ending(*(node(f"z{i}", "aten.ones.default", [1 << 31]) for i in range(200))),
        "bytes of activations",
    ),
    "products without end": (
        lambda: ending(
            node("p", "aten.ones.default", [1 << 15, 1 << 15]),
            *(node(f"m{i}", "aten.mm.default", {"node": "p"}, {"node": "p"}) for i in range(300)),
            node("bad", "aten.relu.default", ACT),
        ),
        "bytes of activations",
    ),
    "a product of too many operations": (
        lambda: ending(
            node("p", "aten.ones.default", [1 << 7, 1 << 24]),
            node("q", "aten.ones.default", [1 << 24, 1 << 7]),
            node("m", "aten.einsum.default", "ab,cd->ad", [P, Q]),
            node("bad", "aten.relu.default", ACT),
        ),
        "operations, allowed are",
    ),
    "an einsum that explodes": (
        lambda: one("aten.einsum.default", "ab,cd->abcd", [{"state": "w"}] * 2),
        "batch",
    ),
    "an einsum of many factors": (
        lambda: one("aten.einsum.default", "ab,cd,ef->abcdef", [W] * 3),
        "equation",
    ),
    "an einsum with dots": (lambda: one("aten.einsum.default", "...a->a", [ACT]), "equation"),
    "an einsum without output": (lambda: one("aten.einsum.default", "ab", [ACT]), "equation"),
    "an einsum of a diagonal": (lambda: one("aten.einsum.default", "aa->a", [ACT]), "distinct letter"),
    "an einsum of unknown letters": (lambda: one("aten.einsum.default", "ab->c", [ACT]), "output"),
    "an einsum of code": (lambda: one("aten.einsum.default", "__import__('os')", [ACT]), "equation"),
    "an einsum with a number for letters": (lambda: one("aten.einsum.default", 7, [ACT]), "must be a string"),
    "an outer einsum of 2^40": (
        lambda: ending(
            node("p", "aten.ones.default", [1 << 20]),
            node("bad", "aten.einsum.default", "a,b->ab", [{"node": "p"}, {"node": "p"}]),
        ),
        "elements",
    ),
    "a million chunks": (
        lambda: ending(
            node("p", "aten.ones.default", [1 << 20]),
            node("c", "aten.split.Tensor", {"node": "p"}, 1),
            node("bad", "tuple.item", {"node": "c"}, 0),
        ),
        "more than 1024 parts",
    ),
    "eight million parts": (
        lambda: ending(
            node("p", "aten.ones.default", [1024]),
            *(node(f"u{i}", "aten.unbind.int", {"node": "p"}) for i in range(8000)),
        ),
        "parts, allowed are",
    ),
    "a recurrence without end": (
        lambda: ending(
            node("x1", "aten.ones.default", [1 << 20, 1, 1]),
            node("h", "aten.zeros.default", [1, 1, 1]),
            node("k", "aten.ones.default", [1, 1]),
            node(
                "bad",
                "aten.rnn_tanh.input",
                {"node": "x1"},
                {"node": "h"},
                [{"node": "k"}, {"node": "k"}],
                False,
                1,
                0.0,
                False,
                False,
                False,
            ),
        ),
        "time steps",
    ),
    "a recurrence of a thousand layers": (
        lambda: ending(
            node("x1", "aten.ones.default", [4, 1, 1]),
            node("h", "aten.zeros.default", [1000, 1, 1]),
            node("k", "aten.ones.default", [1, 1]),
            node(
                "bad",
                "aten.rnn_tanh.input",
                {"node": "x1"},
                {"node": "h"},
                [{"node": "k"}] * 1000,
                False,
                500,
                0.0,
                False,
                False,
                False,
            ),
        ),
        "num_layers",
    ),
    "a kernel with a giant padding": (
        lambda: ending(
            node("i", "aten.ones.default", [1, 1, 4, 4]),
            node("k", "aten.ones.default", [1, 1, 2, 2]),
            node(
                "bad",
                "aten.conv2d.default",
                {"node": "i"},
                {"node": "k"},
                None,
                [1 << 30, 1 << 30],
                [1 << 30, 1 << 30],
            ),
        ),
        "workspace",
    ),
    "hidden attention scores": (
        lambda: ending(
            node("q", "aten.ones.default", [1 << 18, 1]),
            node(
                "bad",
                "aten.scaled_dot_product_attention.default",
                {"node": "q"},
                {"node": "q"},
                {"node": "q"},
            ),
        ),
        "bytes of scores",
    ),
    "integers that square": (squaring, "must be within"),
    "a division by zero": (
        lambda: ending(
            node("n", "aten.sym_size.int", X, 0),
            node("z", "int.sub", {"node": "n"}, {"node": "n"}),
            node("d", "int.floordiv", {"node": "n"}, {"node": "z"}),
            node("bad", "aten.add.Tensor", ACT, {"node": "d"}),
        ),
        "division by zero",
    ),
    "a shift by text": (lambda: one("int.mul", "9" * 60, "9" * 60), "must be an integer"),
    "a group of no channels": (lambda: one("aten.group_norm.default", LIN, 0), "num_groups"),
    "a stride of no step": (
        lambda: ending(
            node("u", "aten.unsqueeze.default", ACT, 1),
            node("bad", "aten.max_pool1d.default", {"node": "u"}, [1], [0]),
        ),
        "stride must be at least 1",
    ),
    "a slice of no step": (lambda: one("aten.slice.Tensor", ACT, 0, 0, END, 0), "step must be"),
    "a dropout of one": (lambda: one("aten.dropout.default", ACT, 1.0, True), r"p must be in \[0, 1\)"),
    "a dropout of nan": (
        lambda: one("aten.dropout.default", ACT, {"float": "nan"}, True),
        r"p must be in \[0, 1\)",
    ),
    "an item outside the tuple": (
        lambda: ending(
            node("c", "aten.chunk.default", ACT, 3, 1), node("bad", "tuple.item", {"node": "c"}, 3)
        ),
        "index must be in",
    ),
    "an item of a tensor": (lambda: one("tuple.item", ACT, 0), "several tensors"),
    "a tensor of a tuple": (
        lambda: ending(
            node("c", "aten.chunk.default", ACT, 3, 1), node("bad", "aten.relu.default", {"node": "c"})
        ),
        "must refer to a tensor",
    ),
}
