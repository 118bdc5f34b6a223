-- Rate limits of workspaces, with their defaults filled in.

CREATE TABLE control.limits (
    workspace_id     text NOT NULL REFERENCES control.workspaces,
    id               text NOT NULL,
    scope            text NOT NULL,
    -- '' matches everything.
    match_route      text NOT NULL,
    match_model      text NOT NULL,
    match_key        text NOT NULL,
    unit             text NOT NULL,
    algorithm        text NOT NULL,
    -- amount units each window_us.
    amount           bigint NOT NULL,
    window_us        bigint NOT NULL,
    -- 0: the algorithm has none.
    burst            bigint NOT NULL,
    mode             text NOT NULL,
    on_store_failure text NOT NULL,
    -- 0: the algorithm does not delay.
    max_delay_us     bigint NOT NULL,
    -- policy_version of its last change, as in control.routes.
    version          bigint NOT NULL,
    created_at       timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    PRIMARY KEY (workspace_id, id)
);
