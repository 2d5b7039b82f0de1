"""`asgi`: the same as `workers.asgi`."""

import importlib
import sys

sys.modules[__name__] = importlib.import_module("workers.asgi")
