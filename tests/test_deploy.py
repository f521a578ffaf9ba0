"""What `deploy/` holds: manifests that Kubernetes and Dask's operator accept, commands that parse,
and scripts that run.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import dask.config
import jsonschema
import kubernetes_validate
import numpy as np
import pytest
import rasterio
import typer
import yaml
import zarr
from dask.utils import parse_bytes
from distributed.cli import dask_scheduler, dask_worker
from packaging.requirements import Requirement
from skimage.data import coins

from pipeline.__main__ import app
from pipeline.engine import own_cluster

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
README = (DEPLOY / "README.md").read_text()
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
MANIFESTS = [
    one
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for one in yaml.safe_load_all(path.read_text())
]
NATIVE = [one for one in MANIFESTS if "dask.org" not in one["apiVersion"]]
CUSTOM = [one for one in MANIFESTS if "dask.org" in one["apiVersion"]]
KUBERNETES = "1.31"


def name_of(manifest):
    return f"{manifest['kind']}-{manifest['metadata']['name']}"


def pods(manifest):
    """The specifications of a manifest's pods, each with the labels that its pods carry."""
    spec = manifest["spec"]
    if "template" in spec:
        yield spec["template"]["metadata"]["labels"], spec["template"]["spec"]
    yield from (
        (spec[role]["metadata"]["labels"], spec[role]["spec"])
        for role in ("scheduler", "worker")
        if role in spec
    )


PODS = [
    pytest.param(labels, pod, id=f"{name_of(one)}-{labels['app.kubernetes.io/component']}")
    for one in MANIFESTS
    for labels, pod in pods(one)
]


@pytest.mark.parametrize("manifest", NATIVE, ids=name_of)
def test_kubernetes_accepts(manifest):
    """Each plain manifest is valid, with no key that Kubernetes does not know."""
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize(("labels", "pod"), PODS)
def test_pods_are_valid_and_modest(labels, pod):
    """Each pod, those within the operator's resources too, is valid, runs as nobody, asks for what
    it takes, and mounts what it has.
    """
    named = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "one", "labels": labels},
        "spec": pod,
    }
    kubernetes_validate.validate(named, KUBERNETES, strict=True)
    assert pod["securityContext"]["runAsNonRoot"]
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }


