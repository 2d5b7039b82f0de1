"""The collector of garbage, called while nobody waits, so that it need not come while somebody does.

A boot makes some hundred objects that refer to each other in circles, so that Python's collector would come to the host
once in a few of them, in the midst of one, and every few dozen for milliseconds.
"""

from __future__ import annotations

import gc


def collect_young() -> None:
    """Do now what the collector would do soon: look at the youngest objects, and at those that were young when it is
    their turn. Nothing where somebody has switched it off. Whether all are due only the collector itself knows, so when
    that may be, it is left to it.
    """
    (young, before, oldest), (most, most_before, most_oldest) = gc.get_count(), gc.get_threshold()
    if gc.isenabled() and 0 < most < 2 * young and oldest <= most_oldest:
        gc.collect(1 if before > most_before else 0)
