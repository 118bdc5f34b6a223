-- Sums of costs and open reservations.
CREATE TABLE IF NOT EXISTS balances (
    workspace         text NOT NULL,
    -- 'budget': one balance of one budget in one period. 'month', 'total': everything of the workspace, with or without budgets.
    scope             text NOT NULL,
    budget_id         text NOT NULL DEFAULT '',
    budget_generation bigint NOT NULL DEFAULT 0,
    balance           text NOT NULL DEFAULT '',
    -- Start of the period in UTC; 1970-01-01 where there is none.
    period_start      timestamptz NOT NULL,
    -- Nano-USD.
    posted_nano       numeric(38, 0) NOT NULL DEFAULT 0,
    reserved_nano     numeric(38, 0) NOT NULL DEFAULT 0,
    open_count        bigint NOT NULL DEFAULT 0,
    ended_count       bigint NOT NULL DEFAULT 0,
    -- Ends whose model has no price.
    unpriced_count    bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (workspace, scope, budget_id, budget_generation, balance, period_start)
);

-- What the sums hold of each reservation: the next event of it changes them by the difference.
CREATE TABLE IF NOT EXISTS balance_reservations (
    workspace      text NOT NULL,
    reservation_id text NOT NULL,
    ended          boolean NOT NULL,
    revision       integer NOT NULL,
    bound_nano     bigint,
    cost_nano      bigint,
    opened_at      timestamptz NOT NULL,
    holds          jsonb NOT NULL,
    PRIMARY KEY (workspace, reservation_id)
);
