"""What the artificial run's evaluation left."""

import json

import pytest

from pipeline.records import read_records


@pytest.fixture(scope="module")
def records(artificial_run):
    return read_records(artificial_run / "stages" / "evaluate" / "records.jsonl")


@pytest.fixture(scope="module")
def results(artificial_run):
    return json.loads((artificial_run / "stages" / "evaluate" / "figures.json").read_text())
