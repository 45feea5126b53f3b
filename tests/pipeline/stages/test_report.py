"""What the report announces before it is built."""

import pytest

from pipeline.recipe import CostContext
from pipeline.stages import report as stage


def test_the_announced_size_is_about_that_of_both_copies(artificial_run):
    written = sum((artificial_run / name).stat().st_size for name in ("report.html", "report.json"))
    assert stage.cost(stage.Config(), CostContext({}, {})).disk_bytes == pytest.approx(2 * written, rel=0.5)