@pytest.mark.parametrize("manifest", CUSTOM, ids=name_of)
def test_operator_accepts(manifest):
    """Each resource of the operator's is valid by the definition that dask-kubernetes ships, with
    no key that this does not know.
    """
    # not imported: it would bring a client of Kubernetes
    package = importlib.util.find_spec("dask_kubernetes")
    if package is None:
        pytest.skip("needs the package dask-kubernetes: the extra `deploy`")
    charts = (
        Path(package.submodule_search_locations[0])
        / "operator/deployment/helm/dask-kubernetes-operator/crds"
    )
    definition = yaml.safe_load((charts / f"{manifest['kind'].lower()}.yaml").read_text())
    (version,) = (
        each
        for each in definition["spec"]["versions"]
        if manifest["apiVersion"].endswith(f"/{each['name']}")
    )
    jsonschema.validate(
        manifest["spec"], closed(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
    )


def closed(schema):
    """A schema in which an object has the keys that it lists, and no others."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    opened = {key: closed(value) for key, value in schema.items()}
    listed = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    return (
        {**opened, "additionalProperties": False}
        if listed and not schema.get("x-kubernetes-preserve-unknown-fields")
        else opened
    )


def test_services_find_their_schedulers():
    """The scheduler's address in all commands is that of a service, which selects the scheduler's
    pods and names ports that these have.
    """
    (service,) = (one for one in NATIVE if one["kind"] == "Service")
    (cluster,) = (one for one in CUSTOM if one["kind"] == "DaskCluster")
    asked = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "one"},
        "spec": cluster["spec"]["scheduler"]["service"],
    }
    kubernetes_validate.validate(asked, KUBERNETES, strict=True)
    assert service["metadata"]["name"] == f"{cluster['metadata']['name']}-scheduler"
    assert asked["spec"]["selector"] == {
        "dask.org/cluster-name": cluster["metadata"]["name"],
        "dask.org/component": "scheduler",
    }
    schedulers = [
        (labels, pod)
        for one in MANIFESTS
        for labels, pod in pods(one)
        if labels["app.kubernetes.io/component"] == "scheduler"
    ]
    assert service["spec"]["selector"] == schedulers[0][0]
    for _, pod in schedulers:
        ports = {port["name"] for port in pod["containers"][0]["ports"]}
        assert (
            {port["targetPort"] for port in service["spec"]["ports"]}
            == {port["targetPort"] for port in asked["spec"]["ports"]}
            == ports
        )
        assert pod["containers"][0]["readinessProbe"]["httpGet"]["port"] in ports
    addresses = {
        word
        for one in MANIFESTS
        for _, pod in pods(one)
        for word in pod["containers"][0]["args"]
        if "://" in word
    }
    assert addresses == {f"tls://{service['metadata']['name']}:8786"}


def workers():
    """Each worker's command with its limit of memory and whether it has a GPU of its own."""
    for one in MANIFESTS:
        for _, pod in pods(one):
            (container,) = pod["containers"]
            limits = container["resources"]["limits"]
            yield container["args"], limits["memory"].replace("i", "iB"), "nvidia.com/gpu" in limits
    for service in COMPOSE.values():
        yield (
            service["command"],
            service.get("mem_limit", "0").replace("g", "GiB"),
            "deploy" in service,
        )


@pytest.mark.parametrize(
    ("command", "limit", "gpu"), [each for each in workers() if each[0][1] == "worker"]
)
def test_workers_have_one_thread_and_say_what_they_have(command, limit, gpu):
    """A worker has one thread and leaves memory to its nanny; it offers a GPU where it was given
    one, and only there.
    """
    asked = parsed(command)
    assert asked["nthreads"] == 1
    assert parse_bytes(asked["memory_limit"]) <= 0.9 * parse_bytes(limit)
    assert (asked["resources"] == "GPU=1") == gpu


def parsed(words):
    """The parameters of a command line, as the command itself parses it."""
    if words[0] == "dask":
        command = {"worker": dask_worker, "scheduler": dask_scheduler}[words[1]].main
        return command.make_context(words[1], list(words[2:])).params
    group = typer.main.get_command(app)
    assert words[0] == "tilewise"
    context = group.make_context("tilewise", list(words[1:2]), resilient_parsing=True)
    return (
        group.get_command(context, words[1])
        .make_context(words[1], list(words[2:]), parent=context)
        .params
    )


def commands():
    """All command lines of `deploy/` that call Dask or tilewise, also those that a script takes for
    tilewise.
    """
    yield from (service["command"] for service in COMPOSE.values())
    yield from (pod["containers"][0]["args"] for one in MANIFESTS for _, pod in pods(one))
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    lines = [line for language, block in blocks if not language for line in block.splitlines()]
    for name in ("slurm.sbatch", "ssh.sh"):
        lines += [
            line[1:] for line in (DEPLOY / name).read_text().splitlines() if line.startswith("#   ")
        ]
    for line in lines:
        words = [word for word in shlex.split(line, comments=True) if word != "&"]
        if "deploy/slurm.sbatch" in words:
            words = ["tilewise", *words[words.index("deploy/slurm.sbatch") + 1 :]]
        elif "deploy/ssh.sh" in words:
            words = ["tilewise", *words[words.index("deploy/ssh.sh") + 2 :]]
        elif "submit" in words:
            words = words[words.index("submit") + 1 :]
        if words and words[0] in ("dask", "tilewise"):
            yield words


@pytest.mark.parametrize("words", [pytest.param(words, id=" ".join(words)) for words in commands()])
def test_commands_parse(words):
    """Each command line that calls Dask or tilewise is one that they take."""
    assert parsed(words)


def test_there_are_commands_for_every_place():
    """The README says how to submit a workflow to each kind of cluster."""
    shown = [" ".join(words) for words in commands()]
    assert sum(line.startswith("tilewise run") for line in shown) >= 6


def stages():
    """The Dockerfile's stages by name: what each is made from, and its instructions."""
    text = "\n".join(
        line
        for line in (DEPLOY / "Dockerfile").read_text().splitlines()
        if not line.startswith("#")
    )
    text = text.replace("\\\n", " ").replace(
        "${BASE}", re.search(r"^ARG BASE=(\S+)", text, re.MULTILINE)[1]
    )
    pieces = re.split(r"^FROM (\S+) AS (\S+)$", text, flags=re.MULTILINE)[1:]
    return {
        name: (base, [line.split(maxsplit=1) for line in body.splitlines() if line])
        for base, name, body in zip(*[iter(pieces)] * 3, strict=True)
    }


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_images_run_as_nobody_from_a_pinned_base(target):
    """Both targets end with a user by number who is not root, on a base with a full version, and
    copy only what the build made.
    """
    known, user, name = stages(), None, target
    while name in known:
        base, lines = known[name]
        user = user or next((rest for word, rest in reversed(lines) if word == "USER"), None)
        name = base
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", name)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert [rest for word, rest in known[target][1] if word == "COPY"] == [
        f"--from=build-{target} /opt/tilewise /opt/tilewise"
    ]


