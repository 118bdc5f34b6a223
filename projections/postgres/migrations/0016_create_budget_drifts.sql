-- Budgets that are not the same in all stores and of which an alert was raised: one until they are the same again.
CREATE TABLE control.budget_drifts (
    workspace_id text NOT NULL,
    -- The store that differs from the spend table, as the metrics name it.
    store        text NOT NULL,
    budget_id    text NOT NULL,
    generation   bigint NOT NULL,
    -- In µs; 0 for a budget without periods.
    period_start bigint NOT NULL,
    alert_id     text NOT NULL,
    raised_at    timestamptz NOT NULL,
    PRIMARY KEY (workspace_id, store, budget_id, generation, period_start)
);
