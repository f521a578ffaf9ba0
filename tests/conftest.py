"""Shared by all tests: the folder of real images, a cluster, and the settings of hypothesis."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import pipeline
from pipeline.engine import Engine

# The same examples at every run. TILEWISE_EXPLORE=N draws new ones, N times as many, and prints how
# a failure is had again.
EXPLORE = int(os.environ.get("TILEWISE_EXPLORE") or 0)
settings.register_profile("usual", deadline=None, derandomize=True)
settings.register_profile("exploring", deadline=None, derandomize=False, print_blob=True)
settings.load_profile("exploring" if EXPLORE else "usual")


LONGEST = (
    *(
        "test_detectors",
        "test_death",
        "test_training",
        "test_late",
        "test_workflows",
        "test_real",
        "test_verify",
    ),
    *("test_locations", "test_panoptic", "test_exactness"),
)
"""The slowest files, which run first, so that one of two processes is not left with one of them at
the end.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest files first. If new examples are drawn, draw more of them, also where a test
    sets its own number.
    """
    items.sort(
        key=lambda item: (
            LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)
        )
    )
    functions = {
        item.obj
        for item in items
        if EXPLORE > 1 and getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
    }
    for function in functions:
        usual = function._hypothesis_internal_use_settings
        function._hypothesis_internal_use_settings = settings(
            usual, max_examples=EXPLORE * usual.max_examples
        )


def pytest_report_header(config: pytest.Config) -> str | None:
    """How to draw the same examples again, if they are not the usual ones."""
    if not EXPLORE:
        return None
    seed = config.getoption("--hypothesis-seed") or "SEED"
    return (
        f"new examples, {EXPLORE} times as many; the same again: TILEWISE_EXPLORE={EXPLORE} "
        f"pytest --hypothesis-seed={seed} TEST"
    )


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images, which are not part of the project."""
    folder = Path(
        os.environ.get("TILEWISE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
    )
    if not folder.is_dir():
        pytest.skip(f"needs real images in {folder} (or in the folder that TILEWISE_DATA names)")
    return folder


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Two worker processes for all tests that do not kill them, because starting them takes
    seconds.
    """
    with pipeline.cluster(2) as started:
        yield started
