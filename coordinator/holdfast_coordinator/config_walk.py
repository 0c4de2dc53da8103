"""What may stand where in cluster.yml, read off the structs that it is converted to; and where in the file something stands.

Rule: the types say it all. A section that is added to the file's struct is found here without being named. It does not know what a
setting means, nor whether a value is right.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

import msgspec
import yaml

STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
"""One step of a path such as `$.nodes[2].raft`."""


@dataclass(frozen=True, slots=True)
class Field:
    """One setting. `path` is without `$` and with `[]` for any element: `nodes[].raft`. `section`: the struct that stands there."""

    path: str
    name: str
    type: Any
    default: Any
    """`msgspec.NODEFAULT`: it is required."""
    section: type[msgspec.Struct] | None


def walk(root: type[msgspec.Struct], prefix: str = "") -> Iterator[tuple[str, list[Field]]]:
    """Every section with its settings, the outermost first; its path is empty for the file itself."""
    fields = list(_fields(root, prefix))
    yield prefix, fields
    for field in fields:
        if field.section is not None:
            yield from walk(field.section, field.path)


def struct_at(root: type[msgspec.Struct], where: str) -> type[msgspec.Struct] | None:
    """The struct that stands at a path of a file, `$.nodes[2]`; None if something else does."""
    struct: type[msgspec.Struct] | None = root
    for name, _ in STEP.findall(where):
        if name and struct is not None:
            struct = next((f.section for f in _fields(struct, "") if f.name == name), None)
    return struct


def names_at(root: type[msgspec.Struct], where: str) -> list[str]:
    """The settings that may stand at a path of a file."""
    struct = struct_at(root, where)
    return [] if struct is None else list(struct.__struct_encode_fields__)


def line_of(text: str, where: str) -> int | None:
    """The line, from 1, of what a path names, or of what it would stand in if it is not there. None: the text is no YAML."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return None
    line: int | None = None
    for name, index in STEP.findall(where):
        found = _within(node, name, index)
        if found is None:
            break
        line, node = found
    return line


def _within(node: yaml.Node | None, name: str, index: str) -> tuple[int, yaml.Node] | None:
    """Where a step leads: a setting is where its name stands."""
    if name and isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == name:
                return key.start_mark.line + 1, value
    if index and isinstance(node, yaml.SequenceNode) and int(index) < len(node.value):
        element = node.value[int(index)]
        return element.start_mark.line + 1, element
    return None


def _fields(struct: type[msgspec.Struct], prefix: str) -> Iterator[Field]:
    hints = get_type_hints(struct, include_extras=True)
    for each in msgspec.structs.fields(struct):
        hint = hints[each.name]
        section, repeated = _section(hint)
        path = f"{prefix}.{each.encode_name}" if prefix else each.encode_name
        default = each.default
        if each.default_factory is not msgspec.NODEFAULT:
            default = each.default_factory()
        yield Field(path + ("[]" if repeated else ""), each.encode_name, hint, default, section)


def _section(hint: Any) -> tuple[type[msgspec.Struct] | None, bool]:
    """The struct inside a type such as `X | None`, `list[X]`, and whether there may be several."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint, False
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _section(inner[0])
    if origin in {list, tuple}:
        return _section(inner[0])[0], True
    if origin in {Union, types.UnionType}:
        for each in inner:
            found = _section(each)
            if found[0] is not None or found[1]:
                return found
    return None, False
