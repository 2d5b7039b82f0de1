from . import DurableObjectState as DurableObjectContext
from . import Env as _EnvWrapper

__all__ = ["DurableObjectContext", "_EnvWrapper"]
