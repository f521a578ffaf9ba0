"""What tests share: the folder of real images, and how hypothesis runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples at every run; TILEWISE_EXPLORE=1 looks for new ones.
settings.register_profile("here", deadline=None, derandomize=not os.environ.get("TILEWISE_EXPLORE"))
settings.load_profile("here")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images, which are not part of the project."""
    folder = Path(os.environ.get("TILEWISE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs real images in {folder} (or in the folder that TILEWISE_DATA names)")
    return folder
