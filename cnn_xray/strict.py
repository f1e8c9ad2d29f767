"""Strict parameters: read from a notebook's cells, refused in sentences, written as its parameters cell."""

from __future__ import annotations

import ast
import difflib
import json
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from cnn_xray.errors import InputError

BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}  # of pydantic's constraints


class Parameters(BaseModel):
    """What all notebooks' parameters have in common: strict types, no unknown names, sentences for people."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Parameters from names and values. Raises one `InputError` with a sentence for each thing wrong."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            problems = [_sentence(cls, problem) for problem in error.errors()]
        raise InputError("\n".join(problems))

    @classmethod
    def from_notebook(cls) -> Self:
        """Parameters from the cells of the running notebook that do nothing but assign literals.

        These are the parameters cell, the cell papermill injects after it, and any such cell run by hand;
        the values are the latest. Raises `InputError` as `from_mapping`.
        """
        from IPython.core.getipython import get_ipython

        shell = get_ipython()
        if shell is None:
            raise InputError("from_notebook() reads the cells of a notebook; elsewhere use from_mapping().")
        space = shell.user_ns
        names = literal_assignments(space["In"], known=set(cls.model_fields))
        return cls.from_mapping({name: space[name] for name in names if name in space})


def unknown_name(name: str, known: Iterable[str]) -> str:
    """The sentence that refuses a name and gives the nearest known one."""
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"There is no parameter {name!r}; the nearest one is {nearest[0]!r}."


def _sentence(cls: type[Parameters], problem: Any) -> str:
    if problem["type"] == "value_error":  # an InputError of a validator, a sentence already
        return str(problem["ctx"]["error"])
    name = str(problem["loc"][0])
    if name not in cls.model_fields:
        return unknown_name(name, cls.model_fields)
    return f"{name} is {problem['input']!r}, but it must be {_allowed(cls.model_fields[name])}."


def _allowed(field: FieldInfo) -> str:
    """What a field takes, in words: ``a whole number from 1 to 500, or None``."""
    kind, optional = _kind(field)
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    bounds = [
        f"{words} {getattr(limit, sign)}"
        for limit in field.metadata
        for sign, words in BOUNDS.items()
        if hasattr(limit, sign)
    ]
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}[kind]
    if kind is str and field.metadata:
        return "a text that is not empty"
    return f"{words} {' and '.join(bounds)}".strip() + (", or None" if optional else "")


def _kind(field: FieldInfo) -> tuple[Any, bool]:
    """A field's type without its None, and whether it had one."""
    if get_origin(field.annotation) in (Union, types.UnionType):
        (kind,) = (part for part in get_args(field.annotation) if part is not types.NoneType)
        return kind, True
    return field.annotation, False


def literal_assignments(cells: Iterable[str], known: set[str]) -> list[str]:
    """Names assigned in those cells that do nothing but assign literals, annotated or not.

    A cell that assigns all the ``known`` names of an earlier one is taken for that cell, edited and run
    again: the earlier wording no longer counts, so that a misspelt name can be corrected.
    """
    kept: list[list[str]] = []
    for cell in cells:
        names = _assigned(cell)
        if names:
            kept = [old for old in kept if not known & set(old) or not known & set(old) <= set(names)]
            kept.append(names)
    every = dict.fromkeys(name for names in kept for name in names)
    return [name for name in every if not name.startswith("PAPERMILL_")]  # of papermill's --inject-paths


def _assigned(cell: str) -> list[str]:
    """The names a cell assigns if literal assignments are all it holds, else nothing."""
    names: list[str] = []
    try:
        statements = ast.parse(cell).body
    except (SyntaxError, ValueError):  # a magic or a shell command
        return []
    for statement in statements:
        match statement:
            case ast.Assign(targets=targets, value=value):
                pass
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                targets = [target]
            case _:
                return []
        if not _is_literal(value) or not all(isinstance(target, ast.Name) for target in targets):
            return []
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names


def _is_literal(value: ast.expr) -> bool:
    match value:
        case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value=str())], keywords=[]):
            return True  # papermill injects float('nan'), which must be refused and not overlooked
    try:
        ast.literal_eval(value)
    except (ValueError, TypeError):
        return False
    return True


def parameters_cell(cls: type[Parameters]) -> str:
    """Source of the notebook's parameters cell: a line ``name: type = default  # meaning`` for every field.

    Optional types are quoted words because papermill's help skips a line whose annotation holds a ``|``.
    """
    lines = []
    for name, field in cls.model_fields.items():
        kind, optional = _kind(field)
        word = "str" if get_origin(kind) is Literal else kind.__name__
        default = json.dumps(field.default) if isinstance(field.default, str) else repr(field.default)
        annotation = f'"{word} or None"' if optional else word
        lines.append(f"{name}: {annotation} = {default}  # {field.description}")
    return "\n".join(lines)
