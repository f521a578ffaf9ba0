"""An image that somebody else made runs no code when it is read."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import SourceError
from pipeline.image.grid import Box
from pipeline.sources import open_source

PICKLE = {"id": "pickle", "protocol": 5}
PLAIN = {
    "zarr_format": 2,
    "shape": [4, 4],
    "chunks": [4, 4],
    "dtype": "|u1",
    "fill_value": 0,
    "order": "C",
    "filters": None,
    "compressor": None,
}
HOSTILE = {
    "filter": {"filters": [PICKLE]},
    "second filter": {"filters": [{"id": "delta", "dtype": "|u1"}, PICKLE]},
    "compressor": {"compressor": PICKLE},
    "objects": {"dtype": "|O", "filters": [PICKLE], "fill_value": None},
    "compressed objects": {
        "dtype": "|O",
        "filters": [PICKLE],
        "compressor": {"id": "zlib", "level": 1},
        "fill_value": None,
    },
}


class Payload:
    """What a pickle may do when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("owned",)


@pytest.mark.parametrize("what", HOSTILE)
def test_a_zarr_of_pickles_is_refused(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An array whose codecs unpickle is refused, whether it says that it holds objects or
    numbers.
    """
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "image.zarr"
    folder.mkdir()
    (folder / ".zarray").write_text(json.dumps(PLAIN | HOSTILE[what]))
    (folder / "0.0").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(SourceError, match=r"image\.zarr"):
        open_source(folder).read(Box((0, 0), (4, 4)))
    assert not Path("owned").exists()
