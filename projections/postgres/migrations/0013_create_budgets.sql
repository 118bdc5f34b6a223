-- Budgets of workspaces, with their defaults filled in.

CREATE TABLE control.budgets (
    workspace_id     text NOT NULL REFERENCES control.workspaces,
    id               text NOT NULL,
    scope            text NOT NULL,
    -- '' matches everything.
    match_route      text NOT NULL,
    match_model      text NOT NULL,
    match_key        text NOT NULL,
    limit_nano_usd   bigint NOT NULL,
    period           text NOT NULL,
    timezone         text NOT NULL,
    enforcement      text NOT NULL,
    -- Multiples of the limit, ascending.
    alert_at         double precision[] NOT NULL,
    on_store_failure text NOT NULL,
    -- policy_version of the change since which it counts.
    generation       bigint NOT NULL,
    -- policy_version of its last change, as in control.routes.
    version          bigint NOT NULL,
    created_at       timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    PRIMARY KEY (workspace_id, id)
);

ALTER TABLE control.workspaces
    -- The instant around which the published policy shows the periods of budgets; moves with every version.
    ADD COLUMN periods_from timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN budget_exceeded_status integer NOT NULL DEFAULT 402,
    ADD COLUMN unknown_outcome text NOT NULL DEFAULT 'reserved',
    -- null: none.
    ADD COLUMN default_max_output_tokens bigint,
    ADD COLUMN fit_max_output_tokens boolean NOT NULL DEFAULT false;
