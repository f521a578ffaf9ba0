"""Tilewise: segment images too large to hold, with the same labels however they are tiled.

The functions are those of the command line: `run`, `segment`, `plan`, `info`, `verify`, `evaluate`,
`train`; and `open_result`.

>>> import pipeline
>>> otsu = pipeline.Threshold(method="otsu")
>>> result = pipeline.segment("scene.tif", otsu, "out/scene")  # doctest: +SKIP
>>> result.labels, result.objects, result.certificates  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.version import __version__

_HOMES = {
    "Background": "pipeline.imageops.preprocessing",
    "Blobs": "pipeline.segmenters.blobs",
    "Cellpose": "pipeline.segmenters.adapters",
    "ClusterError": "pipeline.errors",
    "Denoise": "pipeline.imageops.preprocessing",
    "Edges": "pipeline.segmenters.edge",
    "Engine": "pipeline.engine",
    "Evaluation": "pipeline.evaluation.against_truth",
    "Event": "pipeline.execution.result",
    "FCN": "pipeline.segmenters.network",
    "Felzenszwalb": "pipeline.segmenters.whole_window",
    "GaussianMixture": "pipeline.segmenters.cluster",
    "ImageFacts": "pipeline.api.images",
    "Index": "pipeline.imageops.preprocessing",
    "InstanSeg": "pipeline.segmenters.adapters",
    "Interrupted": "pipeline.errors",
    "Job": "pipeline.jobs.job",
    "JobError": "pipeline.errors",
    "KMeans": "pipeline.segmenters.cluster",
    "Layer": "pipeline.jobs.layers",
    "MaskRCNN": "pipeline.segmenters.detector",
    "MeanShift": "pipeline.segmenters.cluster",
    "NormalizedCut": "pipeline.segmenters.whole_window",
    "ONNX": "pipeline.segmenters.network",
    "Output": "pipeline.jobs.job",
    "OutputError": "pipeline.errors",
    "PT2": "pipeline.segmenters.network",
    "PlannedRun": "pipeline.api.runs",
    "QuasiFlat": "pipeline.segmenters.region_growing",
    "RandomWalker": "pipeline.segmenters.whole_window",
    "RegionGraph": "pipeline.segmenters.merged_superpixels",
    "RegionGrowing": "pipeline.segmenters.region_growing",
    "Result": "pipeline.execution.result",
    "ResumeError": "pipeline.errors",
    "Rule": "pipeline.jobs.routing",
    "Scale": "pipeline.imageops.preprocessing",
    "ScratchError": "pipeline.errors",
    "SegmenterError": "pipeline.errors",
    "Smooth": "pipeline.imageops.preprocessing",
    "SourceError": "pipeline.errors",
    "StarDist": "pipeline.segmenters.adapters",
    "Stitch": "pipeline.jobs.job",
    "Stretch": "pipeline.imageops.preprocessing",
    "Superpixels": "pipeline.segmenters.superpixel",
    "Threshold": "pipeline.segmenters.threshold",
    "Tiles": "pipeline.jobs.job",
    "TilesError": "pipeline.errors",
    "TilewiseError": "pipeline.errors",
    "TorchScript": "pipeline.segmenters.network",
    "UNet": "pipeline.segmenters.network",
    "Verification": "pipeline.evaluation.differences",
    "Watershed": "pipeline.segmenters.watershed",
    "cluster": "pipeline.engine",
    "evaluate": "pipeline.api.results",
    "from_yaml": "pipeline.jobs.job",
    "info": "pipeline.api.images",
    "local": "pipeline.engine",
    "on": "pipeline.engine",
    "open_result": "pipeline.execution.result",
    "plan": "pipeline.api.runs",
    "run": "pipeline.api.runs",
    "segment": "pipeline.api.runs",
    "train": "pipeline.api.networks",
    "verify": "pipeline.api.results",
}
_WITH_OPTIONS = ("pipeline.segmenters.", "pipeline.imageops.preprocessing")
__all__ = ["__version__", *_HOMES]  # noqa: PLE0604  names, all of them

if TYPE_CHECKING:
    from pipeline.api.images import ImageFacts as ImageFacts
    from pipeline.api.images import info as info
    from pipeline.api.networks import train as train
    from pipeline.api.results import evaluate as evaluate
    from pipeline.api.results import verify as verify
    from pipeline.api.runs import PlannedRun as PlannedRun
    from pipeline.api.runs import plan as plan
    from pipeline.api.runs import run as run
    from pipeline.api.runs import segment as segment
    from pipeline.engine import Engine as Engine
    from pipeline.engine import cluster as cluster
    from pipeline.engine import local as local
    from pipeline.engine import on as on
    from pipeline.errors import ClusterError as ClusterError
    from pipeline.errors import Interrupted as Interrupted
    from pipeline.errors import JobError as JobError
    from pipeline.errors import OutputError as OutputError
    from pipeline.errors import ResumeError as ResumeError
    from pipeline.errors import ScratchError as ScratchError
    from pipeline.errors import SegmenterError as SegmenterError
    from pipeline.errors import SourceError as SourceError
    from pipeline.errors import TilesError as TilesError
    from pipeline.errors import TilewiseError as TilewiseError
    from pipeline.evaluation.against_truth import Evaluation as Evaluation
    from pipeline.evaluation.differences import Verification as Verification
    from pipeline.execution.result import Event as Event
    from pipeline.execution.result import Result as Result
    from pipeline.execution.result import open_result as open_result
    from pipeline.imageops.preprocessing import Background as Background
    from pipeline.imageops.preprocessing import Denoise as Denoise
    from pipeline.imageops.preprocessing import Index as Index
    from pipeline.imageops.preprocessing import Scale as Scale
    from pipeline.imageops.preprocessing import Smooth as Smooth
    from pipeline.imageops.preprocessing import Stretch as Stretch
    from pipeline.jobs.job import Job as Job
    from pipeline.jobs.job import Output as Output
    from pipeline.jobs.job import Stitch as Stitch
    from pipeline.jobs.job import Tiles as Tiles
    from pipeline.jobs.job import from_yaml as from_yaml
    from pipeline.jobs.layers import Layer as Layer
    from pipeline.jobs.routing import Rule as Rule
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


def __getattr__(name: str) -> Any:
    """Import a public name from its home when it is first used: importing everything
    takes seconds.
    """
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(
            f"module 'pipeline' has no attribute {name!r}; it has {', '.join(_HOMES)}"
        )
    found = getattr(import_module(_HOMES[name]), name)
    if _HOMES[name].startswith(_WITH_OPTIONS):
        import_module("pipeline.config.option_texts").with_options(found)
    return found


def __dir__() -> list[str]:
    return __all__
