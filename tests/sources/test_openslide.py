"""Whole slides as OpenSlide reads them: pixels of every level, and the size of a pixel there."""

from __future__ import annotations

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.image.grid import Box
from pipeline.sources import open_source

pytest.importorskip("imagecodecs", reason="needs imagecodecs: the extra `slides`")


def region(slide: openslide.OpenSlide, level: int, box: Box) -> np.ndarray:
    """A box of a level as OpenSlide reads it, whose corners count in pixels of full resolution:
    (band, row, column).
    """
    scale = slide.level_downsamples[level]
    corner = (round(box.start[1] * scale), round(box.start[0] * scale))
    read = slide.read_region(corner, level, box.shape[::-1]).convert("RGB")
    return np.moveaxis(np.asarray(read), -1, 0)


@given(data=st.data())
def test_a_real_slide(shared, data):
    """Any box of a slide by Aperio (JPEG in SVS) has OpenSlide's pixels, and its pixels the size
    that OpenSlide says.
    """
    path = shared / "wsi/cmu-1-small-region.svs"
    slide, source = openslide.OpenSlide(path), open_source(path)
    assert source.frame.shape == slide.dimensions[::-1]
    assert (source.frame.unit, source.frame.pixel_size) == (
        "micrometer",
        (float(slide.properties["openslide.mpp-x"]),) * 2,
    )
    start = data.draw(st.tuples(*(st.integers(0, n - 1) for n in source.frame.shape)))
    box = Box(
        start,
        tuple(
            min(n, a + data.draw(st.integers(1, 300)))
            for a, n in zip(start, source.frame.shape, strict=True)
        ),
    )
    np.testing.assert_array_equal(source.read(box), region(slide, 0, box))


def test_every_level_of_a_pyramid(tmp_path):
    """Each level of a tiled pyramid has OpenSlide's pixels; a pixel of the second is twice as
    large.
    """
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(
        rng.integers(0, 255, (512, 768, 3)).astype(float), (2, 2, 0)
    ).astype(np.uint8)
    path = tmp_path / "slide.svs"
    with tifffile.TiffWriter(path) as file:
        for step in (1, 8, 2, 4):  # the second is the thumbnail, in strips
            how = {"photometric": "rgb", "compression": "jpeg", "metadata": None} | (
                {} if step == 8 else {"tile": (64, 64)}
            )
            file.write(
                image[::step, ::step],
                description="Aperio Image Library v12\n|AppMag = 20|MPP = 0.25",
                **how,
            )
    slide = openslide.OpenSlide(path)
    assert slide.level_count == 3
    for level, (columns, rows) in enumerate(slide.level_dimensions):
        source = open_source(path, level=level)
        assert source.frame.shape == (rows, columns)
        np.testing.assert_allclose(source.frame.pixel_size, 0.25 * slide.level_downsamples[level])
        box = Box((32, 16), (rows - 8, columns - 8))
        np.testing.assert_array_equal(source.read(box), region(slide, level, box))
