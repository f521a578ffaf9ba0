"""Cellpose, StarDist and InstanSeg through stand-ins of their interface: labels of windows, joined
by evidence, never called proved.

The packages themselves want models from a hub; what is tested is that they are called as their
documentation says, once loaded per process, with values that do not depend on the window.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

import pipeline
from pipeline.errors import JobError
from pipeline.segmenters import adapters

LOADED: list[str] = []


def drawn(image: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.int32]]:
    return ndimage.label(image > 0.5)[0]


class CellposeModel:
    def __init__(self, *, gpu: bool, pretrained_model: str) -> None:
        LOADED.append(pretrained_model)

    def eval(
        self,
        x: Any,
        *,
        channel_axis: int,
        normalize: bool,
        diameter: Any,
        flow_threshold: float,
        cellprob_threshold: float,
    ) -> Any:
        assert (channel_axis, normalize, x.shape[-1]) == (-1, False, 3)
        return drawn(x[..., 0]), None, None


class StarDist2D:
    @classmethod
    def from_pretrained(cls, name: str) -> StarDist2D:
        LOADED.append(name)
        return cls()

    def predict_instances(self, img: Any, *, axes: str, prob_thresh: Any, nms_thresh: Any) -> Any:
        assert len(axes) == img.ndim
        return drawn(img if axes == "YX" else img[..., 0]), {}


class InstanSeg:
    def __init__(self, model_type: str, *, device: Any, verbosity: int) -> None:
        LOADED.append(model_type)

    def eval_small_image(
        self,
        image: Any,
        *,
        pixel_size: float,
        normalise: bool,
        return_image_tensor: bool,
        target: str,
    ) -> Any:
        assert (pixel_size, normalise, return_image_tensor) == (0.5, False, False)
        return torch.from_numpy(drawn(image[0].numpy())[None, None])


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, what in (
        ("cellpose.models", CellposeModel),
        ("stardist.models", StarDist2D),
        ("instanseg", InstanSeg),
    ):
        module = ModuleType(name)
        setattr(module, what.__name__, what)
        monkeypatch.setitem(sys.modules, name, module)
        if "." in name:
            monkeypatch.setitem(sys.modules, name.split(".")[0], ModuleType(name.split(".")[0]))
    adapters._resident.cache_clear()
    LOADED.clear()
    yield
    adapters._resident.cache_clear()


@pytest.mark.parametrize("kind", [pipeline.Cellpose, pipeline.StarDist, pipeline.InstanSeg])
def test_objects_of_windows_become_objects_of_the_image(
    kind: Any, packages: None, tmp_path: Path
) -> None:
    """An image whose halves differ in brightness: objects over seams are one, values are those of
    the whole image, nothing is proved.
    """
    rows, columns = np.mgrid[:160, :200]
    image = 20 + 200 * ((rows % 40 < 20) & (columns % 50 < 25)).astype(np.uint8)
    image[:, 100:] //= 2
    with pipeline.local() as engine:
        many = pipeline.segment(image, kind(), tmp_path / "many", tile=64, engine=engine)
        one = pipeline.segment(image, kind(), tmp_path / "one", tile=256, engine=engine)
    scale = kind().fit([h := _histogram(image)]).scale
    assert scale == ((h.percentile(1), h.percentile(99.8)),)
    expected = ndimage.label((image - scale[0][0]) / (scale[0][1] - scale[0][0]) > 0.5)[0]
    assert np.array_equal(many.labels, expected)
    assert np.array_equal(one.labels, expected)
    assert many.record["certificates"]["proved"] == 0
    assert len(LOADED) == 1


def _histogram(image: np.ndarray[Any, Any]) -> Any:
    from pipeline.imageops.histograms import histogram

    return histogram(image, np.ones(image.shape, bool))


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        (pipeline.Cellpose, "cellpose"),
        (pipeline.StarDist, "stardist"),
        (pipeline.InstanSeg, "instanseg"),
    ],
)
def test_an_absent_package_is_named_with_what_installs_it(
    kind: Any, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the package, the message says how to get it."""
    monkeypatch.setitem(sys.modules, command, None)
    adapters._resident.cache_clear()
    with pytest.raises(
        JobError, match=f"is not installed .*install it with: pip install {command}"
    ):
        kind()(np.zeros((1, 8, 8)))
