-- Every outcome of every reservation: the first end is revision 1, each correction the next one. Rows are never changed.
CREATE TABLE IF NOT EXISTS ledger (
    workspace      text NOT NULL,
    reservation_id text NOT NULL,
    revision       integer NOT NULL,
    request_id     text NOT NULL,
    attempt        integer NOT NULL,
    key_id         text NOT NULL,
    route          text NOT NULL,
    provider       text NOT NULL,
    model          text NOT NULL,
    endpoint       text NOT NULL,
    -- 'settled', 'voided' or 'expired'.
    kind           text NOT NULL,
    -- Nano-USD, absolute; null: the model has no price.
    cost_nano      bigint,
    -- What this row adds to the sum: its cost less the cost of the revision before it. The sum over all rows is what was spent.
    delta_nano     bigint NOT NULL,
    bound_nano     bigint,
    estimated      boolean NOT NULL,
    usage          jsonb NOT NULL,
    price_version  text NOT NULL,
    policy_version bigint NOT NULL,
    -- [{"budget_id","budget_generation","balance","period_start","amount_nano"}]
    holds          jsonb NOT NULL,
    -- Why a revision above 1 was made; empty for a first end.
    reason         text NOT NULL,
    opened_at      timestamptz NOT NULL,
    occurred_at    timestamptz NOT NULL,
    producer_id    text NOT NULL,
    -- Where in the log the row comes from.
    topic_id       uuid NOT NULL,
    log_partition  integer NOT NULL,
    log_offset     bigint NOT NULL,
    log_idx        integer NOT NULL,
    PRIMARY KEY (workspace, reservation_id, revision)
);

CREATE INDEX IF NOT EXISTS ledger_by_request ON ledger (workspace, request_id);
CREATE INDEX IF NOT EXISTS ledger_by_time ON ledger (workspace, opened_at);
