"""Tilewise: segment images too large to hold, with the same labels however they are tiled.

>>> import pipeline
>>> otsu = pipeline.Threshold(method="otsu")
>>> result = pipeline.segment("scene.tif", otsu, "out/scene")  # doctest: +SKIP
>>> result.labels, result.objects, result.record  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.version import __version__

_HOMES = {
    "Blobs": "pipeline.segmenters.blobs",
    "Cellpose": "pipeline.segmenters.adapters",
    "Edges": "pipeline.segmenters.edge",
    "Felzenszwalb": "pipeline.segmenters.whole_window",
    "FCN": "pipeline.segmenters.network",
    "GaussianMixture": "pipeline.segmenters.cluster",
    "Job": "pipeline.jobs.job",
    "InstanSeg": "pipeline.segmenters.adapters",
    "KMeans": "pipeline.segmenters.cluster",
    "Layer": "pipeline.jobs.layers",
    "MaskRCNN": "pipeline.segmenters.detector",
    "MeanShift": "pipeline.segmenters.cluster",
    "NormalizedCut": "pipeline.segmenters.whole_window",
    "ONNX": "pipeline.segmenters.network",
    "PT2": "pipeline.segmenters.network",
    "QuasiFlat": "pipeline.segmenters.region_growing",
    "RandomWalker": "pipeline.segmenters.whole_window",
    "RegionGraph": "pipeline.segmenters.merged_superpixels",
    "RegionGrowing": "pipeline.segmenters.region_growing",
    "Result": "pipeline.execution.result",
    "StarDist": "pipeline.segmenters.adapters",
    "Superpixels": "pipeline.segmenters.superpixel",
    "Threshold": "pipeline.segmenters.threshold",
    "TilewiseError": "pipeline.errors",
    "TorchScript": "pipeline.segmenters.network",
    "UNet": "pipeline.segmenters.network",
    "Watershed": "pipeline.segmenters.watershed",
    "cluster": "pipeline.engine",
    "from_yaml": "pipeline.jobs.job",
    "local": "pipeline.engine",
    "on": "pipeline.engine",
    "run": "pipeline.workflow",
    "segment": "pipeline.workflow",
}
__all__ = ["__version__", *_HOMES]  # noqa: PLE0604  names, all of them

if TYPE_CHECKING:
    from pipeline.engine import cluster as cluster
    from pipeline.engine import local as local
    from pipeline.engine import on as on
    from pipeline.errors import TilewiseError as TilewiseError
    from pipeline.execution.result import Result as Result
    from pipeline.jobs.job import Job as Job
    from pipeline.jobs.job import from_yaml as from_yaml
    from pipeline.jobs.layers import Layer as Layer
    from pipeline.segmenters.adapters import Cellpose as Cellpose
    from pipeline.segmenters.adapters import InstanSeg as InstanSeg
    from pipeline.segmenters.adapters import StarDist as StarDist
    from pipeline.segmenters.blobs import Blobs as Blobs
    from pipeline.segmenters.cluster import GaussianMixture as GaussianMixture
    from pipeline.segmenters.cluster import KMeans as KMeans
    from pipeline.segmenters.cluster import MeanShift as MeanShift
    from pipeline.segmenters.detector import MaskRCNN as MaskRCNN
    from pipeline.segmenters.edge import Edges as Edges
    from pipeline.segmenters.merged_superpixels import RegionGraph as RegionGraph
    from pipeline.segmenters.network import FCN as FCN
    from pipeline.segmenters.network import ONNX as ONNX
    from pipeline.segmenters.network import PT2 as PT2
    from pipeline.segmenters.network import TorchScript as TorchScript
    from pipeline.segmenters.network import UNet as UNet
    from pipeline.segmenters.region_growing import QuasiFlat as QuasiFlat
    from pipeline.segmenters.region_growing import RegionGrowing as RegionGrowing
    from pipeline.segmenters.superpixel import Superpixels as Superpixels
    from pipeline.segmenters.threshold import Threshold as Threshold
    from pipeline.segmenters.watershed import Watershed as Watershed
    from pipeline.segmenters.whole_window import Felzenszwalb as Felzenszwalb
    from pipeline.segmenters.whole_window import NormalizedCut as NormalizedCut
    from pipeline.segmenters.whole_window import RandomWalker as RandomWalker
    from pipeline.workflow import run as run
    from pipeline.workflow import segment as segment


def __getattr__(name: str) -> Any:
    """Import a public name from its home when it is first used: importing everything
    takes seconds.
    """
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(
            f"module 'pipeline' has no attribute {name!r}; it has {', '.join(_HOMES)}"
        )
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
