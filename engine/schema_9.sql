-- Code that nobody needs is looked for by the instances that might wake up on it, a little at a time.

CREATE INDEX instances_code ON instances (code) WHERE code IS NOT NULL AND ended IS NULL;
