"""Damaged JSON is imported or refused by a MedsegError, and nothing else happens; bench/fuzz_json.py runs the long form."""

from __future__ import annotations

import fuzz_json
import pytest


@pytest.mark.parametrize("reader", fuzz_json.READERS)
def test_no_reader_fails(reader, tmp_path):
    outcomes, failures = fuzz_json.fuzz(reader, 1500, seed=7, folder=tmp_path)
    assert not failures, failures[0]
    assert outcomes["imported"] > 50 and sum(outcomes.values()) == 1500  # the damage is not so large that all is refused at once


@pytest.mark.parametrize("reader", fuzz_json.READERS)
def test_undamaged_documents_are_imported(reader, tmp_path):
    make, read = fuzz_json.READERS[reader]
    (tmp_path / "a.png").write_bytes(fuzz_json.PHOTOGRAPH)
    for document in make():
        assert read(fuzz_json.json.dumps(document).encode(), tmp_path) == "imported"
