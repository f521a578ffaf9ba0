"""A network that was trained by a card, against a classical job, on what was held out.

usage: python tests/benchmarks/held_out.py CARD BUNDLE JOB [--set train.folder=DATA] [--picture
compared.png]

Both segment the whole image, on two workers; what they draw on the part that the network was not
trained on is compared with the truth that the card names: of objects F1 at an intersection over
union of 0.5, where boxes stand for the ellipses in them; of classes the IoU of each.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import pipeline
from pipeline.evaluation import metrics
from pipeline.evaluation.metrics import Contingency
from pipeline.image.grid import Box
from pipeline.sinks.picture import outlined, to_png
from pipeline.training import recipe, samples


def drawn(job: Any, folder: Path, engine: Any, what: str, part: Box) -> Any:
    """The labels, or classes, of a part of an image."""
    found = pipeline.run(job, engine)
    values = found.labels if what == "objects" else found.classes
    return np.asarray(values.data[part.slices].compute()).astype(np.int64)


def measures(labels: Any, truth: Any, what: str) -> dict[str, Any]:
    """F1 and the like of objects, the IoU of each class."""
    count = Contingency.of(labels, truth, truth >= 0)
    if what == "objects":
        found = metrics.objects(metrics.overlaps(count))
        return {
            name: round(found[name], 3)
            for name in ("f1", "precision", "recall", "ap", "objects", "truth")
        }
    found = metrics.semantic(count)
    return {
        "accuracy": round(found["accuracy"], 3),
        "iou": {k: round(one["iou"], 3) for k, one in found["classes"].items()},
    }


def main() -> None:
    """Print what both reach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name in ("card", "bundle", "job"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    changes = {
        key: yaml.safe_load(value) for key, _, value in (one.partition("=") for one in given.set)
    }
    card = recipe.from_yaml(given.card, changes)
    what = "classes" if card.card.kind == "fcn" else "objects"
    (pair,) = samples.gathered(card)[1]
    part = pair.part or Box.whole(pair.shape)
    truth, path = pair.read(Box.whole(pair.shape))[1], next(iter(card.pairs()))[0]
    with tempfile.TemporaryDirectory() as place, pipeline.cluster(2) as engine:
        folder = Path(place)
        where = {"source.path": str(path), "output.path": str(folder / "job")}
        segmenter = {
            "kind": card.card.kind,
            "weights": str(given.bundle),
            "bands": list(card.train.bands or []),
        }
        network = pipeline.Job(
            source=str(path),
            segmenters={"network": segmenter},
            output={"path": str(folder / "network")},
        )
        rival = drawn(pipeline.from_yaml(given.job, where), folder, engine, what, part)
        ours = drawn(network, folder, engine, what, part)
    print(f"held out: {pair.name}")
    for name, labels in ((given.job.stem, rival), (given.bundle.stem, ours)):
        print(f"{name}: {measures(labels, truth, what)}")
    if given.picture:
        block = pair.image.read(part)[:3].astype(float)
        low, high = np.percentile(block, (1, 99))
        seen = (
            (np.clip((block - low) / (high - low), 0, 1) * 200).astype(np.uint8).transpose(1, 2, 0)
        )
        faces = [
            outlined(np.ascontiguousarray(seen), np.maximum(each, 0))
            for each in (truth, rival, ours)
        ]
        axis = 0 if part.shape[1] > part.shape[0] else 1
        given.picture.write_bytes(to_png(np.concatenate(faces, axis=axis)))


if __name__ == "__main__":
    main()
