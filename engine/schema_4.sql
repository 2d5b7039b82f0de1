-- Instances have labels, an end to their time, and a way out.
--
-- What has ended is kept for as long as the instance or else its workflow says, then it may go. Whatever goes leaves
-- its number in graves at once, so that the id is free, and its other rows are taken away by and by. So no number may
-- come back: instances and outcomes are numbered from one counter, which is set ahead of what is in use.

ALTER TABLE workflows ADD COLUMN keep_success INTEGER; -- milliseconds after the end
ALTER TABLE workflows ADD COLUMN keep_error INTEGER;

ALTER TABLE instances ADD COLUMN keep_success INTEGER; -- NULL: as the workflow says
ALTER TABLE instances ADD COLUMN keep_error INTEGER;
ALTER TABLE instances ADD COLUMN expires INTEGER;      -- ended: when it may go
CREATE INDEX instances_expiring ON instances (expires) WHERE expires IS NOT NULL;
CREATE INDEX instances_of_scope ON instances (workflow, scope);
UPDATE instances SET expires = max(ended, CAST(strftime('%s', 'now') AS INTEGER) * 1000) + 7 * 86400000
    WHERE ended IS NOT NULL;

CREATE TABLE labels (
    workflow INTEGER NOT NULL REFERENCES workflows,
    scope    TEXT NOT NULL,
    name     TEXT NOT NULL,
    value    TEXT NOT NULL,
    instance INTEGER NOT NULL REFERENCES instances,
    PRIMARY KEY (workflow, scope, name, value, instance)
) WITHOUT ROWID;
CREATE INDEX labels_of_instance ON labels (instance);

DROP TRIGGER instances_gone;              -- all rows of an instance go by and by
CREATE TABLE graves (
    instance INTEGER PRIMARY KEY
);

CREATE TABLE counter (
    value INTEGER NOT NULL                -- no number above it is in use
);
INSERT INTO counter SELECT max(coalesce((SELECT max(number) FROM instances), 0),
                               coalesce((SELECT max(finished) FROM steps), 0));
