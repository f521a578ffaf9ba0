"""How time and memory grow, as pictures: over the size of the image, workers, the size of tiles,
the density of objects; over tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from measuring import Figures, medians

TILES = (512, 1024, 2048, 4096)
SIGMAS = (32.0, 16.0, 8.0, 4.0, 2.0)
"""Of the noise that blobs are made of, in pixels: from few to many."""
Runs = Callable[[Path, int, dict[str, int]], Figures]


def curves(
    sides: Sequence[int], runs: int, folder: Path, make: Callable[..., int], run: Runs
) -> dict[str, list[tuple[float, Figures]]]:
    """By what is varied: its values, with what a run takes."""

    def repeated(path: Path, threshold: int, **options: int) -> Figures:
        return medians([run(path, threshold, options) for _ in range(runs)])

    found: dict[str, list[tuple[float, Figures]]] = {
        "image": [],
        "workers": [],
        "tile": [],
        "objects": [],
    }
    for side in sides:
        path = folder / f"growth_{side}.zarr"
        threshold = make(path, side)
        found["image"].append((side, per_megapixel(repeated(path, threshold), side)))
    middle = sorted(sides)[len(sides) // 2]
    path, threshold = folder / f"growth_{middle}.zarr", make(folder / "again.zarr", middle)
    for workers in (1, 2):
        found["workers"].append(
            (workers, per_megapixel(repeated(path, threshold, workers=workers), middle))
        )
    for tile in (tile for tile in TILES if tile <= middle):
        found["tile"].append((tile, per_megapixel(repeated(path, threshold, tile=tile), middle)))
    for sigma in SIGMAS:
        path = folder / f"growth_{sigma}.zarr"
        threshold = make(path, middle, sigma)
        figures = repeated(path, threshold)
        found["objects"].append(
            (figures["objects"] / (middle**2 / 1e6), per_megapixel(figures, middle))
        )
    return found


def per_megapixel(figures: Figures, side: int) -> Figures:
    """Milliseconds for a megapixel, beside the MB."""
    return {**figures, "ms": 1000 * figures["again"] / (side**2 / 1e6)}


AXES: Mapping[str, str] = {
    "image": "pixels along each side of the image",
    "workers": "worker processes",
    "tile": "pixels along each side of a tile",
    "objects": "objects in a megapixel",
}


def table(found: Mapping[str, list[tuple[float, Figures]]]) -> None:
    """Print the curves."""
    for name, curve in found.items():
        print(f"\n| {AXES[name]} | ms for a megapixel, again | s, first | MB |\n|---|---|---|---|")
        for at, figures in curve:
            print(
                f"| {at:.0f} | {figures['ms']:.1f} | {figures['seconds']:.1f} | "
                f"{figures['mb']:.0f} |",
                flush=True,
            )


def draw(found: Mapping[str, list[tuple[float, Figures]]], folder: Path) -> None:
    """A picture for each curve, time and memory from zero."""
    for name, curve in found.items():
        x = [at for at, _ in curve]
        _picture(
            folder / f"{name}.png",
            AXES[name],
            x,
            {key: [f[key] for _, f in curve] for key in ("ms", "mb")},
            _NAMES,
        )


def draw_tiles(figures: Sequence[Figures], folder: Path) -> None:
    """What the asking process spends, over the number of tiles."""
    x = [each["tiles"] for each in figures]
    _picture(
        folder / "tiles.png",
        "tiles",
        x,
        {key: [f[key] for f in figures] for key in ("driver_ms", "driver_mb")},
        _NAMES,
    )


_NAMES = {
    "ms": "ms for a megapixel",
    "mb": "MB, sum of all peaks",
    "driver_ms": "ms of the asking process for a tile",
    "driver_mb": "MB of the asking process",
}


def _picture(
    path: Path,
    axis: str,
    x: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    names: Mapping[str, str],
) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(curves), figsize=(9, 3.2), layout="constrained")
    panel: Any
    for panel, (name, y) in zip(panels, curves.items(), strict=True):
        panel.plot(x, y, "o-")
        panel.set(xlabel=axis, ylabel=names[name], ylim=(0, 1.1 * max(y)))
        if min(x) > 0 and max(x) / min(x) > 2:
            panel.set_xscale("log", base=10 if max(x) / min(x) >= 100 else 2)
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
