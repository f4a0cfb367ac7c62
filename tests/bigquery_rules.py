"""BigQuery's rules for Parquet, as its documentation of loading Parquet from Cloud Storage has them.

Its service cannot be asked here. What it makes of a file follows from the schema in the file's footer: types by a
table of conversions, names by the rules for columns, lists by the three levels of the Parquet format with list
inference.
"""

import re
from typing import NamedTuple

import pyarrow.parquet as pq

_TYPES = {
    ("INT32", "None"): "INT64",
    ("INT64", "None"): "INT64",
    ("FLOAT", "None"): "FLOAT64",
    ("DOUBLE", "None"): "FLOAT64",
    ("BOOLEAN", "None"): "BOOL",
    ("BINARY", "String"): "STRING",
    ("INT64", "Timestamp"): "TIMESTAMP",
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,299}")
_RESERVED_PREFIXES = ("_table_", "_file_", "_partition", "_row_timestamp", "__root__", "_colidentifier")
_CODECS = {"SNAPPY", "GZIP", "ZSTD", "LZ4", "UNCOMPRESSED"}
_NODE = re.compile(
    r"(?P<indent> *)(?P<repetition>required|optional|repeated) (?P<physical>\w+) field_id=-1 (?P<name>.+?)"
    r"(?: \((?P<logical>\w+)(?P<detail>.*)\))?(?:;| \{)"
)


class Node(NamedTuple):
    """One line of a Parquet schema."""

    name: str
    repetition: str
    physical: str
    """group, or a physical type."""
    logical: str
    detail: str
    """Of the logical type: the unit of a timestamp."""
    children: "list[Node]"


def parquet_tree(file: pq.ParquetFile) -> list[Node]:
    """Read the schema of a file, which pyarrow tells whole as text only."""
    root: list[Node] = []
    stack: list[tuple[int, list[Node]]] = [(0, root)]
    for line in str(file.schema).splitlines():
        found = _NODE.fullmatch(line)
        if found is None or not found["indent"]:
            continue
        depth = len(found["indent"])
        physical = found["physical"]
        node = Node(
            found["name"],
            found["repetition"],
            physical if physical == "group" else physical.upper(),
            found["logical"] or "None",
            found["detail"] or "",
            [],
        )
        while stack[-1][0] >= depth:
            stack.pop()
        stack[-1][1].append(node)
        stack.append((depth, node.children))
    return root


def columns(file: pq.ParquetFile) -> dict[str, str]:
    """Return the columns that BigQuery makes of a file with list inference, as its DDL writes them.

    Raises:
        ValueError: A rule is broken; the message says which.
    """
    for group in range(file.metadata.num_row_groups):
        for leaf in range(file.metadata.num_columns):
            codec = file.metadata.row_group(group).column(leaf).compression
            if codec not in _CODECS:
                raise ValueError(f"codec {codec} is not read")
    return {node.name: _column(node) for node in parquet_tree(file)}


def _column(node: Node) -> str:
    if _NAME.fullmatch(node.name) is None or node.name.lower().startswith(_RESERVED_PREFIXES):
        raise ValueError(f"{node.name} is no name of a column")
    if node.logical == "List":
        return f"ARRAY<{_element(node)}>"
    mode = " NOT NULL" if node.repetition == "required" else ""
    return _type(node) + mode


def _element(node: Node) -> str:
    # The three levels: <list-repetition> group <name> (LIST) { repeated group list { <element> element; } }
    if len(node.children) != 1 or (node.children[0].name, node.children[0].repetition) != ("list", "repeated"):
        raise ValueError(f"{node.name} is no list of three levels")
    if [child.name for child in node.children[0].children] != ["element"]:
        raise ValueError(f"{node.name} has no list.element")
    element = node.children[0].children[0]
    if element.logical == "List":
        raise ValueError(f"{node.name} is a list of lists, and there are no arrays of arrays")
    return _type(element)


def _type(node: Node) -> str:
    if node.physical == "group":
        return f"STRUCT<{', '.join(f'{child.name} {_column(child)}' for child in node.children)}>"
    if node.repetition == "repeated":
        raise ValueError(f"{node.name} repeats outside of a list")
    if node.logical == "Timestamp" and not re.search(r"timeUnit=(milliseconds|microseconds)", node.detail):
        raise ValueError(f"{node.name} is a timestamp{node.detail}: only milliseconds and microseconds are TIMESTAMP")
    try:
        return _TYPES[node.physical, node.logical]
    except KeyError:
        raise ValueError(f"{node.name} is {node.physical} ({node.logical}), which is not converted") from None
