"""The privacy book: what was told stays told, over restarts, names, files and jobs; each round once."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from galaxylearning.errors import DataRefused, StorageError
from galaxylearning.learning.accounting import Release
from galaxylearning.protocol.privacy import Spending
from galaxylearning.storage.datasets import DatasetCatalog
from galaxylearning.storage.journal import SqliteJournal
from galaxylearning.storage.privacy_book import SqlitePrivacyBook

RELEASE = Release(1.5, 20, 16, 320)
JOB, OTHER = "31337/0xjobs/1", "1/0xjobs/1"


@pytest.fixture
def catalogue(tmp_path: Path) -> DatasetCatalog:
    found = DatasetCatalog(tmp_path / "data.sqlite")
    for name, text in (("biopsies", "age,kind\n1,a\n2,b\n"), ("others", "age,kind\n3,a\n4,b\n")):
        (tmp_path / f"{name}.csv").write_text(text)
        found.add(name, tmp_path / f"{name}.csv", "kind", entropy=os.urandom)
    return found


def open_book(tmp_path: Path, catalogue: DatasetCatalog) -> SqlitePrivacyBook:
    return SqlitePrivacyBook(tmp_path / "privacy.sqlite", lambda name: catalogue.get(name).content_digest)


def test_a_reservation_and_each_round_are_kept_once_over_restarts(
    tmp_path: Path, catalogue: DatasetCatalog
) -> None:
    book = open_book(tmp_path, catalogue)
    assert list(book.spendings("biopsies")) == []
    expected = Spending(JOB, "0xa", RELEASE, reserved=10, rounds=0, is_open=True)
    assert book.reserve("biopsies", JOB, "0xa", RELEASE, 10) == expected
    # Nobody can make a reservation cheaper by making it again.
    assert book.reserve("biopsies", JOB, "0xb", Release(900.0), 1) == expected
    for round_index in (0, 0, 1, 0):
        book.spend("biopsies", JOB, round_index)
    book.close()
    again = open_book(tmp_path, catalogue)
    again.spend("biopsies", JOB, 1)
    assert list(again.spendings("biopsies")) == [Spending(JOB, "0xa", RELEASE, 10, 2, True)]
    again.close_job(JOB)
    assert list(again.spendings("biopsies")) == [Spending(JOB, "0xa", RELEASE, 10, 2, False)]
    # A round of a job that was thought to be over still counts.
    again.spend("biopsies", JOB, 2)
    assert again.spendings("biopsies")[0].charged == 3
    again.close()


def test_jobs_of_two_chains_and_data_sets_are_kept_apart(tmp_path: Path, catalogue: DatasetCatalog) -> None:
    book = open_book(tmp_path, catalogue)
    book.reserve("biopsies", JOB, "0xa", RELEASE, 10)
    book.reserve("biopsies", OTHER, "0xb", None, 4)
    book.reserve("others", JOB, "0xa", RELEASE, 7)
    book.spend("biopsies", OTHER, 0)
    assert [(one.job, one.release, one.rounds) for one in book.spendings("biopsies")] == [
        (OTHER, None, 1),
        (JOB, RELEASE, 0),
    ]
    assert [(one.job, one.reserved) for one in book.spendings("others")] == [(JOB, 7)]
    book.close_job(JOB)
    assert [one.is_open for one in book.spendings("biopsies")] == [True, False]
    book.close()


def test_neither_another_name_nor_a_newer_file_begins_a_new_budget(
    tmp_path: Path, catalogue: DatasetCatalog
) -> None:
    book = open_book(tmp_path, catalogue)
    book.reserve("biopsies", JOB, "0xa", RELEASE, 10)
    book.spend("biopsies", JOB, 0)
    catalogue.add("renamed", tmp_path / "biopsies.csv", "kind", entropy=os.urandom)
    assert [one.rounds for one in book.spendings("renamed")] == [1]
    catalogue.remove("biopsies")
    (tmp_path / "biopsies.csv").write_text("age,kind\n1,a\n2,b\n5,a\n")
    catalogue.add("biopsies", tmp_path / "biopsies.csv", "kind", entropy=os.urandom)
    assert [one.rounds for one in book.spendings("biopsies")] == [1]
    assert list(book.spendings("others")) == []
    book.close()


def test_nothing_is_spent_that_was_not_reserved(tmp_path: Path, catalogue: DatasetCatalog) -> None:
    book = open_book(tmp_path, catalogue)
    book.reserve("biopsies", JOB, "0xa", RELEASE, 10)
    for dataset, job in (("biopsies", OTHER), ("others", JOB)):
        with pytest.raises(DataRefused, match="nothing is reserved for job"):
            book.spend(dataset, job, 0)
        assert sum(one.rounds for one in book.spendings(dataset)) == 0
    with pytest.raises(DataRefused, match="no data set has this name"):
        book.spend("none", JOB, 0)
    for job, rounds in (("", 1), ("x" * 301, 1), (JOB, 0)):
        with pytest.raises(ValueError, match="a job's name has"):
            book.reserve("biopsies", job, "0xa", RELEASE, rounds)
    book.close()


def test_two_processes_may_keep_one_book(tmp_path: Path, catalogue: DatasetCatalog) -> None:
    first, second = open_book(tmp_path, catalogue), open_book(tmp_path, catalogue)
    first.reserve("biopsies", JOB, "0xa", RELEASE, 10)
    second.spend("biopsies", JOB, 0)
    assert first.spendings("biopsies")[0].rounds == 1
    first.close()
    second.close()


@pytest.mark.parametrize(
    "damage", [b"{", b'{"multiplier":0,"steps":1,"expected":1,"rows":1}', b'{"steps":1}']
)
def test_a_damaged_book_is_refused_and_never_read_as_less(
    tmp_path: Path, catalogue: DatasetCatalog, damage: bytes
) -> None:
    book = open_book(tmp_path, catalogue)
    book.reserve("biopsies", JOB, "0xa", RELEASE, 10)
    book.close()
    with sqlite3.connect(tmp_path / "privacy.sqlite") as connection:
        connection.execute("UPDATE jobs SET release = ?", (damage,))
    connection.close()
    book = open_book(tmp_path, catalogue)
    with pytest.raises(StorageError, match="the privacy book is damaged"):
        book.spendings("biopsies")
    book.close()


def test_another_kind_of_file_is_refused(tmp_path: Path, catalogue: DatasetCatalog) -> None:
    SqliteJournal(tmp_path / "privacy.sqlite").close()
    with pytest.raises(StorageError, match="is not a privacy book"):
        open_book(tmp_path, catalogue)
