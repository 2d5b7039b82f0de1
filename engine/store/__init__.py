"""What is durable: every statement of the engine, as verbs that are called inside a transaction of the writer's and are
all or nothing.

A verb is a function of a `Store` and raises an `EngineError` only before it has written, so that it can fail without
harm to its neighbours in the transaction. It knows no run and no clock: what time it is, and what was decided, comes as
an argument. Beside the verbs are a `Catalogue`, which only reads, and an archive for who has the file and no engine.
"""
