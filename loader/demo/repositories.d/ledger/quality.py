"""The house rules of this repository, each a function from a syntax tree to complaints.

A complaint is a line number and a sentence. GATES is the list of what a push has to pass, in
order; to add a rule, write it and name it there.
"""

import ast
from collections.abc import Callable, Iterator

Complaints = Iterator[tuple[int, str]]


def no_bare_except(tree: ast.Module) -> Complaints:
    """An except clause says what it expects."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield node.lineno, "bare except"


def no_shared_defaults(tree: ast.Module) -> Complaints:
    """No call may leave something behind in a default for the next one."""
    for function in _functions(tree):
        for default in [*function.args.defaults, *function.args.kw_defaults]:
            if isinstance(default, ast.List | ast.Dict | ast.Set | ast.Call):
                yield default.lineno, f"{function.name} shares a default between calls"


def no_floats(tree: ast.Module) -> Complaints:
    """This is a ledger: money is Decimal."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            yield node.lineno, f"float literal {node.value}"
        if isinstance(node, ast.Name) and node.id == "float":
            yield node.lineno, "float"


def complete_annotations(tree: ast.Module) -> Complaints:
    """Every function says what it takes and what it returns."""
    for function in _functions(tree):
        if function.returns is None:
            yield function.lineno, f"{function.name} does not say what it returns"
        arguments = function.args
        for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
            if argument.annotation is None and argument.arg not in ("self", "cls"):
                yield argument.lineno, f"{function.name} does not say what {argument.arg} is"


def consistent_returns(tree: ast.Module) -> Complaints:
    """A function returns a value everywhere or nowhere, and a value if and only if it says so."""
    for function in _functions(tree):
        returns = [node for node in _own_nodes(function) if isinstance(node, ast.Return)]
        values = [node for node in returns if node.value is not None]
        if 0 < len(values) < len(returns):
            yield function.lineno, f"{function.name} returns a value only sometimes"
        if values and _is_none(function.returns):
            yield values[0].lineno, f"{function.name} returns a value and says it does not"


GATES: dict[str, list[Callable[[ast.Module], Complaints]]] = {
    "lint": [no_bare_except, no_shared_defaults, no_floats],
    "types": [complete_annotations, consistent_returns],
}


def complaints_about(path: str, source: str, gate: str) -> list[str]:
    """Return what the rules of one gate have to say about one file, by line."""
    tree = ast.parse(source, path)
    found = sorted(complaint for rule in GATES[gate] for complaint in rule(tree))
    return [f"{path}:{line}: {sentence}" for line, sentence in found]


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a function's body without those of functions inside it."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _own_nodes(child)


def _is_none(annotation: ast.expr | None) -> bool:
    return isinstance(annotation, ast.Constant) and annotation.value is None
