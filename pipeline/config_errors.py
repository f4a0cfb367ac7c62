"""What is wrong with a configuration, in one line a problem: key, what is allowed, what was given, the way out."""

import difflib
from collections.abc import Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

# What a value must be, by pydantic's type of error; {names} are the error's own context.
_MUST_BE = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a mapping: indented lines of key: value",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "over {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "int_type": "a whole number",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "model_type": "a section: indented lines of key: value",
    "string_too_short": "a text that is not empty",
    "string_type": "text",
    "too_long": "a list of at most {max_length}",
    "too_short": "a list of at least {min_length}",
    "tuple_type": "a list",
}


def explain(error: ValidationError, source: str, model: type[BaseModel]) -> str:
    """Say in one line a problem what is wrong with a configuration.

    Args:
        error: From model.
        source: What the message calls the configuration.
        model: What it was validated as.
    """
    # A value that fits none of several types has one error a type: they are one problem.
    by_key: dict[str, list[ErrorDetails]] = {}
    for problem in error.errors():
        by_key.setdefault(_key(model, problem["loc"]), []).append(problem)
    lines = [_line(model, key, problems) for key, problems in by_key.items()]
    if len(lines) == 1:
        return f"config {source}: {lines[0]}"
    return "\n  ".join([f"config {source} has {len(lines)} problems:", *lines])


def _line(model: type[BaseModel], key: str, problems: Sequence[ErrorDetails]) -> str:
    first = problems[0]
    names = [part for part in first["loc"] if isinstance(part, str)]
    kind, value = first["type"], first["input"]
    if kind == "extra_forbidden":
        return f"{key} is not a setting{_nearest(model, names)}"
    if kind == "invalid_key":
        return f"{key} is not a setting: keys are words"
    if kind == "missing":
        return f"{key} is missing{_description(model, names)}"
    if kind == "value_error":
        return f"{key}: {first['ctx']['error']}"
    allowed = " or ".join(dict.fromkeys(_must_be(problem, key) for problem in problems))
    quotes = "; put it in quotes" if kind == "string_type" and isinstance(value, int | float) else ""
    return f"{key} must be {allowed}, got {value!r:.80}{quotes}"


def _must_be(problem: ErrorDetails, key: str) -> str:
    pattern = _MUST_BE.get(problem["type"])
    limits = {
        name: f"{limit:g}" if isinstance(limit, float) else limit for name, limit in problem.get("ctx", {}).items()
    }
    text = pattern.format(**limits) if pattern else f"valid ({problem['msg']})"
    entry = problem["loc"][-1]
    # Within a union the key does not name the entry of a list.
    return f"a list, each entry {text}" if isinstance(entry, int) and not key.endswith(f"[{entry}]") else text


def _key(model: type[BaseModel], location: Sequence[str | int]) -> str:
    """Return section.field, with [i] for an entry of a list and .key for one of a mapping.

    What pydantic adds for the members of a union is left out: it means nothing to a reader of the file.
    """
    key = ""
    section: type[BaseModel] | None = model
    in_mapping = in_union = False
    for part in location:
        if section is not None or in_mapping:
            key = f"{key}.{part}" if key else str(part)
            in_mapping = section is not None and _is_mapping(section, part)
            section = _section_of(section, part) if section is not None else None
        elif isinstance(part, str):
            in_union = True
        elif not in_union:
            key += f"[{part}]"
    return key


def _section_of(model: type[BaseModel], name: str | int) -> type[BaseModel] | None:
    field = model.model_fields.get(str(name))
    kind: Any = field.annotation if field else None
    # A section that may be left out is one of a union with None.
    kinds = [kind, *(get_args(kind) if get_origin(kind) in (Union, UnionType) else ())]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _is_mapping(model: type[BaseModel], name: str | int) -> bool:
    field = model.model_fields.get(str(name))
    return field is not None and get_origin(field.annotation) is dict


def _section(model: type[BaseModel], location: Sequence[str]) -> type[BaseModel] | None:
    section: type[BaseModel] | None = model
    for name in location:
        section = _section_of(section, name) if section else None
    return section


def _nearest(model: type[BaseModel], location: Sequence[str]) -> str:
    section = _section(model, location[:-1])
    if section is None:
        return ""
    name, here = location[-1], list(section.model_fields)
    elsewhere = [
        f"{other}.{name}"
        for other in model.model_fields
        if name in getattr(_section_of(model, other), "model_fields", {})
    ]
    close = elsewhere[:1] or difflib.get_close_matches(name, here, n=1, cutoff=0.6)
    allowed = f"allowed here: {', '.join(here)}"
    return f"; did you mean {close[0]}? ({allowed})" if close else f"; {allowed}"


def _description(model: type[BaseModel], location: Sequence[str]) -> str:
    section = _section(model, location[:-1])
    field = section.model_fields.get(location[-1]) if section else None
    return f": {' '.join(field.description.split())}" if field and field.description else ""
