"""Traits against NumPy, and rules."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import JobError
from pipeline.jobs.routing import SKIP, Range, Rule, choose, trait

BLOCK = np.random.default_rng(0).normal(100, 20, (2, 30, 40))
VALID = np.random.default_rng(1).random((30, 40)) > 0.3
SHARED = np.broadcast_to(VALID, BLOCK.shape)


def test_traits():
    """Each trait is what NumPy computes over the valid pixels."""
    grey = BLOCK.mean(axis=0)[VALID]
    assert trait("valid", BLOCK, SHARED) == pytest.approx(VALID.mean())
    assert trait("mean", BLOCK, SHARED) == pytest.approx(BLOCK[:, VALID].mean())
    assert trait("spread", BLOCK, SHARED) == pytest.approx(grey.std())
    assert trait("mean_2", BLOCK, SHARED) == pytest.approx(BLOCK[1][VALID].mean())
    index = (BLOCK[1] - BLOCK[0]) / (BLOCK[1] + BLOCK[0])
    assert trait("index_2_1", BLOCK, SHARED) == pytest.approx(index[VALID].mean())
    share = np.histogram(grey, 64)[0] / grey.size
    assert trait("entropy", BLOCK, SHARED) == pytest.approx(
        -(share[share > 0] * np.log2(share[share > 0])).sum()
    )
    assert 0.7 < trait("edges", BLOCK, np.ones(BLOCK.shape, bool)) < 1.5


def test_traits_of_bands_that_were_measured_elsewhere():
    """A trait is over the pixels of which the bands that it is of were measured, as NumPy's masked
    arrays have it.
    """
    measured = np.random.default_rng(2).random(BLOCK.shape) > 0.4
    masked = np.ma.array(BLOCK, mask=~measured)
    grey = masked.mean(axis=0)
    expected = {
        "valid": measured.any(axis=0).mean(),
        "mean": masked.mean(),
        "spread": grey.std(),
        "mean_2": masked[1].mean(),
        "index_2_1": ((masked[1] - masked[0]) / (masked[1] + masked[0])).mean(),
    }
    assert {
        name: trait(name, np.where(measured, BLOCK, 0), measured) for name in expected
    } == pytest.approx(expected)


@pytest.mark.parametrize("name", ["mean", "spread", "entropy", "edges", "index_1_2"])
def test_flat_and_empty(name):
    """Of a flat block and of one without a valid pixel every trait is a finite number."""
    for valid in (True, False):
        assert np.isfinite(trait(name, np.full((2, 5, 5), 3.0), np.full((2, 5, 5), valid)))


def test_first_rule_that_holds_wins():
    """Rules are tried in order, ends of ranges included; a tile that none holds for is skipped."""
    rules = [
        Rule(SKIP, {"valid": Range(max=0.5)}),
        Rule("bright", {"mean": Range(min=100), "valid": Range(min=0.9)}),
        Rule("dark", {"mean": Range(max=50)}),
    ]
    full = np.ones((1, 5, 5), bool)
    for value, valid, expected in (
        (200, ~full, SKIP),
        (100, full, "bright"),
        (50, full, "dark"),
        (75, full, SKIP),
    ):
        assert choose(rules, np.full((1, 5, 5), value), valid) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Rule("a", {"maen": Range()}),
            "when.maen: there is no such trait; .*did you mean 'mean'",
        ),
        (
            lambda: trait("mean_3", BLOCK, SHARED),
            "the trait 'mean_3' of an image with 2 bands; bands are counted from 1",
        ),
        (
            lambda: trait("index_0_1", BLOCK, SHARED),
            "the trait 'index_0_1' of an image with 2 bands",
        ),
    ],
    ids=["unknown", "no band", "band 0"],
)
def test_refusals(make, message):
    """A trait that is not known, or of a band that is not there, is refused."""
    with pytest.raises(JobError, match=message):
        make()
