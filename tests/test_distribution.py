"""What `pip install` brings: the wheel and the source distribution, in an environment of their
own.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "workflows" / "nuclei_fluorescence.safetensors"

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]


def run(*command: object, cwd: Path, ok: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel and the source distribution; the wheel is built from the latter."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, ROOT, cwd=out)
    return out


@pytest.fixture(scope="module")
def clean(built, tmp_path_factory) -> Path:
    """The programs of an environment with the wheel alone, far from the checkout."""
    folder = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", folder / "env", cwd=folder)
    (wheel,) = built.glob("*.whl")
    run(folder / "env/bin/python", "-m", "pip", "install", "--quiet", wheel, cwd=folder)
    return folder / "env/bin"


def test_the_registry_would_take_them(built):
    """`twine check` finds no fault in the metadata of either."""
    run(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir(), cwd=built)


def test_what_is_in_them(built):
    """Both hold every module and workflow under version control; the source holds the tests too."""
    tracked = run("git", "ls-files", "pipeline", "workflows", "tests", cwd=ROOT).stdout.split()
    (wheel,) = built.glob("*.whl")
    (source,) = built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as file:
        held = set(file.namelist())
    wanted = {name.replace("workflows/", "pipeline/workflows/", 1) for name in tracked}
    assert {name for name in wanted if name.startswith("pipeline/")} <= held
    assert not [name for name in held if name.startswith("tests/")]
    with tarfile.open(source) as file:
        held = {name.split("/", 1)[1] for name in file.getnames() if "/" in name}
    assert set(tracked) <= held


def test_workflows_are_found(clean, tmp_path):
    """`tilewise workflows` names the files that the wheel brought, and one of them is a job."""
    told = run(clean / "tilewise", "workflows", cwd=tmp_path).stdout.split()
    found = {Path(word).stem: Path(word) for word in told if word.endswith(".yaml")}
    assert set(found) == {path.stem for path in (ROOT / "workflows").glob("*.yaml")}
    assert all(path.is_relative_to(clean.parent) for path in found.values())
    done = run(clean / "tilewise", "plan", found["water_ndwi"], cwd=tmp_path, ok=False)
    assert done.returncode == 2
    assert "there is no image at" in " ".join(done.stderr.split())


def test_a_threshold_runs(clean, tmp_path):
    """The wheel alone, without extras, segments an image as the checkout does."""
    image = np.zeros((60, 80), np.uint8)
    image[5:20, 5:30] = 200
    image[30:50, 40:70] = 180
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", width=80, height=60, count=1, dtype="uint8"
    ) as file:
        file.write(image, 1)
    segment = ("segment", "a.tif", "out", "--with", "threshold")
    assert "2 objects" in run(clean / "tilewise", *segment, cwd=tmp_path).stdout
    code = (
        "import pipeline; result = pipeline.Result('out'); "
        "print(result.labels.data.max().compute(), len(result.objects))"
    )
    assert run(clean / "python", "-c", code, cwd=tmp_path).stdout.split() == ["2", "2"]


@pytest.mark.parametrize(
    ("options", "extra"),
    [
        (("--with", "kmeans"), "clustering"),
        (("--with", "edges", "--option", "form=lines"), "vectors"),
        (("--with", "unet", "--option", f"weights={BUNDLE}"), "networks"),
    ],
)
def test_what_needs_an_extra_says_so(clean, tmp_path, options, extra):
    """A method whose library is not installed is refused before any work, with what to install."""
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", width=80, height=60, count=1, dtype="uint8"
    ) as file:
        file.write(np.eye(60, 80, dtype=np.uint8), 1)
    done = run(clean / "tilewise", "segment", "a.tif", "out", *options, cwd=tmp_path, ok=False)
    assert done.returncode == 2
    assert f"pip install 'tilewise[{extra}]'" in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()
