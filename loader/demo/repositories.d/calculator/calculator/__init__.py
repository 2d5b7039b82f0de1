"""An exact calculator: text in, fraction out, so that 0.1 + 0.2 is 3/10."""

from .evaluator import CalculationError, evaluate
from .formatting import to_text
from .parser import parse
from .tokens import ExpressionError

__version__ = "0.3.0"
__all__ = ["CalculationError", "ExpressionError", "evaluate", "parse", "to_text"]
