"""Black boxes that say whether a text is Python or JSON, and whether what has been written of it can still become that.

Both ask the parser of the standard library, and run nothing. `begins_*` never turns down the beginning of a text that it would take whole,
but for the few errors of Python's parser that name an earlier place than the one where it gave up.
"""

import ast
import codeop
import json
import keyword
import re
import warnings

PARSER_ERRORS = (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError)
UNFINISHED = ("was never closed", "unterminated", "unexpected EOF", "expected 'e", "f-string: expecting")
"""What the parser says of code that goes on, at places inside of it."""
WORD = re.compile(r"[\w.]+$|[^\w\s]+$|\\$")
"""What stands last in a line may be part of a longer word or sign."""
ENDINGS = ("", *'" "" 0" 00" 000" 0000" 0 rue ue e alse lse se ull ll l'.split())
"""With one of these a string, number or name of JSON that is cut off is whole."""


def is_python(text: str) -> bool:
    """Whether it is a module."""
    return _error(lambda: ast.parse(text)) is None


def begins_python(text: str) -> bool:
    """Whether lines that are written are the beginning of a module, and the last one, as far as its words are whole, is one of a line.

    Lines are compiled by `codeop`, which tells what is not finished from what is wrong; of the last one it counts where the parser gave up.
    """
    lines, _, last = text.rpartition("\n")
    if lines and _error(lambda: codeop.compile_command(f"{lines}\n", symbol="exec")) is not None:
        return False
    whole = WORD.sub("", last)
    name = last[len(whole) :].partition(".")[0]
    if len(name) > 2 and name.isidentifier() and not any(word.startswith(name) for word in keyword.kwlist):
        whole += name  # it is a name, however it goes on
    if not whole.strip():
        return True
    error = _error(lambda: ast.parse(f"{lines}\n{whole}"))
    if not isinstance(error, SyntaxError) or any(said in str(error) for said in UNFINISHED):
        return error is None or isinstance(error, SyntaxError)
    row, column = error.lineno or 0, error.offset or 0
    here = f"{lines}\n".count("\n") + 1
    return row > here or (row == here and not 0 < column <= len(whole.rstrip()))


def is_json(text: str) -> bool:
    """Whether it is an object or a list, alone."""
    return text.lstrip()[:1] in ("{", "[") and _error(lambda: json.loads(text)) is None


def begins_json(text: str) -> bool:
    """Whether an object or a list begins like this."""
    if text.lstrip()[:1] not in ("", "{", "["):
        return False
    for ending in ENDINGS:
        whole = text + ending
        error = _error(lambda whole=whole: json.loads(whole))
        if error is None or _wants_more(error, whole):
            return True
    return False


def _wants_more(error: Exception, text: str) -> bool:
    at_end = isinstance(error, json.JSONDecodeError) and error.pos >= len(text.rstrip())
    return at_end and not str(error).startswith("Invalid control character")


def _error(parse) -> Exception | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            parse()
        except PARSER_ERRORS as error:
            return error
    return None
