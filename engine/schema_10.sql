-- What has a label is found in all scopes, and that a step began before another one does not depend on the clock.

CREATE INDEX labels_of_all ON labels (workflow, name, value, instance);
ALTER TABLE steps ADD COLUMN began INTEGER; -- how many steps were on record when it began; NULL: from before this was known
