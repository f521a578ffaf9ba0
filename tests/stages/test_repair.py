"""Repair of disputed seams: larger windows settle them, and only the tiles beside them are
segmented again.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage import data as pictures

import pipeline
from pipeline.errors import JobError
from pipeline.stages import objects_in_windows
from pipeline.stages.segment import DRAW
from tests.faults.staging import Stopped, Stopper

COINS = pictures.coins()
CUT = {"size": 64, "halo": 8, "max_halo": 8}
METHOD = pipeline.Watershed(sigma=2, min_distance=15)


def carried_out(out, repair, segmenter=METHOD, engine=None, tiles=CUT, **output):
    job = pipeline.Job(
        source=COINS,
        tiles=tiles,
        segmenters={"coins": segmenter},
        stitch={"repair": repair},
        output={"path": str(out), **output},
    )
    return pipeline.run(job, engine or pipeline.local())


@pytest.fixture(scope="module")
def unrepaired(tmp_path_factory):
    """Windows that are too small for the coins: some seams are disputed."""
    result = carried_out(tmp_path_factory.mktemp("unrepaired") / "out", 0)
    assert result.record["certificates"]["disputed"] > 0
    assert result.record["repairs"] == []
    return result


@pytest.fixture
def calls(monkeypatch):
    """The tiles that are segmented, in turn."""
    seen: list[int] = []
    drawn = objects_in_windows.objects

    def counted(run, tile, block, valid):
        seen.append(tile)
        return drawn(run, tile, block, valid)

    monkeypatch.setitem(DRAW, "object", counted)
    return seen


def test_larger_windows_settle_disputes(unrepaired, tmp_path, calls):
    """After a repair nothing is disputed, labels are the untiled ones, and no tile but those beside
    a dispute was segmented again.
    """
    result = carried_out(tmp_path / "out", 2)
    (told,) = result.record["repairs"]
    assert told["disputed"] == unrepaired.record["certificates"]["disputed"]
    assert result.record["certificates"]["disputed"] == 0
    assert len(calls) == 30 + told["tiles"] < 60
    untiled = carried_out(tmp_path / "untiled", 0, tiles={"size": 1000})
    np.testing.assert_array_equal(result.labels.values, untiled.labels.values)


def test_a_budget_ends(unrepaired, tmp_path):
    """What depends on whole windows may stay disputed: the budget ends, the record counts every
    round, and the result is still complete.
    """
    result = carried_out(tmp_path / "out", 2, pipeline.Felzenszwalb(scale=100, sigma=2))
    assert result.record["complete"]
    assert 1 <= len(result.record["repairs"]) <= 2
    none = carried_out(tmp_path / "none", 0, pipeline.Felzenszwalb(scale=100, sigma=2))
    assert result.record["repairs"][0]["disputed"] == none.record["certificates"]["disputed"]


def test_another_budget_goes_on_from_what_is_kept(unrepaired, tmp_path, calls):
    """With a kept scratch store, a repair added afterwards segments only the tiles beside disputes;
    taken back, they are as before.
    """
    carried_out(tmp_path / "out", 0, keep_scratch=True)
    del calls[:]
    repaired = carried_out(tmp_path / "out", 1, keep_scratch=True)
    assert len(calls) == repaired.record["repairs"][0]["tiles"]
    assert repaired.record["certificates"]["disputed"] == 0
    back = carried_out(tmp_path / "out", 0, keep_scratch=True)
    assert back.record["certificates"] == unrepaired.record["certificates"]
    np.testing.assert_array_equal(back.labels.values, unrepaired.labels.values)


def test_a_repair_that_dies_goes_on(tmp_path, monkeypatch):
    """However many files were written when a run with repairs ends, the same call gives the same
    labels, ids and certificates.
    """
    whole = carried_out(tmp_path / "whole", 2)
    stopper = Stopper(monkeypatch)
    carried_out(tmp_path / "counted", 2)
    for stop in range(60, stopper.written, 17):
        out, stopper.left = tmp_path / str(stop), stop
        with pytest.raises((Stopped, pipeline.TilewiseError)):
            carried_out(out, 2)
        stopper.left = math.inf
        again = carried_out(out, 2)
        np.testing.assert_array_equal(again.labels.values, whole.labels.values)
        assert again.objects.equals(whole.objects)
        assert again.record["repairs"] == whole.record["repairs"]


@pytest.mark.parametrize("repair", [-1, 9, True, 1.5])
def test_refusals(repair, tmp_path):
    """A budget is a number of rounds from 0 to 8."""
    with pytest.raises(JobError, match=r"stitch\.repair"):
        carried_out(tmp_path, repair)
