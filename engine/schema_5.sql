-- What happened to an instance besides the outcomes of its steps, so that its history can be told from any point on.
--
-- Rows here and outcomes in steps are numbered by one counter, which is the order of telling. What follows from other
-- rows (that it was created, the outcome of a step) is not repeated here.

CREATE TABLE changes (
    instance INTEGER NOT NULL REFERENCES instances,
    number   INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    type     TEXT NOT NULL,               -- a status, or 'attempt', 'sleep', 'wait': one that failed, two that began
    name     TEXT,
    count    INTEGER,
    attempt  INTEGER,
    due      INTEGER,                     -- of a retry, a sleep or a wait
    error    TEXT,
    PRIMARY KEY (instance, number)
) WITHOUT ROWID;
CREATE INDEX steps_finished ON steps (instance, finished) WHERE finished IS NOT NULL;
