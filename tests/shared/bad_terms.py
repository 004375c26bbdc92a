"""Terms that nobody can agree to, and why."""

from __future__ import annotations

import json

from bad_document_parts import Case, put, terms, without, written

TERMS: dict[str, Case] = {
    "terms: empty": ("terms", lambda: b"", "Input data was truncated"),
    "terms: null": ("terms", lambda: b"null", "Expected `object`, got `null`"),
    "terms: white space": (
        "terms",
        lambda: json.dumps(terms(), sort_keys=True).encode(),
        "not in canonical form; sorted keys, no white space, every field present allowed",
    ),
    "terms: a key twice": (
        "terms",
        lambda: written(terms())[:-1] + b',"version":1}',
        "not in canonical form; sorted keys, no white space, every field present allowed",
    ),
    "terms: version 2": (
        "terms",
        lambda: put(terms(), "version", 2),
        "Invalid enum value 2 - at `$.version`",
    ),
    "terms: a field missing": (
        "terms",
        lambda: without(terms(), "price"),
        "Object missing required field `price`",
    ),
    "terms: a field too many": (
        "terms",
        lambda: put(terms(), "price.tip", "1"),
        "Object contains unknown field `tip` - at `$.price`",
    ),
    "terms: no title": (
        "terms",
        lambda: put(terms(), "title", ""),
        "'' given; allowed: 1 to 120 characters without control characters",
    ),
    "terms: a title of 121 letters": (
        "terms",
        lambda: put(
            terms(),
            "title",
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        ),
        "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'... given; allowed: 1 to 120 characters withou",
    ),
    "terms: a title with a bell": (
        "terms",
        lambda: put(terms(), "title", "\x07"),
        "'\\x07' given; allowed: 1 to 120 characters without control characters",
    ),
    "terms: a requester in small letters": (
        "terms",
        lambda: put(terms(), "requester", "0xabababababababababababababababababababab"),
        "'0xababababababababababababababababababab'... is not a checksummed non-zero address (0x",
    ),
    "terms: no evaluator": (
        "terms",
        lambda: put(terms(), "evaluators", []),
        "0 given; allowed: 1 to 15 evaluators",
    ),
    "terms: a digest in capitals": (
        "terms",
        lambda: put(terms(), "graph", "ABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABAB"),
        "'ABABABABABABABABABABABABABABABABABABABAB'... given; allowed: 64 lower-case hex digits",
    ),
    "terms: a digest too short": (
        "terms",
        lambda: put(terms(), "model", "ab"),
        "'ab' given; allowed: 64 lower-case hex digits",
    ),
    "terms: a loss nobody knows": (
        "terms",
        lambda: put(terms(), "loss", "hinge"),
        "'hinge' given; allowed: one of cross_entropy, bce_with_logits, mse, l1, huber, nll",
    ),
    "terms: no test rows": (
        "terms",
        lambda: put(terms(), "test_rows", 0),
        "0 given; allowed: from 1 to 1e+08",
    ),
    "terms: a seed of 2^63": (
        "terms",
        lambda: put(terms(), "seed", 9223372036854775808),
        "9223372036854775808 given; allowed: 0 to 2^63-1",
    ),
    "terms: a negative seed": ("terms", lambda: put(terms(), "seed", -1), "-1 given; allowed: 0 to 2^63-1"),
    "terms: a window of no seconds": (
        "terms",
        lambda: put(terms(), "windows.round_s", 0),
        "0 given; allowed: from 1 to 3.1536e+07",
    ),
    "terms: a window of two years": (
        "terms",
        lambda: put(terms(), "windows.enrol_s", 63072000),
        "63072000 given; allowed: from 1 to 3.1536e+07",
    ),
    "terms: a bounty of 0": (
        "terms",
        lambda: put(terms(), "price.bounty", "0"),
        "'0' given; allowed: more than 0",
    ),
    "terms: a bounty as a number": (
        "terms",
        lambda: put(terms(), "price.bounty", 5),
        "Expected `str`, got `int` - at `$.price.bounty`",
    ),
    "terms: a bounty in hexadecimal": (
        "terms",
        lambda: put(terms(), "price.bounty", "0x10"),
        "'0x10' is not an amount; decimal digits without sign, point or leading zero allowed",
    ),
    "terms: a bounty with a leading zero": (
        "terms",
        lambda: put(terms(), "price.bounty", "007"),
        "'007' is not an amount; decimal digits without sign, point or leading zero allowed",
    ),
    "terms: a bounty of 2^128": (
        "terms",
        lambda: put(terms(), "price.bounty", "340282366920938463463374607431768211456"),
        "340282366920938463463374607431768211456 is out of range; 0 to 2^128-1 allowed",
    ),
    "terms: no gain": (
        "terms",
        lambda: put(terms(), "price.target_gain", 0.0),
        "0.0 given; allowed: from 1e-06 to 1e+06",
    ),
    "terms: a gain beyond a million": (
        "terms",
        lambda: put(terms(), "price.target_gain", 10000000.0),
        "10000000.0 given; allowed: from 1e-06 to 1e+06",
    ),
    "terms: a participation fee above the bounty": (
        "terms",
        lambda: put(terms(), "price.participation_fee", "1000000"),
        "'1000000' given; allowed: at most the bounty over plan.maximum_owners",
    ),
    "terms: an allow-list without a list": (
        "terms",
        lambda: put(terms(), "admission.kind", "allow-list"),
        "0 given; allowed: 1 to 10000 addresses with kind 'allow-list'",
    ),
    "terms: a list for everybody": (
        "terms",
        lambda: put(terms(), "admission.allowed", ["0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"]),
        "1 given; allowed: 0 to 0 addresses with kind 'open'",
    ),
    "terms: a privacy nobody knows": (
        "terms",
        lambda: put(terms(), "privacy", "secret"),
        "Invalid enum value 'secret' - at `$.privacy`",
    ),
    "terms: masked without masking": (
        "terms",
        lambda: put(terms(), "privacy", "masked"),
        "None given; allowed: given with privacy 'masked', and only then",
    ),
    "terms: a deviation of 0": (
        "terms",
        lambda: put(terms(), "schema.features.0.std", 0.0),
        "0.0 given; allowed: above 0 to 1e+300",
    ),
    "terms: a kind nobody knows": (
        "terms",
        lambda: put(terms(), "schema.features.0.kind", "date"),
        "Invalid enum value 'date' - at `$.schema.features[0].kind`",
    ),
    "terms: classes of a number": (
        "terms",
        lambda: put(terms(), "schema.features.0.classes", ["a"]),
        "tuple given; allowed: classes only for kind 'category'",
    ),
    "terms: a label of one class": (
        "terms",
        lambda: put(terms(), "schema.label.classes", ["a"]),
        "'category' given; allowed: a category of 2 or more classes with loss 'cross_entropy'",
    ),
    "terms: one class twice": (
        "terms",
        lambda: put(terms(), "schema.label.classes", ["a", "a"]),
        "tuple given; allowed: each class once",
    ),
    "terms: a feature called like the label": (
        "terms",
        lambda: put(terms(), "schema.features.0.name", "diagnosis"),
        "'diagnosis' given; allowed: each name once",
    ),
    "terms: no rounds": (
        "terms",
        lambda: put(terms(), "plan.rounds", 0),
        "0 given; allowed: from 1 to 10000",
    ),
    "terms: more owners at least than at most": (
        "terms",
        lambda: put(terms(), "plan.minimum_owners", 13),
        "13 given; allowed: from 1 to 12",
    ),
    "terms: a negative learning rate": (
        "terms",
        lambda: put(terms(), "plan.learning_rate", -1.0),
        "-1.0 given; allowed: above 0 to 1000",
    ),
    "terms: a rule nobody knows": (
        "terms",
        lambda: put(terms(), "plan.rule", "median-of-friends"),
        "Invalid enum value 'median-of-friends' - at `$.plan.rule`",
    ),
}
