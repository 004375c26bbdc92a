"""Write test.csv (hidden, the requester's) and a file for each of three data owners beside this file."""

import csv
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer

FOLDER = Path(__file__).parent


def main() -> None:
    """Deal the rows out at random, always the same way."""
    found = load_breast_cancer()
    names = [name.replace(" ", "_") for name in found.feature_names]
    order = np.random.default_rng(0).permutation(len(found.target))
    parts = {"test": order[:170], "north": order[170:300], "east": order[300:430], "south": order[430:]}
    for name, rows in parts.items():
        with (FOLDER / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*names, "diagnosis"])
            for row in rows:
                writer.writerow([*found.data[row], found.target_names[found.target[row]]])


if __name__ == "__main__":
    main()
