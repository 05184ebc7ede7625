"""Programs of somebody else neither run code nor touch files, at import and when a model folder is used."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seamline.flows.training.importing import ModelDescription, import_model
from seamline.model.networks.torch_expressions import sanitize_guard, sanitize_size
from seamline.model.networks.torch_programs import load_program
from seamline.model.spec.errors import ModelError

DESCRIBED = ModelDescription(bands=("red", "nir"), classes=("land", "water"))


class Plain(nn.Module):
    """Scores that are the bands, through operations of a graph with sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Touch:
    """Unpickled, it makes the file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "good.pt2"
    torch.manual_seed(0)
    shapes = (
        {0: torch.export.Dim("b", min=1, max=64), 2: torch.export.Dim("h", min=4), 3: torch.export.Dim("w", min=4)},
    )
    torch.export.save(torch.export.export(Plain().eval(), (torch.zeros(2, 2, 32, 48),), dynamic_shapes=shapes), path)
    return path


def edited(path: Path, out: Path, edit: Callable[[str, bytes], bytes], add: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            target.writestr(name, edit(name.split("/", 1)[1], source.read(name)))
        for name, content in (add or {}).items():
            target.writestr(source.namelist()[0].split("/")[0] + "/" + name, content)
    return out


def in_model(change: Callable[[dict[str, Any]], object]) -> Callable[[str, bytes], bytes]:
    def edit(name: str, content: bytes) -> bytes:
        if name != "models/model.json":
            return content
        document = json.loads(content)
        change(document)
        return json.dumps(document).encode()

    return edit


def attacks(marker: Path) -> dict[str, Callable[[str, bytes], bytes]]:
    """Ways to run ``os.mkdir(marker)``."""
    pickled = pickle.dumps(Touch(marker), protocol=2)
    code = f"__import__('os').mkdir({str(marker)!r})"

    def samples(name: str, content: bytes) -> bytes:
        return pickled if name == "data/sample_inputs/model.pt" else content

    def weight(name: str, content: bytes) -> bytes:
        if name == "data/weights/model_weights_config.json":
            return content.replace(b'"use_pickle": false', b'"use_pickle": true', 1)
        return pickled if name == "data/weights/weight_0" else content

    def constant(name: str, content: bytes) -> bytes:
        if name == "data/constants/model_constants_config.json":
            entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
            return json.dumps({"config": {"c": entry}}).encode()
        return content

    def size(document: dict[str, Any]) -> None:
        sizes = document["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
        sizes[2] = {"as_expr": {"expr_str": code, "hint": {"as_int": 32}}}

    def target(document: dict[str, Any]) -> None:
        argument = {"name": "", "arg": {"as_string": str(marker)}, "kind": 1}
        node = {
            "target": "torch.serialization.os.mkdir",
            "inputs": [argument],
            "outputs": [{"as_none": True}],
            "metadata": {},
            "is_hop_single_tensor_return": None,
            "name": "made",
        }
        document["graph_module"]["graph"]["nodes"].append(node)

    def renamed(document: dict[str, Any]) -> None:
        text = json.dumps(document["graph_module"]).replace('"conv2d"', json.dumps(f"conv2d = {code}; conv2d"))
        document["graph_module"] = json.loads(text)

    def operator(document: dict[str, Any]) -> None:
        document["graph_module"]["graph"]["nodes"][-1]["target"] = "torch.ops.aten.from_file.default"

    return {
        "samples": samples,
        "weight": weight,
        "constant": constant,
        "size": in_model(size),
        "guard": in_model(lambda d: d["guards_code"].append(code)),
        "target": in_model(target),
        "name": in_model(renamed),
        "operator": in_model(operator),
    }


@pytest.mark.parametrize("case", attacks(Path()))
def test_an_exported_program_that_runs_code_is_refused(case: str, good: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    edit = attacks(marker)[case]
    add = {"data/constants/opaque_obj_0": pickle.dumps(Touch(marker), protocol=2)} if case == "constant" else None
    bad = edited(good, tmp_path / "bad.pt2", edit, add)
    with pytest.raises(ModelError, match="state_dict") as caught:
        import_model(bad, DESCRIBED, tmp_path / "model")
    with pytest.raises(ModelError):  # as a model folder's
        load_program(bad, "torch.export")
    assert "\n" not in str(caught.value)
    assert not marker.exists() and not (tmp_path / "model").exists()


def test_what_torch_reads_is_what_was_looked_at(good: Path, tmp_path: Path) -> None:
    """Notes of nodes, further files and a second directory of the archive never come to torch."""

    def note(document: dict[str, Any]) -> None:
        document["graph_module"]["graph"]["nodes"][0]["metadata"] = {"source_fn_stack": "a,torch.serialization.os"}

    same = edited(good, tmp_path / "x.pt2", in_model(note), {"extra/note.txt": b"hello"})
    x = torch.randn(1, 2, 16, 16)
    torch.testing.assert_close(load_program(same, "torch.export")(x), torch.export.load(good).module()(x))
    with pytest.raises(ModelError, match="a member 'data/aotinductor"):
        load_program(edited(good, tmp_path / "y.pt2", lambda _, c: c, {"data/aotinductor/m/x.so": b""}), "torch.export")


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/models/model.json", b"0" * (1 << 24))
        archive.writestr("x/archive_format", b"pt2")
    data = bytearray(path.read_bytes())
    place = data.rfind(b"PK\x01\x02", 0, data.rfind(b"PK\x01\x02"))
    data[place + 24 : place + 28] = (0xF0000000).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ModelError, match="an archive of 40265"):
        import_model(path, DESCRIBED, tmp_path / "model")


def test_a_damaged_archive_is_refused_in_one_line(good: Path, tmp_path: Path) -> None:
    data = bytearray(good.read_bytes())
    place = data.rfind(b"PK\x01\x02")
    data[place : place + 4] = b"XXXX"
    (tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(ModelError, match="a damaged zip archive"):
        import_model(tmp_path / "x.pt", DESCRIBED, tmp_path / "model")


class FromFile(nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.from_file(self.path, shared=True, size=64).sum() * 0


class Save(nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, self.path)
        return x


class OnLoad(nn.Module):
    """Writes while it is loaded."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: Tensor) -> Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> str:
        return self.path

    @torch.jit.export
    def __setstate__(self, state: str) -> None:
        self.path = state
        torch.save(torch.zeros(1), state)
        self.training = False


