-- Results in pieces, steps taken back, recorded values, children that a parent awaits, and what an operator changed.

CREATE TABLE steps_3 (
    instance INTEGER NOT NULL REFERENCES instances,
    kind     TEXT NOT NULL CHECK (kind IN ('do', 'sleep', 'wait', 'value', 'child', 'undo')),
    name     TEXT NOT NULL,
    count    INTEGER NOT NULL,
    position INTEGER NOT NULL,            -- order of first record within the instance
    state    TEXT NOT NULL CHECK (state IN ('done', 'failed', 'retrying', 'waiting')),
    attempts INTEGER NOT NULL,
    due      INTEGER,
    type     TEXT,                        -- of the event that a wait waits for
    value    BLOB,                        -- the result; of a retrying step, what its last heartbeat said
    error    TEXT,
    config   TEXT,
    started  INTEGER,
    ended    INTEGER,
    finished INTEGER,                     -- order of the outcomes, in which a replay hands them out again
    within   TEXT,                        -- "attempt count name" of the step around it, for whoever replays to read
    size     INTEGER,                     -- of a result in chunks: how many bytes they have together
    PRIMARY KEY (instance, kind, name, count)
) WITHOUT ROWID;
INSERT INTO steps_3 SELECT instance, kind, name, count, position, state, attempts, due, type, value, error, config,
                           started, ended, finished, within, NULL FROM steps;
DROP TABLE steps;
ALTER TABLE steps_3 RENAME TO steps;
CREATE INDEX steps_awaiting ON steps (instance, type, position) WHERE kind = 'wait' AND state = 'waiting';

CREATE TABLE chunks (                     -- of a step's result that is a stream of bytes
    instance INTEGER NOT NULL REFERENCES instances,
    name     TEXT NOT NULL,
    count    INTEGER NOT NULL,
    number   INTEGER NOT NULL,
    data     BLOB NOT NULL,
    UNIQUE (instance, name, count, number)
);
CREATE TRIGGER steps_gone AFTER DELETE ON steps WHEN old.kind = 'do' BEGIN
    DELETE FROM chunks WHERE instance = old.instance AND name = old.name AND count = old.count;
END;
CREATE TRIGGER instances_gone AFTER DELETE ON instances BEGIN
    DELETE FROM chunks WHERE instance = old.number;
    DELETE FROM interventions WHERE instance = old.number;
END;

ALTER TABLE instances ADD COLUMN claims INTEGER NOT NULL DEFAULT 0; -- how often it was given to a host to run
ALTER TABLE instances ADD COLUMN undoing TEXT;  -- the error that its steps are taken back for
ALTER TABLE instances ADD COLUMN undone TEXT;   -- how that ended: 'complete', or in words why it did not
ALTER TABLE instances ADD COLUMN parent INTEGER; -- the instance that awaits this one, and in which step
ALTER TABLE instances ADD COLUMN awaited TEXT;  -- "count name"
CREATE INDEX instances_children ON instances (parent) WHERE parent IS NOT NULL;

CREATE TABLE interventions (              -- what somebody changed by hand, for whoever asks later
    number   INTEGER PRIMARY KEY AUTOINCREMENT,
    instance INTEGER NOT NULL REFERENCES instances,
    at       INTEGER NOT NULL,
    author   TEXT NOT NULL,
    reason   TEXT NOT NULL,
    kind     TEXT NOT NULL,
    name     TEXT NOT NULL,
    count    INTEGER NOT NULL,
    value    BLOB,                        -- what was recorded before
    error    TEXT
);
CREATE INDEX interventions_of ON interventions (instance, number);
