"""Statistics of the whole image, in rounds, from file to file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import zarr
from scipy import ndimage

import pipeline
from pipeline.errors import SegmenterError
from pipeline.imageops.preprocessing import Smooth, Stretch
from pipeline.segmenters import fitted_to


@pytest.fixture
def image():
    """Blobs on a ground whose left half is dark, with pixels that were not measured."""
    rng = np.random.default_rng(3)
    blobs = ndimage.gaussian_filter(rng.random((150, 190)), 3)
    values = 40 + 4000 * (blobs - blobs.min()) * np.where(np.arange(190) < 95, 0.3, 1.0)
    values[20:40, 100:120] = np.nan
    return values


@dataclass(frozen=True)
class NearestOfTwo:
    """Pixels above the middle of the two ends of a sample, which is asked for once, and of a
    second, of what the first left.
    """

    sample: ClassVar[int] = 500
    identity: ClassVar[str] = "connected"
    reach: ClassVar[int] = 0
    cuts: tuple[float, ...] = ()

    @property
    def unfitted(self):
        return len(self.cuts) < 2

    def features(self, block):
        return block if not self.cuts else np.where(block > self.cuts[0], block, np.nan)

    def fit(self, rows):
        assert rows.shape[1] == 1
        assert 0 < len(rows) <= self.sample
        return replace(self, cuts=(*self.cuts, float(rows.mean())))

    def __call__(self, block):
        return (block[0] > self.cuts[1]).astype(np.int32)


def labels_of(image, folder, **parts):
    job = pipeline.Job(source=image, output={"path": folder}, **parts)
    with pipeline.local() as engine:
        pipeline.run(job, engine)
    return zarr.open_array(f"{folder}/labels.zarr/0")[:]


@pytest.mark.parametrize("tile", [40, 64, 500])
def test_steps_are_fitted_before_segmenters(image, tmp_path, tile):
    """A stretch is fitted to the smoothed image, and the threshold to the stretched one; as
    untiled, whatever the tiles.
    """
    steps = [{"kind": "smooth", "sigma": 1.0}, {"kind": "stretch", "low": 5, "high": 95}]
    found = labels_of(
        image,
        tmp_path / "out",
        steps=steps,
        segmenters={"blobs": {"kind": "threshold", "method": "otsu"}},
        tiles={"size": tile},
    )
    valid = np.isfinite(image)
    block = Smooth(sigma=1.0)(image[None], valid)
    block = fitted_to(Stretch(low=5, high=95), block, valid)(block)
    np.testing.assert_array_equal(found, pipeline.Threshold(method="otsu")(block, valid))


@pytest.mark.parametrize("tile", [40, 500])
def test_a_sample_in_two_rounds(image, tmp_path, tile):
    """A segmenter that asks for samples twice is fitted as untiled, whatever the tiles; a second
    run finds it done.
    """
    found = labels_of(
        image, tmp_path / "out", segmenters={"two": NearestOfTwo()}, tiles={"size": tile}
    )
    valid = np.isfinite(image)
    expected = fitted_to(NearestOfTwo(), image[None], valid)(np.nan_to_num(image[None])) * valid
    np.testing.assert_array_equal(found, ndimage.label(expected)[0])
    assert len(np.unique(found)) > 5


def test_never_fitted(image, tmp_path):
    """A segmenter that is never content ends the run with an error that names it."""

    class Greedy:
        unfitted = True
        identity = "connected"

        def feature(self, block):
            return block[0]

        def fit(self, histogram):
            return self

        def __call__(self, block):
            return block[0] > 0

    with pytest.raises(SegmenterError, match="greedy: still unfitted after 100 rounds"):
        labels_of(image[:20, :20], tmp_path / "out", segmenters={"greedy": Greedy()})
