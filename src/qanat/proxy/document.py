"""A YAML document that remembers its line numbers, and the words of the reference proxy for what is wrong with it.

Operators search for these sentences, so a wrong type reads as Go's yaml package would say it:
`yaml: unmarshal errors:` and `line 4: cannot unmarshal !!seq into map[string]string`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from qanat.config import MAX_FILE_SIZE
from qanat.errors import ConfigInvalid

Where = tuple[str | int, ...]
_STANDARD_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map")}
_MAX_NODES = 100_000
"""Enough for any real file; stops aliases of aliases from growing without end."""
_NO_TEXT = re.compile(r"[\0\ud800-\udfff]")
"""What escapes can write, but no path, address, log or answer can hold."""

_GO_TYPES = {
    "string_type": "string",
    "bool_type": "bool",
    "int_type": "int",
    "int_parsing": "int",
    "float_type": "float64",
    "list_type": "[]string",
    "tuple_type": "[]string",
    "dict_type": "map[string]string",
    "model_type": "map[string]interface {}",
}


class Document:
    """The values of a YAML file, and where each one stands."""

    def __init__(self, text: bytes, name: str) -> None:
        """Raises `ConfigInvalid`: not UTF-8, several documents, tags of its own, repeated keys."""
        self._nodes: dict[Where, yaml.Node] = {}
        self._name = name
        self._count = 0
        try:
            node = yaml.compose(text.decode("utf-8"), yaml.SafeLoader)
            self.data = {} if node is None else self._value(node, ())
        except UnicodeDecodeError as error:
            raise ConfigInvalid([f"{name}: not UTF-8"]) from error
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ConfigInvalid([f"yaml: line {line}: {error.problem or error.context}"]) from error
        except (yaml.YAMLError, RecursionError) as error:
            raise ConfigInvalid([f"{name}: {str(error).splitlines()[0]}"]) from error

    def line(self, where: Where) -> int:
        """The line on which the value at `where`, or the nearest one around it, stands."""
        while where not in self._nodes:
            where = where[:-1]
        return int(self._nodes[where].start_mark.line) + 1

    def tag(self, where: Where) -> str:
        """The short tag of the value at `where`: `!!seq`."""
        return "!!" + str(self._nodes[where].tag).rpartition(":")[2]

    def scalar(self, where: Where) -> str:
        """The value at `where` as Go quotes it in its message, or nothing for a collection."""
        node = self._nodes[where]
        if not isinstance(node, yaml.ScalarNode):
            return ""
        text = node.value if len(node.value) <= 10 else f"{node.value[:7]}..."
        return f" `{text}`"

    def __contains__(self, where: object) -> bool:
        return where in self._nodes

    def _value(self, node: yaml.Node, where: Where) -> Any:
        self._count += 1
        if self._count > _MAX_NODES or len(where) > 32:
            raise yaml.YAMLError("document too deep or too large")
        if node.tag == "tag:yaml.org,2002:timestamp":
            node.tag = "tag:yaml.org,2002:str"
        if node.tag not in _STANDARD_TAGS:
            raise yaml.MarkedYAMLError(problem=f"tag {node.tag} is not allowed", problem_mark=node.start_mark)
        self._nodes[where] = node
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, where)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*where, index)) for index, item in enumerate(node.value)]
        _check_text(node)
        try:
            return yaml.SafeLoader("").construct_object(node)
        except (ValueError, LookupError) as error:
            kind = node.tag.rpartition(":")[2]
            raise yaml.MarkedYAMLError(problem=f"not a valid {kind}", problem_mark=node.start_mark) from error

    def _mapping(self, node: yaml.MappingNode, where: Where) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a scalar", problem_mark=key.start_mark)
            _check_text(key)
            name = str(key.value)  # as written: `on` and `0x10` are names here, as they are in Go
            if name in values:
                raise yaml.MarkedYAMLError(problem=f'key "{name}" already set in map', problem_mark=key.start_mark)
            values[name] = self._value(value, (*where, name))
        return values


def _check_text(node: yaml.Node) -> None:
    if _NO_TEXT.search(str(node.value)):
        raise yaml.MarkedYAMLError(problem="a zero character or half a pair is no text", problem_mark=node.start_mark)


def read_document(path: Path) -> Document:
    """The document in a file. Raises `ConfigInvalid` in the words of the operating system or the parser."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigInvalid([f"open {path}: {(error.strerror or str(error)).lower()}"]) from error
    if len(data) > MAX_FILE_SIZE:
        raise ConfigInvalid([f"{path}: larger than {MAX_FILE_SIZE} bytes"])
    return Document(data, str(path))


def explain(document: Document, model: type[BaseModel], error: ValidationError) -> list[str]:
    """What is wrong, one line each; wrong types first, under Go's heading."""
    types, others = [], []
    for problem in error.errors():
        where = tuple(part for part in problem["loc"] if not _is_branch(part))
        go_type = _GO_TYPES.get(problem["type"])
        if go_type is not None and where in document:
            found = f"{document.tag(where)}{document.scalar(where)}"
            line = f"  line {document.line(where)}: cannot unmarshal {found} into {go_type}"
            if line not in types:
                types.append(line)
        else:
            others.append(_describe(document, model, where, problem))
    return [*(["yaml: unmarshal errors:", *types] if types else []), *others]


def _is_branch(part: str | int) -> bool:
    """Pydantic puts the names of union members into the path; ours are written like `function-…` or `Type[…]`."""
    return isinstance(part, str) and (part.startswith(("function-", "union:")) or part.endswith("]"))


def _describe(document: Document, model: type[BaseModel], where: Where, problem: Any) -> str:
    name = ".".join(str(part) for part in where)
    if problem["type"] == "missing":
        return f"{name} is required"
    if problem["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(where[-1]), _field_names(model), n=1)
        hint = f' (did you mean "{close[0]}"?)' if close else ""
        return f'line {document.line(where)}: unknown field "{name}"{hint}'
    message = str(problem["msg"]).removeprefix("Value error, ")
    if message.startswith("["):
        return name + message  # an index continues the name
    return f"{name}: {message}" if name and not message.startswith(name) else message


def _field_names(model: type[BaseModel]) -> list[str]:
    """Every key the model and the models below it know."""
    names: dict[str, None] = {}
    pending: list[Any] = [model]
    seen: set[Any] = set()
    while pending:
        kind = pending.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if kind in seen:
                continue
            seen.add(kind)
            for name, field in kind.model_fields.items():
                names[name] = None
                pending.append(field.annotation)
        else:
            pending.extend(_arguments(kind))
    return list(names)


def _arguments(kind: Any) -> Iterable[Any]:
    arguments: Iterable[Any] = getattr(kind, "__args__", ())
    return arguments
