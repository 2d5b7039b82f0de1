"""From a value to the text a person expects: 7, 0.25, or 1/3 where no decimal ends."""

from fractions import Fraction


def to_text(value: Fraction) -> str:
    """Return `value` as a whole number, a finite decimal, or a fraction; always exact."""
    places = _decimal_places(value.denominator)
    if places is None:
        return f"{value.numerator}/{value.denominator}"
    if places == 0:
        return str(value.numerator)
    sign = "-" if value < 0 else ""
    digits = str(abs(value.numerator) * 10**places // value.denominator).zfill(places + 1)
    return f"{sign}{digits[:-places]}.{digits[-places:]}"


def _decimal_places(denominator: int) -> int | None:
    """Return how many decimals a fraction with this denominator has, None if they never end."""
    twos, rest = _count_factor(denominator, 2)
    fives, rest = _count_factor(rest, 5)
    return max(twos, fives) if rest == 1 else None


def _count_factor(number: int, factor: int) -> tuple[int, int]:
    count = 0
    while number % factor == 0:
        number //= factor
        count += 1
    return count, number
