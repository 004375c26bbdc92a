"""The examples: their data are written, their jobs compile and learn."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import pytest

from galaxylearning.cli.job_file import compile_file, try_training
from galaxylearning.protocol.matching import match_schema
from galaxylearning.storage.datasets import DatasetCatalog
from galaxylearning.storage.shelf import CatalogueShelf

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "label", "suffix"), [("tumours", "diagnosis", ".csv"), ("digits", "digit", ".npz")]
)
def test_an_example_compiles_learns_and_fits_its_data_owners(
    tmp_path: Path, name: str, label: str, suffix: str
) -> None:
    folder = Path(shutil.copytree(EXAMPLES / name, tmp_path / name))
    runpy.run_path(str(folder / "prepare.py"), run_name="__main__")
    compiled = compile_file(folder / "job.py")
    target = compiled.job.price.target_gain
    assert 0.5 * target < try_training(compiled).gain < 2 * target
    catalogue = DatasetCatalog(tmp_path / "data.sqlite")
    try:
        for owner in ("north", "east", "south"):
            catalogue.add(owner, folder / f"{owner}{suffix}", label, entropy=bytes)
        for offered in CatalogueShelf(catalogue).offered():
            report = match_schema(compiled.job.schema, offered.columns, arrays=offered.arrays)
            assert report.is_match, report.problems
    finally:
        catalogue.close()
