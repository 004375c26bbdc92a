"""What a data owner spends and sends in a round of masked mode.

Run as: python -m benchmarks.secagg.owner_run PARAMETERS BITS REPEATS

Counted is the CPU time of the whole process from the float32 update to the last sealed share: clipping and
quantising, expanding the public polynomials, drawing secret and errors, masking, sharing, sealing.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import numpy as np
from benchmarks.measuring import PREFIX
from benchmarks.secagg.sizes import planned, sealing_keys, seed_of_round, send

from galaxylearning.learning.quantise import Quantizer, clip_norm


def main() -> None:
    """Measure and say the result."""
    parameters, bits, repeats = map(int, sys.argv[1:4])
    plan = planned(parameters=parameters, bits=bits)
    keys = [key.public for key in sealing_keys(plan.members)]
    vector = np.random.default_rng(0).standard_normal(parameters).astype(np.float32) * np.float32(0.1)
    quantizer = Quantizer(bits, 1.0)
    quantising, masking, sent = [], [], 0
    for repeat in range(repeats + 1):
        start = time.process_time()
        integers = quantizer.quantize(clip_norm(vector, 1.0))
        between = time.process_time()
        masked, envelopes = send(plan, seed_of_round(repeat), integers, keys)
        masking.append(time.process_time() - between)
        quantising.append(between - start)
        sent = len(masked.body) + sum(map(len, envelopes))
    result = {
        "version": "0.1.0",
        "ring": plan.ring.name,
        # The first one fills tables and is not counted.
        "cpu_s": statistics.median(masking[1:]),
        "cpu_first_s": masking[0],
        "cpu_best_s": min(masking[1:]),
        "quantise_cpu_s": statistics.median(quantising[1:]),
        "sent_bytes": sent,
        "messages": 1,
        "failure_log2": plan.failure_log2,
    }
    print(PREFIX + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
