"""docs/configuration.md, made from the settings themselves: a key without documentation cannot exist.

Renew it with `score-images config --docs > docs/configuration.md`; a test holds the file to this text.
"""

import json
from typing import Any

from pipeline.config import RunConfig

_HEAD = """\
# Configuration

<!-- Made by `score-images config --docs > docs/configuration.md` from the settings in the code: do not edit. -->

A run is configured by one YAML file, `score-images run --config FILE`. Only `model.path` and
`preprocess.value_range` are required:

```yaml
model:
  path: models/flowers        # a SavedModel beside the configuration
preprocess:
  value_range: 0_1
```

- `score-images config --check FILE` says whether a file is valid, `--schema` prints its JSON Schema for editors.
- A key that does not exist is an error that names the nearest one; so is a key that stands there twice.
- `${NAME}` in a text is the environment variable NAME; one that is not set is an error. The value of one whose name
  says secret, password, token, key or credential is left out of manifests (not of the name of a model whose path ends
  in it: give `model.name`).
- Relative paths start at the folder of the file; those that begin with a variable, or come from `--set`, at the
  working directory. `~` is the home directory.
- `--set KEY=VALUE` overrides one setting for one run: `--set limits.max_failure_rate=0.01`, several times if need
  be. The value is YAML: `--set preprocess.mean=[127,127,127]`; nothing behind the `=` leaves an optional setting out.
- The file is YAML 1.2: `0_255`, `no` and `2026-11-22` are texts, `true` and `false` the only booleans.
"""


def configuration_markdown() -> str:
    """Return the text of docs/configuration.md."""
    schema = RunConfig.model_json_schema()
    parts = [_HEAD]
    for section, reference in schema["properties"].items():
        definition = schema["$defs"][_definition(reference)]
        required = definition.get("required", ())
        rows = [_row(name, field, name in required) for name, field in definition["properties"].items()]
        table = ["| setting | value | default | meaning |", "|---|---|---|---|", *rows]
        parts.append("\n".join([f"\n## {section}\n", f"{_cell(definition['description'])}\n", *table]) + "\n")
    return "".join(parts)


def _definition(reference: dict[str, Any]) -> str:
    """Return the name of a section's definition; one that may be left out is one of a union with null."""
    found = next((member for member in reference.get("anyOf", ()) if "$ref" in member), reference)
    return str(found["$ref"].rpartition("/")[2])


def _row(name: str, field: dict[str, Any], required: bool) -> str:
    default = "required" if required else _default(name, field["default"])
    return f"| `{name}` | {_values(field)} | {default} | {_cell(field['description'])} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _values(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return "section"
    if "anyOf" in field:
        return " or ".join(_values(member) for member in field["anyOf"] if member.get("type") != "null")
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field["type"] == "array":
        count = f"{field['minItems']} " if field.get("minItems") == field.get("maxItems", -1) else ""
        return f"list of {count}{_plural(field.get('items') or field['prefixItems'][0])}"
    if field["type"] == "object":
        return f"mapping to {_plural(field['additionalProperties'])}"
    names = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`", "string": "text"}
    return names[field["type"]] + _range(field)


def _plural(entry: dict[str, Any]) -> str:
    return {"integer": "whole numbers", "number": "numbers", "string": "texts"}[entry["type"]] + _range(entry)


def _range(field: dict[str, Any]) -> str:
    low, high = field.get("minimum"), field.get("maximum")
    if low is not None and high is not None:
        return f", {low:,} to {high:,}"
    if low is not None:
        return f", at least {low:,}"
    return f", over {field['exclusiveMinimum']:g}" if "exclusiveMinimum" in field else ""


_UNITS = {"GiB": 1024**3, "MiB": 1024**2, "KiB": 1024}


def _default(name: str, value: Any) -> str:
    if value is None:
        return "left out"
    if isinstance(value, str):
        return f"`{value}`"
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`"
    unit = next((unit for unit, size in _UNITS.items() if "bytes" in name and value % size == 0), None)
    return f"`{json.dumps(value)}`" + (f" ({value // _UNITS[unit]} {unit})" if unit else "")
