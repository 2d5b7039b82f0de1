"""What a child exits with that ends for a reason of ours. A tenant can exit with any of these too: nothing follows."""

from typing import Final

NOT_CONFINED: Final = 70
"""It could not be confined."""
CUT_OFF: Final = 71
"""Its connection has ended."""
OUT_OF_MEMORY: Final = 72
"""It has no memory left for an answer."""
