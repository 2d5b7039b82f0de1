"""Functions of the host's as tools that a tenant's code, or a model that writes it, can look up and call: after MCP.

Schemas come from the functions' own type hints, and what does not fit them is told before anything is called.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from cloister.ipc import RpcTarget


class Tool(NamedTuple):
    """One function, and what it takes."""

    name: str
    description: str
    function: Callable[..., Any]
    arguments: type[msgspec.Struct]
    schema: dict[str, Any]


class Tools(RpcTarget):
    """`env={"TOOLS": Tools([find_order, refund])}`: `list()` says which there are and what they take, `call(name,
    arguments)` calls one. Parameters have type hints; a docstring's first paragraph is the description.

    `bound` are arguments that the tenant neither sees nor chooses: `Tools([refund], bound={"account": "t-42"})`.
    """

    def __init__(self, functions: Iterable[Callable[..., Any]], *, bound: Mapping[str, Any] | None = None) -> None:
        self._bound = dict(bound or {})
        made = [_tool(function, self._bound) for function in functions]
        self._tools = {tool.name: tool for tool in made}
        if len(self._tools) != len(made):
            raise ValueError("two tools have the same name")
        taken = {name for tool in made for name in inspect.signature(tool.function).parameters}
        if unknown := self._bound.keys() - taken:
            raise ValueError(f"no tool takes {', '.join(sorted(unknown))}, which is bound; is it misspelt?")

    def list(self) -> dict[str, Any]:
        """`{tools: [{name, description, inputSchema}]}`, as `tools/list` of MCP gives them."""
        return {
            "tools": [
                {"name": tool.name, "description": tool.description, "inputSchema": tool.schema}
                for tool in self._tools.values()
            ]
        }

    async def call(self, name: object, arguments: object = None, /, **more: object) -> Any:
        """Call one with named arguments. `ValueError` if there is no such tool, `TypeError` where they do not fit."""
        tool = self._tools.get(name) if isinstance(name, str) else None
        if tool is None:
            raise ValueError(f"there is no tool {name!r:.80}; there are {', '.join(self._tools) or 'none'}")
        if arguments is not None and not isinstance(arguments, Mapping):
            raise TypeError(f"{tool.name}: arguments are a map of names to values")
        try:
            read = msgspec.convert({**(arguments or {}), **more}, tool.arguments)
        except msgspec.ValidationError as error:
            raise TypeError(f"{tool.name}: {error}") from error
        given = {field: getattr(read, field) for field in tool.arguments.__struct_fields__}
        wanted = {
            key: value for key, value in self._bound.items() if key in inspect.signature(tool.function).parameters
        }
        result = tool.function(**wanted, **given)
        return msgspec.to_builtins(await result if inspect.isawaitable(result) else result, builtin_types=(bytes,))


def _tool(function: Callable[..., Any], bound: Mapping[str, Any]) -> Tool:
    name = function.__name__
    hints = typing.get_type_hints(function, include_extras=True)
    fields: list[Any] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in bound:
            continue
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise TypeError(f"the tool {name!r} takes {parameter}; its parameters must have names of their own")
        if parameter.name not in hints:
            raise TypeError(f"the tool {name!r} needs a type hint for its parameter {parameter.name!r}")
        default = () if parameter.default is parameter.empty else (parameter.default,)
        fields.append((parameter.name, hints[parameter.name], *default))
    arguments = msgspec.defstruct(name, fields, forbid_unknown_fields=True, kw_only=True)
    _, parts = msgspec.json.schema_components([arguments], ref_template="#/$defs/{name}")
    top = parts.pop(name)
    top.pop("title", None)
    description = inspect.cleandoc(function.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
    return Tool(name, description, function, arguments, {**top, **({"$defs": parts} if parts else {})})
