"""Read YAML as configurations mean it: YAML 1.2's plain values, and no key twice.

PyYAML speaks YAML 1.1, in which `0_255` is the number 173 (octal), `no` is false, `12:30` is 750 and `1e-3` is text;
and of a key that stands there twice it keeps the second in silence.
"""

import re
from typing import Any

import yaml

from transforms.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """A SafeLoader with the core schema of YAML 1.2."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value} stands here twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_FLOAT = r"""[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9]+[eE][-+]?[0-9]+
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN)"""
# Tag, what a plain value of it looks like, and what it can begin with.
_PLAIN_VALUES = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
)
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _PLAIN_VALUES:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$", re.VERBOSE), _first)


def parse_yaml(text: str, source: str) -> Any:
    """Return the value of a YAML text.

    Args:
        text: One document.
        source: What the message calls it.

    Raises:
        ConfigError: It is not valid; the place is named.

    >>> parse_yaml("{range: 0_255, flag: no, rate: 1e-3}", "example")
    {'range': '0_255', 'flag': 'no', 'rate': 0.001}
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506  a SafeLoader with other resolvers
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{source}{where} is not valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a number with too many digits
        raise ConfigError(f"{source} is not valid YAML: {str(error).splitlines()[0]}") from error
