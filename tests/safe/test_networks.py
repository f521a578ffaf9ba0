"""A network that somebody else made runs no code when it is read, whatever part of its file is
hostile.
"""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

import pipeline
from pipeline.errors import JobError
from pipeline.networks import architectures, archives
from pipeline.networks.card import Bundle, Card
from tests.small_networks import facts

Members = dict[str, bytes]
CALL = "__import__('os').mkdir('owned')"
DYNAMIC: Any = torch.export.Dim.DYNAMIC


class Payload:
    """What a pickle may do when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("owned",)


class Small(torch.nn.Module):
    """A network whose program has weights, constants, sizes and guards."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = torch.nn.Conv2d(3, 2, 3, padding=1)
        self.register_buffer("shift", torch.ones(1), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        small = torch.nn.functional.max_pool2d(self.taken(image), 2)
        return (
            torch.nn.functional.interpolate(small, size=image.shape[-2:], mode="nearest")
            + self.shift
        )


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return Small().eval()


@pytest.fixture(scope="module")
def program(network: torch.nn.Module) -> torch.export.ExportedProgram:
    return torch.export.export(
        network,
        (torch.zeros(2, 3, 16, 24),),
        dynamic_shapes=({0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC},),
    )


@pytest.fixture(scope="module")
def genuine(program: torch.export.ExportedProgram) -> Members:
    """The members of an archive as PyTorch saves it, without their folder."""
    file = io.BytesIO()
    torch.export.save(program, file)
    with zipfile.ZipFile(file) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def written(
    path: Path, members: Members, root: str = "net/", packing: int = zipfile.ZIP_STORED
) -> Path:
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, data in members.items():
            archive.writestr(root + name, data)
    return path


def bundle(path: Path, kind: str = "pt2") -> Bundle:
    return Bundle(Card(**facts(kind)), path)


def saved(what: Any) -> bytes:
    file = io.BytesIO()
    torch.save(what, file)
    return file.getvalue()


def changed(members: Members, name: str, change: Callable[[Any], Any]) -> Members:
    """The members with something else in one that is JSON."""
    found = json.loads(members[name])
    change(found)
    return {**members, name: json.dumps(found).encode()}


def graph(found: Any) -> Any:
    return found["graph_module"]["graph"]


def put(found: Any, key: str, value: Any) -> None:
    """Put a value in the place of the first that has this key, wherever it stands."""
    ways = [found]
    while ways:
        at = ways.pop(0)
        if isinstance(at, dict) and key in at:
            at[key] = value
            return
        ways += list(at.values()) if isinstance(at, dict) else at if isinstance(at, list) else []
    raise AssertionError(key)


def first_entry(found: Any) -> Any:
    return next(iter(found["config"].values()))


MODEL, WEIGHTS, CONSTANTS = (
    "models/model.json",
    "data/weights/model_weights_config.json",
    "data/constants/model_constants_config.json",
)
HOSTILE: dict[str, Callable[[Members], Members]] = {
    "sample inputs": lambda m: {**m, "data/sample_inputs/model.pt": saved(Payload())},
    "bare pickle of sample inputs": lambda m: {
        **m,
        "data/sample_inputs/model.pt": pickle.dumps(Payload()),
    },
    "old pickle of sample inputs": lambda m: {
        **m,
        "data/sample_inputs/model.pt": pickle.dumps(Payload(), protocol=0),
    },
    "older weights": lambda m: {**m, "data/weights/model.pt": saved(Payload())},
    "older constants": lambda m: {**m, "data/constants/model.pt": saved(Payload())},
    "pickled weight": lambda m: changed(
        {**m, "data/weights/weight_0": saved(Payload())},
        WEIGHTS,
        lambda found: first_entry(found).update(use_pickle=True),
    ),
    "pickled constant": lambda m: changed(
        {**m, "data/constants/tensor_0": saved(Payload())},
        CONSTANTS,
        lambda found: first_entry(found).update(use_pickle=True),
    ),
    "opaque object": lambda m: changed(
        {**m, "data/constants/opaque_obj_0": pickle.dumps(Payload())},
        CONSTANTS,
        lambda found: first_entry(found).update(path_name="opaque_obj_0", use_pickle=True),
    ),
    "custom object": lambda m: changed(
        {**m, "data/constants/custom_obj_0": saved(Payload())},
        CONSTANTS,
        lambda found: first_entry(found).update(path_name="custom_obj_0", use_pickle=True),
    ),
    "another model's sample inputs": lambda m: {
        **m,
        "models/b.json": m[MODEL],
        "data/sample_inputs/b.pt": saved(Payload()),
    },
    "library": lambda m: {**m, "data/aotinductor/model/model.so": b"\x7fELF"},
    "pickle beside the text": lambda m: {**m, "extra/notes.pkl": saved(Payload())},
    "bare pickle beside the text": lambda m: {**m, "extra/notes.txt": pickle.dumps(Payload())},
    "unknown member": lambda m: {**m, "data/other/model.pt": saved(Payload())},
    "weight that nobody asks for": lambda m: {**m, "data/weights/weight_99": saved(Payload())},
    "member out of the folder": lambda m: {
        **m,
        "../../net/data/weights/weight_99": saved(Payload()),
    },
    "expression": lambda m: changed(m, MODEL, lambda found: put(found, "expr_str", CALL)),
    "expression in a text": lambda m: changed(
        m, MODEL, lambda found: put(found, "expr_str", f'Integer("{CALL}")')
    ),
    "guard": lambda m: changed(
        m, MODEL, lambda found: found.update(guards_code=[f"{CALL} or 1 > 0"])
    ),
    "guard that ends its line": lambda m: changed(
        m, MODEL, lambda found: found.update(guards_code=['(1, "" #\n) == 1'])
    ),
    "guard with a text": lambda m: changed(
        m, MODEL, lambda found: found.update(guards_code=["L['\" + os.getcwd() + \"'] == 1"])
    ),
    "operator": lambda m: changed(
        m, MODEL, lambda found: graph(found)["nodes"][-1].update(target="torch.os.mkdir")
    ),
    "operator that writes": lambda m: changed(
        m,
        MODEL,
        lambda found: graph(found)["nodes"][-1].update(target="torch.ops.aten.save.default"),
    ),
    "operator that maps a file": lambda m: changed(
        m,
        MODEL,
        lambda found: graph(found)["nodes"][-1].update(target="torch.ops.aten.from_file.default"),
    ),
    "operator of an extension": lambda m: changed(
        m, MODEL, lambda found: graph(found)["nodes"][-1].update(target="#x:y")
    ),
    "argument that is an operator": lambda m: changed(
        m,
        MODEL,
        lambda found: graph(found)["nodes"][-1]["inputs"][0].update(
            arg={"as_operator": "torch.os.mkdir"}
        ),
    ),
    "name of an argument": lambda m: changed(
        m, MODEL, lambda found: put(graph(found)["inputs"], "name", f"x, y={CALL}")
    ),
    "kind of container": lambda m: changed(
        m,
        MODEL,
        lambda found: put(
            found,
            "out_spec",
            '[1, {"type": "collections.defaultdict", "context": "{}", "children_spec": []}]',
        ),
    ),
    "key of a container": lambda m: changed(
        m,
        MODEL,
        lambda found: put(
            found,
            "in_spec",
            '[1, {"type": "builtins.dict", "context": "[{\\"__enum__\\": true, \\"fqn\\": '
            '\\"antigravity:x\\"}]", "children_spec": []}]',
        ),
    ),
    "sizes without numbers": lambda m: changed(
        {**m, "data/weights/weight_0": b""},
        WEIGHTS,
        lambda found: put(first_entry(found), "sizes", [{"as_int": 1 << 40}]),
    ),
    "no keys": lambda m: {**m, WEIGHTS: b"[]"},
    "no JSON": lambda m: {**m, MODEL: b"{"},
    "too deep": lambda m: {**m, MODEL: b"[" * 100_000 + b"]" * 100_000},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_exported_program_is_refused_and_nothing_in_it_runs(
    what: str, genuine: Members, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pickles in any member, libraries, and code in expressions, guards, operators and names: the
    bundle is refused before it is read.
    """
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / "network.pt2", HOSTILE[what](genuine))
    with pytest.raises(JobError, match=r"^network\.pt2"):
        architectures.load(bundle(path))
    assert not Path("owned").exists()


@pytest.mark.parametrize("what", ["sample inputs", "opaque object", "expression", "guard"])
@pytest.mark.filterwarnings("ignore")
def test_what_is_refused_would_have_run(
    what: str, genuine: Members, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same archives do harm where they are trusted: the tests above would see it."""
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / "network.pt2", HOSTILE[what](genuine))
    try:
        architectures.load(bundle(path), unsafe=True)(torch.zeros(2, 3, 16, 24))
    except Exception as error:  # noqa: BLE001  what comes of it is not this test's matter
        print(error)
    assert Path("owned").exists()


@pytest.mark.parametrize("folder", ["archive", "before 2.8"])
@pytest.mark.filterwarnings("ignore")
def test_a_genuine_exported_program_answers_as_the_network(
    folder: str,
    genuine: Members,
    program: torch.export.ExportedProgram,
    network: torch.nn.Module,
    tmp_path: Path,
) -> None:
    """An archive of ``torch.export.save``, with a note of its maker, and one of the older form:
    values, guards and sizes are as before.
    """
    if folder == "archive":
        path = written(
            tmp_path / "network.pt2", {**genuine, "extra/note.txt": "fields of 2024, µ".encode()}
        )
    else:
        from torch._export.serde.schema import SCHEMA_VERSION
        from torch._export.serde.serialize import serialize

        made = serialize(program)
        parts = {
            "exported_program.json": made.exported_program,
            "state_dict.pt": made.state_dict,
            "constants.pt": made.constants,
        }
        parts = {
            f"serialized_{name}": data
            for name, data in {**parts, "example_inputs.pt": made.example_inputs}.items()
        }
        path = written(
            tmp_path / "network.pt2",
            {"version": ".".join(map(str, SCHEMA_VERSION)).encode(), **parts},
            root="",
        )
    found = architectures.load(bundle(path))
    for shape in ((1, 3, 20, 30), (3, 3, 16, 24)):
        image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            assert torch.allclose(found(image), network(image), atol=1e-6)
    with pytest.raises((AssertionError, RuntimeError)):
        found(torch.rand(1, 2, 20, 30))


def test_an_archive_is_no_larger_than_its_file(genuine: Members, tmp_path: Path) -> None:
    """Packed members, members twice and members that lie on one another are refused before they are
    unpacked, in `.pt` files too.
    """
    packed = written(tmp_path / "packed.pt2", genuine, packing=zipfile.ZIP_DEFLATED)
    with pytest.raises(JobError, match=r"packed\.pt2 is packed; allowed: as PyTorch saves it"):
        architectures.load(bundle(packed))
    nested = io.BytesIO()
    with zipfile.ZipFile(nested, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\0" * 1_000_000)
    inside = written(
        tmp_path / "inside.pt2", {**genuine, "data/sample_inputs/model.pt": nested.getvalue()}
    )
    with pytest.raises(JobError, match=r"sample_inputs/model\.pt is packed"):
        architectures.load(bundle(inside))
    bare = tmp_path / "network.pt"
    bare.write_bytes(nested.getvalue())
    with pytest.raises(JobError, match=r"network\.pt is packed"):
        architectures.weights(bundle(bare, "unet"))
    twice = written(
        tmp_path / "twice.pt2", {**genuine, MODEL.replace("json", "jsoN"): genuine[MODEL]}
    )
    twice.write_bytes(twice.read_bytes().replace(b"model.jsoN", b"model.json"))
    with pytest.raises(JobError, match="holds files twice"):
        architectures.load(bundle(twice))


def test_many_members_are_refused(
    monkeypatch: pytest.MonkeyPatch, genuine: Members, tmp_path: Path
) -> None:
    """More members than any network has are not read one by one."""
    monkeypatch.setattr(archives, "MEMBERS", len(genuine) - 1)
    with pytest.raises(JobError, match=rf"holds {len(genuine)} files; allowed: {len(genuine) - 1}"):
        architectures.load(bundle(written(tmp_path / "network.pt2", genuine)))


@pytest.mark.parametrize(
    "data",
    [
        saved(Payload()),
        pickle.dumps(Payload()),
        pickle.dumps(Payload(), protocol=0),
        pickle.dumps({"weight": Payload()}),
        saved(torch.nn.Conv2d(1, 1, 1)),
        b"",
        b"PK\x03\x04 no archive",
        b"\x80\x02}q\x00.",
    ],
    ids=["torch", "bare", "old", "within", "module", "empty", "damaged", "cut"],
)
@pytest.mark.parametrize("name", ["network.pt", "network.pth", "network.bin"])
def test_weights_that_are_pickles_are_refused(
    data: bytes, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a file of weights is called and however it was pickled: tensors by name, or it is
    refused with a safe form to save.
    """
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(data)
    with pytest.raises(
        JobError,
        match=rf"^{name}: .*|^{name} (is no pickle of tensors alone.*as safetensors|holds no "
        rf"tensors)",
    ):
        architectures.weights(bundle(tmp_path / name, "unet"))
    assert not Path("owned").exists()


def test_messages_advise_safe_forms(genuine: Members, tmp_path: Path) -> None:
    """What is refused says which form to save instead, and only then what the flag would do."""
    script, pickled = tmp_path / "network.pt", tmp_path / "weights.pt"
    script.write_bytes(b"")
    pickled.write_bytes(saved(Payload()))
    with pytest.raises(
        JobError,
        match=r"is refused; export the network as ONNX or pt2\. \(With unsafe: true .*whatever "
        r"code is in it runs",
    ):
        architectures.load(bundle(script, "torchscript"))
    with pytest.raises(
        JobError,
        match=r"is refused; save its state_dict as safetensors\. \(With unsafe: true .* code is "
        r"in it runs",
    ):
        architectures.load(bundle(pickled, "unet"))


@pytest.mark.parametrize(
    "where", ["../secret.bin", "/{}/secret.bin", "link.bin", "deeper/secret.bin"]
)
def test_onnx_reads_no_file_outside_of_its_folder(where: str, tmp_path: Path) -> None:
    """Weights that an ONNX file keeps in another file lie beside it: paths that lead out, and
    links, are refused.
    """
    onnx = pytest.importorskip("onnx")
    np.zeros(2, np.float32).tofile(tmp_path / "secret.bin")
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "deeper").symlink_to(tmp_path)
    kept = onnx.TensorProto(
        name="w", data_type=1, dims=[2], data_location=onnx.TensorProto.EXTERNAL
    )
    for key, value in (
        ("location", where.format(str(tmp_path).strip("/"))),
        ("offset", "0"),
        ("length", "8"),
    ):
        kept.external_data.add(key=key, value=value)
    ends = [onnx.helper.make_tensor_value_info(name, 1, [1, 3, 2, 2]) for name in ("x", "y")]
    nodes = [onnx.helper.make_node("Add", ["x", "w"], ["y"])]
    made = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], [kept]), ir_version=9
    )
    (folder / "network.onnx").write_bytes(made.SerializeToString())
    (folder / "card.yaml").write_text(
        yaml.safe_dump({**Card(**facts("onnx")).plain(), "weights": "network.onnx"})
    )
    network = pipeline.ONNX(weights=str(folder))
    with pytest.raises(
        JobError, match=r"network\.onnx cannot be read as onnx: .*(escapes|Absolute|not allowed)"
    ):
        network.predict(np.zeros((3, 2, 2), np.uint8), np.ones((2, 2), bool))


@given(
    st.recursive(
        st.sampled_from(["Symbol('s0')", "s1", "Integer(2)", "L['x'].size()[2]", "3"]),
        lambda parts: st.one_of(
            st.tuples(
                st.sampled_from(
                    ["({} + {})", "({}*{})", "({} // {})", "Max({}, {})", "FloorDiv({}, {})"]
                ),
                parts,
                parts,
            ).map(lambda made: made[0].format(*made[1:])),
            parts.map(lambda part: f"(-{part})"),
        ),
        max_leaves=8,
    )
)
def test_sums_of_sizes_are_arithmetic(text: str) -> None:
    """What exporters write of sizes is taken, however it is nested."""
    assert archives.is_arithmetic(text)


@given(
    st.sampled_from(
        [
            "{}()",
            "{}.x",
            "{}.x()",
            "Add({}.x(), 1)",
            "[{} for x in y]",
            "(lambda: {})()",
            "{}[x()]",
            "f'{{{}}}'",
        ]
    ),
    st.text("abL", min_size=1),
)
def test_whatever_calls_is_no_arithmetic(form: str, name: str) -> None:
    """Calls of other names, attributes, comprehensions and functions are refused, whatever they are
    called.
    """
    text = form.format(name)
    ast.parse(text, mode="eval")
    assert not archives.is_arithmetic(text)


def test_models_of_other_packages_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of weights for Cellpose is looked into before that package reads it; InstanSeg's,
    which are TorchScript, want the flag.
    """
    monkeypatch.chdir(tmp_path)
    block = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    Path("hostile").write_bytes(saved(Payload()))
    Path("good").write_bytes(saved({"weight": torch.zeros(2)}))
    with pytest.raises(
        JobError, match=r"model: hostile is no pickle of tensors alone.*With unsafe: true"
    ):
        pipeline.Cellpose(model="hostile")(block)
    with pytest.raises(JobError, match=r"model: good is TorchScript.*With unsafe: true"):
        pipeline.InstanSeg(model="good")(block)
    for made in (
        pipeline.Cellpose(model="good"),
        pipeline.Cellpose(model="hostile", unsafe=True),
        pipeline.InstanSeg(model="good", unsafe=True),
    ):
        with pytest.raises(JobError, match="needs a package that is not installed"):
            made(block)
    assert not Path("owned").exists()
