"""`cloudflare.workers`: the same as `workers`."""

import importlib
import sys

sys.modules[__name__] = importlib.import_module("workers")
