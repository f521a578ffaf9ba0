"""The example jobs that come with the package: ``workflows/`` of a checkout or of a wheel."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def examples() -> dict[str, Path]:
    """Return the files of the example jobs, by name: those to run, and those to train networks."""
    installed = PACKAGE / "workflows"
    folder = installed if installed.is_dir() else PACKAGE.parent / "workflows"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def summary(path: Path) -> str:
    """Return the first line of an example's comment, which says what it finds."""
    with path.open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip()
