"""Tensors of ONNX files and of PyTorch's .pth files, read as data: no graph is run, nothing is unpickled."""

import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from lexinv.nn.checkpoint_directories import Tensors
from lexinv.validation import InvalidConfig, require

_STORAGES = {
    "torch FloatStorage": np.float32,
    "torch HalfStorage": np.float16,
    "torch BFloat16Storage": ml_dtypes.bfloat16,
    "torch DoubleStorage": np.float64,
    "torch LongStorage": np.int64,
    "torch IntStorage": np.int32,
    "torch ByteStorage": np.uint8,
    "torch BoolStorage": np.bool_,
}
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_NUMBERS_AND_TEXTS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "BINSTRING")
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def read_onnx(file: Path) -> Tensors:
    """The initialisers of a graph by name, floating-point ones in float32.

    Exporters leave the matrix of a linear layer nameless: it is called after the bias `x.bias` that is added to its product, `x.weight`,
    and is stored [in, out]. Raises `InvalidConfig` for a damaged file and without the package `onnx`.
    """
    try:
        import onnx
    except ImportError:
        raise InvalidConfig("file", str(file), "read with the package onnx: pip install onnx") from None
    try:
        graph = onnx.load(str(file), load_external_data=False).graph
        tensors = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    except Exception as error:  # the library raises whatever a damaged file leads it into
        raise InvalidConfig("file", str(file), f"a whole ONNX file with its weights ({error})") from None
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        for product, bias in (node.input[:2], node.input[1::-1]) if node.op_type == "Add" else ():
            if bias in tensors and bias.endswith(".bias") and products.get(product) in tensors:
                tensors[f"{bias.removesuffix('.bias')}.weight"] = tensors.pop(products.pop(product))
    return _single(tensors)


def read_pth(file: Path) -> Tensors:
    """The arrays in the (nested) dictionaries that `torch.save` has written, by their keys joined with dots; in float32, integers as such.

    A stack machine of its own takes the few instructions that such files need and knows no functions but those that stand for an
    array. Raises `InvalidConfig` for other instructions, functions and types, by name, and for damaged files.
    """
    try:
        found = _read_zipped(file) if zipfile.is_zipfile(file) else _read_legacy(file)
    except InvalidConfig as error:
        raise InvalidConfig(error.field, error.value, f"{error.allowed} (in {file})") from None
    except Exception as error:  # of pickletools, zipfile, NumPy and the stack, for what no writer has written
        raise InvalidConfig("file", str(file), f"a whole file of torch.save ({error!r})") from None
    return _single(_named(found, ""))


def _read_zipped(file: Path) -> Any:
    with zipfile.ZipFile(file) as opened:
        (described,) = [name for name in opened.namelist() if name.endswith("/data.pkl")]
        root = described.removesuffix("data.pkl")

        def storage(key: str, dtype: Any, count: int) -> np.ndarray:
            return np.frombuffer(opened.read(f"{root}data/{key}"), dtype, count)

        with opened.open(described) as stream:
            return _interpret(stream, storage)


def _read_legacy(file: Path) -> Any:
    """Several streams one after another: a number, the version, the machine, the object, keys of storages; then their contents."""
    size, storages = file.stat().st_size, {}

    def storage(key: str, dtype: Any, count: int) -> np.ndarray:
        require(
            0 <= count * np.dtype(dtype).itemsize <= size,
            "storage",
            count,
            f"no larger than the {size} bytes of the file",
        )
        return storages.setdefault(key, np.zeros(count, dtype))

    with file.open("rb") as stream:
        require(_interpret(stream, storage) == _LEGACY_MAGIC, "file", file.name, "a file of torch.save")
        _, _, found, keys = (_interpret(stream, storage) for _ in range(4))
        for key in keys:
            count = int.from_bytes(stream.read(8), "little")
            array = storages[key]
            require(count == len(array), "storage", count, f"{len(array)} numbers")
            array[:] = np.frombuffer(stream.read(array.nbytes), array.dtype, count)
    return found


def _interpret(stream: Any, storage: Callable[[str, Any, int], np.ndarray]) -> Any:
    """The value that a pickle stands for, of dictionaries, lists, tuples, numbers, texts and arrays. A function is its name."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def pop(count: int) -> list[Any]:
        taken = stack[len(stack) - count :]
        require(len(taken) == count, "pickle", count, "no more values than there are")
        del stack[len(stack) - count :]
        return taken

    for instruction, value, _ in pickletools.genops(stream):
        name = instruction.name
        if name == "STOP":
            return stack.pop()
        if name in _NUMBERS_AND_TEXTS or name == "GLOBAL":
            stack.append(value)
        elif name in _VALUES:
            stack.append(_VALUES[name])
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[value] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[value])
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(pop(len(stack) - marks.pop() if name == "TUPLE" else int(name[-1]))))
        elif name in ("SETITEM", "SETITEMS"):
            pairs = pop(2 if name == "SETITEM" else len(stack) - marks.pop())
            stack[-1].update(zip(pairs[::2], pairs[1::2], strict=True))
        elif name in ("APPEND", "APPENDS"):
            items = pop(1 if name == "APPEND" else len(stack) - marks.pop())
            stack[-1].extend(items)
        elif name == "BUILD":
            pop(1)  # attributes of a dictionary
        elif name == "BINPERSID":
            _, kind, key, _, count = pop(1)[0][:5]
            require(kind in _STORAGES, "type", kind, f"one of {', '.join(_STORAGES)}")
            stack.append(storage(key, _STORAGES[kind], count))
        elif name == "REDUCE":
            stack.append(_call(*pop(2)))
        else:
            require(
                name == "PROTO", "instruction", name, "one of those that torch.save writes for dictionaries of arrays"
            )
    raise ValueError("no end")


def _call(function: Any, arguments: tuple[Any, ...]) -> Any:
    if function == "collections OrderedDict":
        return dict(*arguments)
    if function == "torch._utils _rebuild_parameter":
        return arguments[0]
    allowed = "the tensors, parameters and dictionaries of torch.save"
    require(function == "torch._utils _rebuild_tensor_v2", "function", function, allowed)
    storage, offset, shape, strides = arguments[:4]
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    inside = min((offset, *shape, *strides)) >= 0 and (0 in shape or last < len(storage))
    require(inside, "tensor", (offset, shape, strides), f"one inside of its {len(storage)} numbers")
    item = storage.itemsize
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, [step * item for step in strides])


def _named(value: Any, at: str) -> Tensors:
    if isinstance(value, np.ndarray):
        return {at: value}
    if not isinstance(value, dict):
        return {}
    return {
        name: array
        for key, part in value.items()
        for name, array in _named(part, f"{at}.{key}" if at else str(key)).items()
    }


def _single(tensors: Tensors) -> Tensors:
    return {name: array.astype(np.float32) if array.dtype.kind in "fV" else array for name, array in tensors.items()}
