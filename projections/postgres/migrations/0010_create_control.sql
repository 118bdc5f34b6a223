-- Configuration as the admin API keeps it, the events that tell of its changes, and who made them.

CREATE SCHEMA control;

CREATE TABLE control.workspaces (
    id             text PRIMARY KEY,
    name           text NOT NULL,
    -- Version of the published policy. Every change below the workspace adds one, under this row's lock:
    -- the lock is what puts the outbox rows of one workspace in the order of their versions.
    policy_version bigint NOT NULL,
    -- policy_version of the change that made this object what it is.
    version        bigint NOT NULL,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    deleted_at     timestamptz,
    -- End of the hash chain of control.actions.
    action_count   bigint NOT NULL DEFAULT 0,
    action_hash    bytea NOT NULL DEFAULT ''
);

CREATE TABLE control.routes (
    workspace_id         text NOT NULL REFERENCES control.workspaces,
    id                   text NOT NULL,
    provider             text NOT NULL,
    base_url             text NOT NULL,
    -- AES-256-GCM; null: the route has no credential.
    credential_sealed    bytea,
    timeout_us           bigint NOT NULL,
    idle_timeout_us      bigint NOT NULL,
    -- null: cost by usage.
    per_request_nano_usd bigint,
    weights              jsonb NOT NULL,
    -- policy_version of its last change, so that a route that was deleted and made again never has an old one.
    version              bigint NOT NULL,
    created_at           timestamptz NOT NULL,
    updated_at           timestamptz NOT NULL,
    PRIMARY KEY (workspace_id, id)
);

CREATE TABLE control.keys (
    id           text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES control.workspaces,
    name         text NOT NULL,
    -- Of the whole key; the key itself is nowhere.
    sha256       bytea NOT NULL UNIQUE CHECK (octet_length(sha256) = 32),
    prefix       text NOT NULL,
    scopes       text[] NOT NULL,
    routes       text[] NOT NULL,
    models       text[] NOT NULL,
    metadata     jsonb NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    created_at   timestamptz NOT NULL,
    version      bigint NOT NULL
);

CREATE INDEX keys_by_workspace ON control.keys (workspace_id, id);

-- Events that are committed and not yet in the log. A row is deleted when the brokers have acknowledged it.
CREATE TABLE control.outbox (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic      text NOT NULL,
    key        text NOT NULL,
    -- null: a tombstone.
    value      bytea,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Who did what; each hash covers the one before it.
CREATE TABLE control.actions (
    workspace_id  text NOT NULL,
    number        bigint NOT NULL,
    at            timestamptz NOT NULL,
    actor         text NOT NULL,
    action        text NOT NULL,
    object        text NOT NULL,
    before_json   bytea NOT NULL,
    after_json    bytea NOT NULL,
    previous_hash bytea NOT NULL,
    hash          bytea NOT NULL,
    PRIMARY KEY (workspace_id, number)
);
