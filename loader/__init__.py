"""The front door: tenants' code, who is warm, and which instance runs whose code.

Re-exports what a host needs of the layers below, so that one import line serves.
"""

from cloister.engine import (
    Engine,
    EngineClosed,
    EngineError,
    EngineLocked,
    InstanceAlreadyExists,
    InstanceFailed,
    InstanceFinished,
    InstanceNotFound,
    NonDeterminismError,
    Rehearsal,
    RunInterrupted,
    RunPostponed,
    Schedule,
    WorkflowLimits,
    current_attempt,
)
from cloister.ipc import CapabilityError, Grant, IpcError, RpcTarget, expiring, revocable
from cloister.sandbox import (
    LayerMissing,
    LimitExceeded,
    Limits,
    Policy,
    SandboxDied,
    SandboxError,
    SandboxUnavailable,
    SandboxUnused,
)

from .audit import CapabilityCall
from .binding import DynamicWorkflowBinding, wrap_schedule, wrap_workflow_binding
from .blocking import BlockingHost
from .bundle.errors import CannotBundle
from .code import Data, Json, Text, WorkerCode
from .config import LoaderConfig
from .dispatch import (
    DispatchContext,
    WorkflowRunner,
    create_dynamic_workflow_entrypoint,
    dispatch_workflow,
)
from .entrypoint import Entrypoint, WorkerStub
from .errors import (
    CodeError,
    EntrypointNotFound,
    InvalidCode,
    LoadBackedOff,
    LoaderClosed,
    LoaderError,
    LoadFailed,
    MissingDispatcherMetadataError,
    NoCapacity,
    RestartBackedOff,
    ShardFailed,
    ShardLost,
    TenantError,
    TenantThrottled,
    VersionChanged,
)
from .events import LoaderEvent, LoaderStatistics
from .host import Host
from .instance import DynamicInstance
from .loader import Loader
from .quota import Quota
from .shards import Shard, Shards
from .tails import TailEvent, TailLine, TailStart

__all__ = [
    "revocable",
    "expiring",
    "Grant",
    "BlockingHost",
    "CannotBundle",
    "CapabilityCall",
    "CapabilityError",
    "CodeError",
    "Data",
    "DispatchContext",
    "DynamicInstance",
    "DynamicWorkflowBinding",
    "Engine",
    "EngineClosed",
    "EngineError",
    "EngineLocked",
    "Entrypoint",
    "EntrypointNotFound",
    "Host",
    "InstanceAlreadyExists",
    "InstanceFailed",
    "InstanceFinished",
    "InstanceNotFound",
    "InvalidCode",
    "IpcError",
    "Json",
    "LayerMissing",
    "LimitExceeded",
    "Limits",
    "LoadBackedOff",
    "LoadFailed",
    "Loader",
    "LoaderClosed",
    "LoaderConfig",
    "LoaderError",
    "LoaderEvent",
    "LoaderStatistics",
    "MissingDispatcherMetadataError",
    "NoCapacity",
    "NonDeterminismError",
    "Rehearsal",
    "Policy",
    "Quota",
    "RestartBackedOff",
    "RpcTarget",
    "RunInterrupted",
    "RunPostponed",
    "SandboxDied",
    "SandboxError",
    "SandboxUnavailable",
    "SandboxUnused",
    "Schedule",
    "Shard",
    "ShardFailed",
    "ShardLost",
    "Shards",
    "TailEvent",
    "TailLine",
    "TailStart",
    "TenantError",
    "TenantThrottled",
    "Text",
    "VersionChanged",
    "WorkerCode",
    "WorkerStub",
    "WorkflowLimits",
    "WorkflowRunner",
    "create_dynamic_workflow_entrypoint",
    "dispatch_workflow",
    "wrap_schedule",
    "wrap_workflow_binding",
    "current_attempt",
]
