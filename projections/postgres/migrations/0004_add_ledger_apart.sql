-- Whether the costs alone do not tell what the request's row says: the first end was made by the closing of its producer, or came behind one.
ALTER TABLE ledger ADD COLUMN IF NOT EXISTS apart boolean NOT NULL DEFAULT false;

-- What the projection of corrections reads.
CREATE INDEX CONCURRENTLY IF NOT EXISTS ledger_corrections ON ledger (topic_id, log_partition, log_offset, log_idx) WHERE apart OR revision > 1;
