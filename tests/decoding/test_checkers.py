"""Checkers take every beginning of what is whole, and turn down what can become nothing."""

import json
import textwrap

import pytest

from lexinv.decoding.checkers import begins_json, begins_python, is_json, is_python

CODE = '''
import os

@dec(1)
class A(B, metaclass=M):
    """Doc
    string."""
    x = a[1:2, ...]  # comment ( [
    async def g(self): await self.h()

def f(x, y=1, *args):
    if x and y in (1, 2,
                   3):
        return {"a": [i for i in range(x) if i], 'b': x if y else not y}
    try:
        x += 1
    except (KeyError, ValueError) as e:
        raise ValueError(f"no {x!r}") from None
    finally:
        print(x, end="")
    with open("a") as g, open('b') as h:
        yield lambda z: a[z:1] ** -b
'''
DATA = {"a": [1, -2.5e-3, True, False, None, 'x\ny\u00e9"q\\'], "b": {"c": {}}, "d": []}


def test_every_beginning_of_code_is_taken():
    assert is_python(CODE)
    assert all(begins_python(CODE[:i]) for i in range(len(CODE) + 1))
    assert all(begins_python(textwrap.dedent(CODE)[:i] + "\n#") for i in (0, 5, 11))


@pytest.mark.parametrize("indent", [None, 2])
def test_every_beginning_of_json_is_taken(indent):
    text = json.dumps(DATA, indent=indent)
    assert is_json(text)
    assert not any(is_json(text[:i]) for i in range(len(text)))
    assert all(begins_json(text[:i]) for i in range(len(text) + 1))


@pytest.mark.parametrize(
    "text",
    [
        "Here is a function ",
        "There is no syn",
        "x = = 1",
        "x = return ",
        "def f():\nx = 1 ",
        "x = 1\n  y ",
        "f(x) = 1\n",
        "for x in y z ",
        "```python\n",
    ],
)
def test_what_is_no_python_is_turned_down(text):
    assert not begins_python(text) and not is_python(text)


@pytest.mark.parametrize(
    "text", ['{"a": 1,}', "{a", '{"a" 1', "[1 2", '{"a": 1} x', '{"a": tru ', "Here", '{"a": 01', '{"a": "x\n', "1"]
)
def test_what_is_no_json_is_turned_down(text):
    assert not begins_json(text) and not is_json(text)
