"""Files of torch.save written here without torch, ONNX files of two layers, and what is no data."""

import pickle
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from lexinv.nn.weight_files import _LEGACY_MAGIC, read_onnx, read_pth
from lexinv.validation import InvalidConfig


class Storage:
    def __init__(self, key, array):
        self.key, self.array = key, array


class Tensor:
    def __init__(self, storage, shape, strides, offset=0):
        self.arguments = (storage, offset, shape, strides, False, OrderedDict())

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


@pytest.fixture
def torch(monkeypatch):
    """Modules of the names that such files hold."""
    torch, inner = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "HalfStorage", "LongStorage", "ComplexFloatStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch", "__qualname__": name}))

    def _rebuild_tensor_v2(*arguments): ...

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    inner._rebuild_tensor_v2 = _rebuild_tensor_v2
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", inner)
    return torch


KINDS = {"f4": "FloatStorage", "f2": "HalfStorage", "i8": "LongStorage", "c8": "ComplexFloatStorage"}


def save(file, value, torch, zipped=True):
    storages = {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            if not isinstance(thing, Storage):
                return None
            storages[thing.key] = thing.array
            kind = getattr(torch, KINDS[thing.array.dtype.str[1:]])
            parts = ("storage", kind, thing.key, "cpu", len(thing.array))
            return parts if zipped else (*parts, None)

    if zipped:
        with zipfile.ZipFile(file, "w") as opened:
            with opened.open("model/data.pkl", "w") as stream:
                Pickler(stream, 2).dump(value)
            for key, array in storages.items():
                opened.writestr(f"model/data/{key}", array.tobytes())
        return
    with file.open("wb") as stream:
        for part in (_LEGACY_MAGIC, 1001, {"little_endian": True}):
            pickle.dump(part, stream, 2)
        Pickler(stream, 2).dump(value)
        pickle.dump(sorted(storages), stream, 2)
        for key in sorted(storages):
            stream.write(len(storages[key]).to_bytes(8, "little") + storages[key].tobytes())


NUMBERS = np.arange(12, dtype=np.float32)


@pytest.mark.parametrize("zipped", [True, False])
def test_arrays_of_torch_save_are_read_by_name(tmp_path, torch, zipped):
    shared, half = Storage("0", NUMBERS), Storage("1", np.array([0.5, -2.0], np.float16))
    count = Storage("2", np.array([7], np.int64))
    state = OrderedDict(weight=Tensor(shared, (3, 2), (1, 4), 1), half=Tensor(half, (2,), (1,)))
    value = {"step": 5, "model": {"layers": state, "count": Tensor(count, (), ())}, "names": ["a", None, True, 0.5]}
    save(tmp_path / "model.pth", value, torch, zipped)
    found = read_pth(tmp_path / "model.pth")
    assert set(found) == {"model.layers.weight", "model.layers.half", "model.count"}
    np.testing.assert_array_equal(found["model.layers.weight"], [[1, 5], [2, 6], [3, 7]])
    np.testing.assert_array_equal(found["model.layers.half"], np.float32([0.5, -2.0]))
    assert found["model.layers.weight"].dtype == found["model.layers.half"].dtype == np.float32
    assert found["model.count"] == 7 and found["model.count"].dtype == np.int64


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda: {"x": Tensor(Storage("0", NUMBERS), (3, 5), (5, 1))}, r"tensor = \(0, \(3, 5\).*its 12 numbers"),
        (lambda: {"x": Tensor(Storage("0", NUMBERS), (2,), (-1,), 1)}, "tensor = .*its 12 numbers"),
        (lambda: {"x": Tensor(Storage("0", np.zeros(2, np.complex64)), (2,), (1,))}, "type = 'torch ComplexFloat"),
        (lambda: {"x": range(3)}, "function = '__builtin__ xrange'"),
        (lambda: {"x": {1, 2}}, "function = '__builtin__ set'"),
        (lambda: {"x": types.SimpleNamespace(a=1)}, "instruction|function"),
    ],
)
def test_what_is_no_array_is_refused(tmp_path, torch, zipped, value, message):
    file = tmp_path / "model.pth"
    save(file, value(), torch, zipped)
    with pytest.raises(InvalidConfig, match=message):
        read_pth(file)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0, 50, -8])
def test_damaged_files_are_named(tmp_path, torch, zipped, kept):
    file = tmp_path / "model.pth"
    save(file, {"x": Tensor(Storage("0", NUMBERS), (12,), (1,))}, torch, zipped)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(InvalidConfig, match=r"model\.pth"):
        read_pth(file)


def test_matrices_of_an_onnx_file_are_called_after_their_biases(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper, array = onnx.helper, onnx.numpy_helper.from_array
    first, second = np.float32([[1, 2, 3], [4, 5, 6]]), np.float16([[1], [2], [3]])
    held = {"onnx::MatMul_7": first, "onnx::MatMul_9": second, "a.bias": np.zeros(3, np.float32)}
    held |= {"b.bias": np.zeros(1, np.float16), "shape": np.array([1, 3])}
    nodes = [("MatMul", ["x", "onnx::MatMul_7"], "p"), ("Add", ["a.bias", "p"], "q")]
    nodes += [("MatMul", ["q", "onnx::MatMul_9"], "r"), ("Add", ["r", "b.bias"], "y"), ("Add", ["y", "x"], "z")]
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, [output]) for kind, inputs, output in nodes],
        "two",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1, 1])],
        [array(value, name) for name, value in held.items()],
    )
    file = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph), str(file))
    found = read_onnx(file)
    assert set(found) == {"a.weight", "a.bias", "b.weight", "b.bias", "shape"}
    np.testing.assert_array_equal(found["a.weight"], first)
    np.testing.assert_array_equal(found["b.weight"], second.astype(np.float32))
    assert found["b.weight"].dtype == np.float32 and found["shape"].dtype == np.int64
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(InvalidConfig, match=r"model\.onnx.*a whole ONNX file"):
        read_onnx(file)
