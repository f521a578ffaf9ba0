"""Tissue on slides as a trait of tiles: found once on the whole slide, against scikit-image, and on
a real slide.
"""

from __future__ import annotations

import numpy as np
import pytest
from skimage import color, filters

import pipeline
from pipeline.errors import JobError
from pipeline.execution.planning import plan
from pipeline.segmenters.threshold import Threshold
from pipeline.stages.tissue import LOW, SIGMA, tissue


def job(source, least: float, size: int, out) -> pipeline.Job:
    """Skip tiles with little tissue."""
    route = [{"use": "skip", "when": {"tissue": {"max": least}}}, {"use": "dark"}]
    segmenters = {"dark": Threshold(value=150, dark=True)}
    return pipeline.Job(
        source=source,
        tiles={"size": size},
        segmenters=segmenters,
        route=route,
        output={"path": str(out)},
    )


def slide(side: int = 256) -> np.ndarray:
    """A white slide with noise, pink in its left half."""
    rng = np.random.default_rng(0)
    image = np.full((3, side, side), 240.0)
    image[:, :, : side // 2] = np.array([200.0, 100.0, 150.0])[:, None, None]
    return (image + rng.normal(0, 6, (1, side, side))).clip(0, 255).astype(np.uint8)


def test_tissue_is_where_scikit_image_finds_it(shared, tmp_path):
    """On a real slide the mask is that of scikit-image: Otsu's threshold of the smoothed
    saturation.
    """
    path = shared / "wsi/cmu-1-small-region.svs"
    run = plan(job(str(path), 0.05, 256, tmp_path / "out"), workers=1, memory=1 << 33).run
    found = tissue(run)
    step = -(-max(run.grid.shape) // LOW)
    assert found.step == step == 2
    saturation = color.rgb2hsv(np.moveaxis(run.source.glance(run.grid.whole, step), 0, -1))[..., 1]
    smooth = filters.gaussian(saturation, SIGMA, mode="nearest", truncate=4)
    known = smooth > filters.threshold_otsu(smooth)
    assert (found.mask == known).mean() > 0.995
    assert 0.3 < found.mask.mean() < 0.4


def test_bare_glass_is_skipped(shared, tmp_path):
    """On a real slide tiles without tissue are skipped; those that are nothing else are not, though
    each alone has two shades too.
    """
    path = shared / "wsi/cmu-1-small-region.svs"
    result = pipeline.run(job(str(path), 0.02, 256, tmp_path / "out"), pipeline.local())
    routes = result.record["routes"]
    assert 40 < routes["skip"]["tiles"] < 60
    assert routes["dark"]["tiles"] == 108 - routes["skip"]["tiles"]
    everywhere = pipeline.segment(
        str(path),
        Threshold(value=150, dark=True),
        tmp_path / "all",
        tile=256,
        engine=pipeline.local(),
    )
    assert (result.labels.values > 0).sum() > 0.999 * (everywhere.labels.values > 0).sum()


@pytest.mark.parametrize("size", [32, 50, 64, 200])
def test_any_tiling_judges_alike(tmp_path, size):
    """Whatever the tiles, one goes where the share of the slide's one mask in it says."""
    out = tmp_path / "out"
    run = plan(job(slide(), 0.4, size, out), workers=1, memory=1 << 33).run
    mask = tissue(run).mask
    known = np.zeros((256, 256), bool)
    known[:, :128] = True
    assert (mask != known)[:, 4:-4].mean() < 0.03
    result = pipeline.run(job(slide(), 0.4, size, out), pipeline.local())
    shares = np.array([mask[run.grid.core(tile).slices].mean() for tile in range(len(run.grid))])
    assert result.record["routes"]["skip"]["tiles"] == (shares <= 0.4).sum()
    assert (shares > 0.4).sum() > 0


def test_a_slide_without_tissue_or_pixels(tmp_path):
    """What is not measured is no tissue, and takes no part in the threshold."""
    image = slide().astype(np.float32)
    image[:, 100:] = np.nan
    run = plan(job(image, 0.4, 64, tmp_path / "out"), workers=1, memory=1 << 33).run
    mask = tissue(run).mask
    assert not mask[100:].any()
    assert mask[:96, :120].mean() > 0.95
    run = plan(
        job(np.full((3, 40, 40), np.nan, np.float32), 0.4, 64, tmp_path / "out"),
        workers=1,
        memory=1 << 33,
    ).run
    assert not tissue(run).mask.any()


@pytest.mark.parametrize(
    ("source", "least", "message"),
    [
        (
            slide()[:1],
            0.5,
            r"route\[0\].when.tissue: the image has 1 band; allowed: red, green and blue first",
        ),
        (
            slide(),
            5,
            r"when.tissue: 5.*; allowed: from 0 to 1, the share of pixels that are tissue",
        ),
    ],
)
def test_refusals(tmp_path, source, least, message):
    """An image without colours, and a share that is none, are refused before any work."""
    with pytest.raises(JobError, match=message):
        plan(job(source, least, 64, tmp_path / "out"), workers=1, memory=1 << 33)
