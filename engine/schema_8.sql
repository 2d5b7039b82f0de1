-- Schedules that were added while a host ran, and stay until somebody takes them away.

ALTER TABLE schedules ADD COLUMN definition BLOB; -- what its instances are created with; NULL: it is given with the workflow
