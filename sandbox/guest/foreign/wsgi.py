"""`wsgi`: the same as `workers.wsgi`."""

import importlib
import sys

sys.modules[__name__] = importlib.import_module("workers.wsgi")
