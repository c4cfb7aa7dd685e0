import subprocess
import sys
import zipfile

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.numpy import save_file

from app.domain.errors import CorruptFile, NonFiniteWeights, UnknownFormat, UnsafeFile
from tests.compression.admission import operators
from tests.hostile.networks import NETWORKS, bert
from tests.hostile.rezip import GRAPH, edit_json
from workers.compression.admission import FORMATS, admit
from workers.compression.admission.expressions import check_guard, check_shape
from workers.compression.admission.finite import find_nonfinite

ARRAYS = {
    "train.x": np.ones((4, 3), "float32"),
    "train.y": np.arange(4),
    "validation.x": np.zeros((2, 3), "float16"),
    "validation.flag": np.array([True, False]),
}


def save(name, folder):
    torch.manual_seed(0)
    path = folder / f"{name}.pt2"
    torch.export.save(bert() if name == "bert" else NETWORKS[name](), path)
    return path


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", [*NETWORKS, "bert"])
def test_admits_what_torch_exports(name, tmp_path):
    path = save(name, tmp_path)
    admit(path, "pt2")
    assert torch.export.load(path).graph_module.graph.nodes


class _Unit(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.normalize(x, dim=1)


def test_admits_outputs_of_length_one_as_encoders_of_sentences_give_them(tmp_path):
    torch.export.save(torch.export.export(_Unit(), (torch.ones(2, 3),)), tmp_path / "unit.pt2")
    admit(tmp_path / "unit.pt2", "pt2")


def test_admits_arrays_of_numpy(tmp_path):
    for save_arrays in (np.savez, np.savez_compressed):
        save_arrays(tmp_path / "a.npz", **ARRAYS, fortran=np.asfortranarray(np.ones((3, 2))), empty=np.zeros((0, 3)))
        admit(tmp_path / "a.npz", "npz")


def test_admits_tensors_of_safetensors(tmp_path):
    save_file(ARRAYS, tmp_path / "a.safetensors", metadata={"format": "np"})
    admit(tmp_path / "a.safetensors", "safetensors")


def test_admits_a_graph_with_typed_data_and_a_branch(tmp_path):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    weights = [
        helper.make_tensor("w", TensorProto.FLOAT, [4], [1.0, 2.0, 3.0, 4.0]),
        helper.make_tensor("half", TensorProto.FLOAT16, [2], [1.0, 2.0]),
        helper.make_tensor("small", TensorProto.INT4, [3], [1, 2, 3]),
        helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
        helper.make_tensor("axes", TensorProto.INT64, [2], [-1, 300]),
    ]
    branches = [
        helper.make_graph(
            [helper.make_node("Add", ["x", "w"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        )
        for name in ("then", "else")
    ]
    node = helper.make_node("If", ["yes"], ["y"], then_branch=branches[0], else_branch=branches[1])
    path = tmp_path / "a.onnx"
    path.write_bytes(helper.make_model(helper.make_graph([node], "g", [x], [y], weights)).SerializeToString())
    admit(path, "onnx")
    onnx.checker.check_model(path)


def test_a_block_without_gradients_is_refused_with_the_way_around_it(tmp_path):
    class Rotated(torch.nn.Module):
        def forward(self, x):
            with torch.no_grad():
                angles = torch.arange(3.0).cos()
            return x * angles

    path = tmp_path / "rotated.pt2"
    torch.export.save(torch.export.export(Rotated(), (torch.randn(2, 3),)), path)
    with pytest.raises(UnsafeFile, match="a graph of its own") as caught:
        admit(path, "pt2")
    assert "torch.no_grad()" in caught.value.hint
    with torch.no_grad():
        torch.export.save(torch.export.export(Rotated(), (torch.randn(2, 3),)), path)
    admit(path, "pt2")


def test_admits_images(tmp_path):
    png = b"\x89PNG\r\n\x1a\n" + bytes([0, 0, 0, 13]) + b"IHDR" + bytes([0, 0, 0, 8, 0, 0, 0, 9])
    jpeg = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x0b\x08\x00\x10\x00\x20\x01"
    folder = tmp_path / "train" / "cat"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(png)
    (folder / "b.jpg").write_bytes(jpeg)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.mkdir("train")
        archive.write(folder / "a.png", "train/cat/a.png")
        archive.write(folder / "b.jpg", "train/cat/b.jpg")
    admit(tmp_path / "a.zip", "zip")
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "train", "train")
    admit(tmp_path / "a.tar", "tar")


def test_an_unknown_format_is_named(tmp_path):
    with pytest.raises(UnknownFormat, match=r"'pkl'.*pt2"):
        admit(tmp_path / "a.pkl", "pkl")


def test_a_flipped_bit_of_a_weight_is_found_though_torch_loads_it(tmp_path):
    path = save("mlp", tmp_path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("mlp/data/weights/weight_0")
    content[member.header_offset + 300] ^= 1
    path.write_bytes(content)
    torch.export.load(path)
    with pytest.raises(CorruptFile, match=r"weight_0.*checksum"):
        admit(path, "pt2")


def test_a_sympy_payload_that_runs_under_torch_is_refused(tmp_path):
    """The reason for all this: without admission the marker appears."""
    real, path, marker = save("residual_batch", tmp_path), tmp_path / "evil.pt2", tmp_path / "marker"
    command = f"__import__('pathlib').Path({str(marker)!r}).touch()"

    def change(document):
        sizes = document["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
        sizes[0] = {"as_expr": {"expr_str": command, "hint": None}}

    edit_json(real, path, GRAPH, change)
    with pytest.raises(UnsafeFile, match="the shape of 'x'"):
        admit(path, "pt2")
    assert not marker.exists()
    code = f"import torch\ntry: torch.export.load({str(path)!r})\nexcept Exception: pass"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert marker.exists()


def test_infinity_is_admitted_in_a_mask_and_refused_in_a_parameter(tmp_path):
    admit(save("text", tmp_path), "pt2")
    network = torch.nn.Linear(4, 2)
    network.weight.data[0, 0] = float("inf")
    torch.export.save(torch.export.export(network, (torch.ones(1, 4),)), tmp_path / "inf.pt2")
    with pytest.raises(NonFiniteWeights, match=r"'weight' holds infinite"):
        admit(tmp_path / "inf.pt2", "pt2")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_nonfinite_values_are_told_from_the_largest_finite_ones(dtype):
    def find(value):
        numbers = torch.zeros(1000, dtype=dtype)
        numbers[777] = value
        return find_nonfinite(numbers.view(torch.uint8).numpy().tobytes(), str(dtype).removeprefix("torch."))

    limits = torch.finfo(dtype)
    assert [find(value) for value in (limits.max, limits.min, limits.tiny)] == ["finite"] * 3
    assert [find(float(value)) for value in ("inf", "-inf", "nan")] == ["infinite", "infinite", "nan"]


def test_the_list_of_operators_is_what_its_command_writes():
    assert operators.LIST.read_text().split() == operators.admitted()


@pytest.mark.parametrize(
    "expression",
    [
        "s0",
        "2*s77 + 1",
        "Symbol('u0', integer=True)",
        "Mul(Integer(8), Max(Integer(1), FloorDiv(Symbol('s53', positive=True, integer=True), Integer(-2))))",
        "Pow(Symbol('s53', positive=True, integer=True), Integer(2))",
        "And(Eq(s0, s1), s0 <= 9)",
    ],
)
def test_shapes_that_torch_writes_are_admitted(expression):
    check_shape(expression, "a test")


@pytest.mark.parametrize(
    "expression",
    ["print(s0)", "s0.func", "x", "E", "[s0]", "s0 if s0 else s1", "f's0'", "Symbol('s0', function=print)", "s0 ** s1"],
)
def test_other_shapes_are_refused(expression):
    with pytest.raises(UnsafeFile):
        check_shape(expression, "a test")


def test_guards_that_torch_writes_are_admitted():
    check_guard("max(1, 8*L['x'].size()[0]) != min(4, (1 + L['more']['gate'].size()[2]) // 2)", "a test")
    check_guard("L['pair'][0].stride()[1] >= 2 and not L['x'].storage_offset() == 0", "a test")


@pytest.mark.parametrize(
    "guard",
    ["L.size()[0] == 1", "L['x'].tolist()[0]", "L['x'].size(print(1))[0]", "K['x'].size()[0]", "L[L].size()[0]", "L"],
)
def test_other_guards_are_refused(guard):
    with pytest.raises(UnsafeFile):
        check_guard(guard, "a test")


def test_admission_imports_no_numerics():
    code = (
        "import sys, workers.compression.admission\n"
        "print(sorted({'torch', 'numpy', 'onnx', 'onnxruntime', 'google.protobuf', 'sympy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_every_format_is_told_from_an_empty_file(tmp_path):
    path = tmp_path / "empty"
    path.touch()
    for kind in FORMATS:
        with pytest.raises(CorruptFile):
            admit(path, kind)
