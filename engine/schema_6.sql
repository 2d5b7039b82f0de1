-- The queue is one for each scope, so that whoever has much in it does not stand in the way of whoever has little.

DROP INDEX instances_ready;
CREATE INDEX instances_ready ON instances (workflow, scope, started IS NULL, wake_at, number) WHERE status = 'queued';