def test_what_images_copy_reaches_the_build():
    """All that the Dockerfile copies exists, and is let through by its list of what to ignore."""
    passed = {
        line[1:]
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        name
        for _, lines in stages().values()
        for word, rest in lines
        if word == "COPY" and "--from" not in rest
        for name in rest.split()[:-1]
    }
    assert copied == passed
    assert all((ROOT / name).exists() for name in copied)


def test_pins_fit_the_project():
    """Every requirement of tilewise, and of its networks, is pinned to a version that it allows."""
    lines = [
        line
        for line in (DEPLOY / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    pins = dict(line.split("==") for line in lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [
        *project["dependencies"],
        *project["optional-dependencies"]["networks"],
        *project["optional-dependencies"]["clouds"],
        "hatchling",
    ]
    for each in map(Requirement, asked):
        assert pins[each.name] in each.specifier, each


def test_dask_is_set_as_for_workers_of_our_own():
    """`dask.yaml` says what tilewise's own clusters are given."""
    settings = yaml.safe_load((DEPLOY / "dask.yaml").read_text())["distributed"]
    assert settings["worker"]["memory"] == own_cluster.NO_SPILLING
    assert {
        name: str(value) for name, value in settings["nanny"]["pre-spawn-environ"].items()
    } == own_cluster.ALLOCATION
    assert (
        dask.utils.parse_timedelta(settings["scheduler"].pop("worker-ttl")) == own_cluster.SILENCE
    )
    assert settings["scheduler"] == {"allowed-failures": 0, "worker-saturation": 1.0}


@pytest.mark.parametrize("name", ["certificate.sh", "scheduler.sh", "slurm.sbatch", "ssh.sh"])
def test_scripts_are_bash(name):
    """Each script is one that bash can read."""
    subprocess.run(["bash", "-n", DEPLOY / name], check=True)


STANDS_IN = {
    "ssh": 'shift 2\nexec bash -c "$1"',
    "srun": 'while [[ $1 == --* ]]; do shift; done\nexec "$@"',
}
"""How a command that runs another one elsewhere runs it here."""


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@pytest.mark.parametrize(("script", "first"), [("slurm.sbatch", []), ("ssh.sh", ["host"])])
def test_scripts_run_a_workflow(script, first, tmp_path):
    """Each script runs a workflow on a scheduler and workers of its own, over TLS, to the labels of
    this process, and leaves nothing.
    """
    (tmp_path / "deploy").symlink_to(DEPLOY)
    (tmp_path / "bin").mkdir()
    for name, body in STANDS_IN.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    with (
        pytest.warns(rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(
            tmp_path / "coins.tif",
            "w",
            driver="GTiff",
            count=1,
            height=303,
            width=384,
            dtype="uint8",
        ) as file,
    ):
        file.write(coins(), 1)
    job = {
        "source": {"kind": "geotiff", "path": "coins.tif"},
        "tiles": {"size": 128},
        "segmenters": {"bright": {"kind": "threshold", "method": "otsu"}},
        "output": {"path": "there"},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    paths = os.pathsep.join(
        [str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    )
    slurm = {"SLURM_NTASKS": "1", "SLURM_MEM_PER_CPU": "2048", "SLURM_GPUS_PER_TASK": "1"}
    where = {
        **os.environ,
        **slurm,
        "PATH": paths,
        "WORKERS": "1",
        "MEMORY": "1GiB",
        "TILEWISE_INTERFACE": "lo",
        "TMPDIR": str(tmp_path),
    }
    subprocess.run(
        ["bash", DEPLOY / script, *first, "run", "job.yaml"],
        cwd=tmp_path,
        env=where,
        check=True,
        timeout=200,
    )
    subprocess.run(
        ["tilewise", "run", "job.yaml", "--workers", "0", "--set", "output.path=here"],
        cwd=tmp_path,
        env=where,
        check=True,
    )
    there, here = (
        zarr.open_array(tmp_path / name / "labels.zarr" / "0")[:] for name in ("there", "here")
    )
    assert there.max() > 20
    np.testing.assert_array_equal(there, here)
    assert "tls://127.0.0.1" in next(tmp_path.glob("tilewise-*-scheduler.log")).read_text()
    assert not list(tmp_path.glob(".tilewise-*"))
