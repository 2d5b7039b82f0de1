-- A step that was asked for in the body of another one, and is not asked for again once that body is not run again.

ALTER TABLE steps ADD COLUMN within TEXT; -- "attempt count name" of the step around it, for whoever replays to read