class Forked(nn.Module):
    """Its call is in a block of a block."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.inner = Save(path)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(2):
            if i == 1:
                x = self.inner(x)
        return x


@pytest.mark.parametrize("kind", [FromFile, Save, OnLoad, Forked])
def test_a_script_that_touches_files_is_refused(kind: type[nn.Module], tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.jit.script(kind(str(marker))).save(str(tmp_path / "x.pt"))
    with pytest.raises(ModelError, match="only computes") as caught:
        import_model(tmp_path / "x.pt", DESCRIBED, tmp_path / "model")
    with pytest.raises(ModelError):
        load_program(tmp_path / "x.pt", "torchscript")
    assert "\n" not in str(caught.value) and not marker.exists()


class NotANumber(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * float("nan")


class NoClasses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :0]


class Labels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x > 0


@pytest.mark.parametrize(
    ("network", "message"), [(NotANumber, "no numbers"), (NoClasses, r"shape \(1, 0, "), (Labels, "an output of bool")]
)
def test_scores_that_are_none_are_refused(network: type[nn.Module], message: str, tmp_path: Path) -> None:
    torch.jit.script(network()).save(str(tmp_path / "x.pt"))
    with pytest.raises(ModelError, match=message):
        import_model(tmp_path / "x.pt", DESCRIBED, tmp_path / "model")


def _graph(folder: Path, location: str) -> Path:
    """A graph whose weights lie in another file."""
    onnx = pytest.importorskip("onnx")
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    file, axes = io.BytesIO(), {"x": {0: "b", 2: "h", 3: "w"}}
    torch.onnx.export(
        Plain().eval(), (torch.zeros(1, 2, 8, 8),), file, dynamo=False, input_names=["x"], dynamic_axes=axes
    )
    (folder / "one.onnx").write_bytes(file.getvalue())
    graph = onnx.load_from_string(file.getvalue())
    onnx.save_model(graph, folder / "x.onnx", save_as_external_data=True, location="x.bin", size_threshold=0)
    graph = onnx.load(folder / "x.onnx", load_external_data=False)
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            entry.value = location if entry.key == "location" else entry.value
    (folder / "x.onnx").write_bytes(graph.SerializeToString())
    return folder / "x.onnx"


def test_weights_beside_a_graph_come_into_it(tmp_path: Path) -> None:
    path = _graph(tmp_path / "from", "x.bin")
    import_model(path, DESCRIBED, tmp_path / "model")
    path.with_name("x.bin").unlink()
    onnxruntime = pytest.importorskip("onnxruntime")
    x = {"x": torch.randn(1, 2, 16, 16).numpy()}
    expected, found = (
        onnxruntime.InferenceSession(p, providers=["CPUExecutionProvider"]).run(None, x)[0]
        for p in (path.with_name("one.onnx"), tmp_path / "model" / "model.onnx")
    )
    assert (expected == found).all()


@pytest.mark.parametrize("place", ["../x.bin", "link.bin", "ABSOLUTE", "none.bin"])
def test_weights_elsewhere_are_never_read(place: str, tmp_path: Path) -> None:
    outside = tmp_path / "x.bin"
    location = str(outside) if place == "ABSOLUTE" else place
    path = _graph(tmp_path / "from", location)
    path.with_name("x.bin").rename(outside)
    path.with_name("link.bin").symlink_to(outside)
    with pytest.raises(ModelError, match="expected files in the folder of the graph") as caught:
        import_model(path, DESCRIBED, tmp_path / "model")
    assert "\n" not in str(caught.value) and not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "text", ["Mul(Integer(2), Symbol('s68', positive=True, integer=True))", "8*s30", "Add(FloorDiv(s1, Integer(2)), 3)"]
)
def test_sizes_are_read(text: str) -> None:
    assert sanitize_size(text).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "().__class__",
        "s1.__class__",
        "Symbol('x y')",
        "Integer('1')",
        "(lambda: 1)()",
        "eval(s1)",
        "[s1]",
        "s1 if s2 else s3",
        "9**9**9",
        "Pow(Integer(9), Integer(999999999))",
        "Symbol('s1', cls=s1)",
        "s1; s2",
        "(" * 500 + ")" * 500,
        "f'{s1}'",
    ],
)
def test_what_is_no_size_is_refused(text: str) -> None:
    for check in (sanitize_size, sanitize_guard):
        with pytest.raises((ValueError, RecursionError, MemoryError)):
            check(text)


@pytest.mark.parametrize("text", ["L['x'].size()[2] % 16 == 0", "max(1, 2 * L['args'][0].size()[3]) != 0"])
def test_guards_are_read(text: str) -> None:
    assert sanitize_guard(text) == text


@pytest.mark.parametrize(
    "text", ["L['x'].save('y')", "L['x'].tofile", "args[0]", "L['x\\')'].size()[0]", "L['x'].size"]
)
def test_what_is_no_guard_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        sanitize_guard(text)
