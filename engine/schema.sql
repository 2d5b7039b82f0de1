-- The life of an instance, told by its tables.
--
-- A workflow is a registered class, known here by its name. An instance of it is one row, found by (workflow, scope, id)
-- and elsewhere called by its number. It is queued, claimed (running), and from time to time only waits: then the run is
-- dropped and the row keeps the moment to wake at. It ends complete, errored or terminated, with an output or an error.
--
-- What its run did is in steps: one row for each step, sleep and wait, with its outcome when it has one. A row is
-- rewritten only while it is retrying or waiting. Replay reads these rows; nothing else tells what happened.
--
-- An event that nobody waits for yet stays in events, oldest number first. One that somebody waits for goes straight into
-- the row of the wait. Event ids remember which ones were taken, so that a repeated send is ignored.
--
-- Times are wall time in milliseconds. Payloads are encoded values that nothing here looks into. Errors are JSON lists
-- [name, message, trace]; a step's configuration is a JSON list [limit, delay, backoff, timeout], NULL for the defaults.

CREATE TABLE workflows (
    number INTEGER PRIMARY KEY,
    name   TEXT NOT NULL UNIQUE
);

CREATE TABLE codes (                      -- what sleeping instances wake up on; one row per distinct code
    number INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    code   BLOB NOT NULL
);

CREATE TABLE instances (
    number    INTEGER PRIMARY KEY,
    workflow  INTEGER NOT NULL REFERENCES workflows,
    scope     TEXT NOT NULL,
    id        TEXT NOT NULL,
    status    TEXT NOT NULL CHECK (status IN ('queued', 'running', 'waiting', 'waitingForPause', 'paused',
                                              'complete', 'errored', 'terminated')),
    run       INTEGER NOT NULL DEFAULT 1,
    params    BLOB NOT NULL,
    created   INTEGER NOT NULL,
    started   INTEGER,
    ended     INTEGER,
    wake_at   INTEGER,                    -- waiting: the deadline; queued: since when it could run again
    paused_at INTEGER,
    code      INTEGER REFERENCES codes,
    losses    INTEGER NOT NULL DEFAULT 0, -- runs lost with their process, in a row
    postponed INTEGER NOT NULL DEFAULT 0, -- runs that the host could not begin, in a row
    progress  INTEGER NOT NULL DEFAULT 0, -- how much was recorded when the current run was claimed
    output    BLOB,
    error     TEXT,
    UNIQUE (workflow, scope, id)
);
CREATE INDEX instances_due ON instances (workflow, wake_at) WHERE status = 'waiting';
CREATE INDEX instances_ready ON instances (workflow, started IS NULL, wake_at, number) WHERE status = 'queued';
CREATE INDEX instances_claimed ON instances (workflow) WHERE status IN ('running', 'waitingForPause');

CREATE TABLE steps (
    instance INTEGER NOT NULL REFERENCES instances,
    kind     TEXT NOT NULL CHECK (kind IN ('do', 'sleep', 'wait')),
    name     TEXT NOT NULL,
    count    INTEGER NOT NULL,
    position INTEGER NOT NULL,            -- order of first record within the instance
    state    TEXT NOT NULL CHECK (state IN ('done', 'failed', 'retrying', 'waiting')),
    attempts INTEGER NOT NULL,
    due      INTEGER,
    type     TEXT,                        -- of the event that a wait waits for
    value    BLOB,
    error    TEXT,
    config   TEXT,
    started  INTEGER,
    ended    INTEGER,
    finished INTEGER,                     -- order of the outcomes, in which a replay hands them out again
    PRIMARY KEY (instance, kind, name, count)
) WITHOUT ROWID;
CREATE INDEX steps_awaiting ON steps (instance, type, position) WHERE kind = 'wait' AND state = 'waiting';

CREATE TABLE events (
    number   INTEGER PRIMARY KEY AUTOINCREMENT,
    instance INTEGER NOT NULL REFERENCES instances,
    type     TEXT NOT NULL,
    event    BLOB NOT NULL                -- the encoded map {type, payload, timestamp}
);
CREATE INDEX events_of_type ON events (instance, type, number);

CREATE TABLE event_ids (
    instance INTEGER NOT NULL REFERENCES instances,
    id       TEXT NOT NULL,
    PRIMARY KEY (instance, id)
) WITHOUT ROWID;
