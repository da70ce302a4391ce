"""The reference of Python shows a call as it is called, and code in docstrings as code.

A call is written as a function to a `Statement`, see gendurable_py/_statement.py, and its decorator puts the connection
in front. Who reads the sources alone, as mkdocstrings does, has to be told.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

CONNECTION = "Connection | AsyncConnection"


class Calls(griffe.Extension):
    """Gives functions that are calls their connection and what they answer, and all docstrings Markdown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            # What is indented behind it is code in Markdown, too.
            text = re.sub(r"^[ ]*::\n", "", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r"::$", ":", text, flags=re.MULTILINE)

    def on_function_instance(self, *, func: griffe.Function, **_: Any) -> None:
        if not any(str(decorator.value) in ("call", "script") for decorator in func.decorators):
            return
        kind = griffe.ParameterKind.positional_only
        conn = griffe.Parameter("conn", annotation=CONNECTION, kind=griffe.ParameterKind.positional_or_keyword)
        if any(one.kind is kind for one in func.parameters):
            conn = griffe.Parameter("conn", annotation=CONNECTION, kind=kind)
        func.parameters = griffe.Parameters(conn, *func.parameters)
        answer = func.returns
        # Statement[R], or Generator[…, …, R] of a call that takes more than one round trip.
        if isinstance(answer, griffe.ExprSubscript):
            inside = answer.slice
            func.returns = inside.elements[-1] if isinstance(inside, griffe.ExprTuple) else inside
