-- Instances that a schedule creates: each firing once, whoever dies in between.

CREATE TABLE schedules (
    workflow INTEGER NOT NULL REFERENCES workflows,
    scope    TEXT NOT NULL,
    name     TEXT NOT NULL,               -- the expression, and its time zone if it is not UTC
    at       INTEGER NOT NULL,            -- what was to fire until then has been seen to
    PRIMARY KEY (workflow, scope, name)
) WITHOUT ROWID;

ALTER TABLE instances ADD COLUMN schedule TEXT; -- JSON list [expression, scheduled time], if one created it
