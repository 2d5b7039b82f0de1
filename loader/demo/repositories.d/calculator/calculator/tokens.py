"""From text to tokens. This module knows which characters form a token, not what they mean."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class ExpressionError(ValueError):
    """The text is not an expression; `position` says where that became clear."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(f"{message} at position {position}")
        self.position = position


class Kind(Enum):
    """What sort of word a token is."""

    NUMBER = "number"
    NAME = "name"
    SYMBOL = "symbol"
    END = "end"


@dataclass(frozen=True, slots=True)
class Token:
    """One word of an expression and where it begins."""

    kind: Kind
    text: str
    position: int


_SPACE = re.compile(r"\s*")
_WORDS = [
    (Kind.NUMBER, re.compile(r"\d+(\.\d+)?|\.\d+", re.ASCII)),
    (Kind.NAME, re.compile(r"[a-zA-Z_]\w*", re.ASCII)),
    (Kind.SYMBOL, re.compile(r"[-+*/^()]")),
]


def tokenize(text: str) -> Iterator[Token]:
    """Yield the tokens of `text`, and at last one of kind END."""
    position = _skip_space(text, 0)
    while position < len(text):
        token = _read(text, position)
        yield token
        position = _skip_space(text, position + len(token.text))
    yield Token(Kind.END, "", position)


def _read(text: str, position: int) -> Token:
    for kind, pattern in _WORDS:
        if found := pattern.match(text, position):
            return Token(kind, found.group(), position)
    raise ExpressionError(f"unexpected character {text[position]!r}", position)


def _skip_space(text: str, position: int) -> int:
    space = _SPACE.match(text, position)
    return space.end() if space else position
