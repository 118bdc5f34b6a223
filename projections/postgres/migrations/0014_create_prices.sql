-- Prices of an operator's own, and the runs that compute costs again with them.

-- End of the hash chain of what was done to no single workspace; the chain's name stands where others have a workspace id.
CREATE TABLE control.root_chain (
    id           text PRIMARY KEY,
    action_count bigint NOT NULL DEFAULT 0,
    action_hash  bytea NOT NULL DEFAULT ''
);
INSERT INTO control.root_chain (id) VALUES ('root');

-- The overrides of each model, ended ones too. Rows are never deleted: their versions must not repeat.
CREATE TABLE control.prices (
    -- The catalogue's id where it knows the provider; the model in lower case.
    provider   text NOT NULL,
    model      text NOT NULL,
    version    bigint NOT NULL,
    -- [{"from_us","pico":{unit:pico-USD},"backdated"}] by time; without prices: the catalogue's again.
    overrides  jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (provider, model)
);

-- Every version that was ever published: what a price version in the log refers to.
CREATE TABLE control.price_versions (
    provider  text NOT NULL,
    model     text NOT NULL,
    version   bigint NOT NULL,
    overrides jsonb NOT NULL,
    at        timestamptz NOT NULL,
    PRIMARY KEY (provider, model, version)
);

-- Runs that compute costs again and correct them. At most one is under way: another would start from costs that the first is about to correct.
CREATE TABLE control.reprices (
    id          text PRIMARY KEY,
    -- Stands as the producer of the corrections; their sequence counts in each workspace from 1.
    producer_id text NOT NULL,
    from_at     timestamptz NOT NULL,
    to_at       timestamptz NOT NULL,
    -- '' is all; model may end with *.
    workspace   text NOT NULL,
    provider    text NOT NULL,
    model       text NOT NULL,
    reason      text NOT NULL,
    actor       text NOT NULL,
    -- The rows of control.prices as they were at the start: all costs of a run are computed with the same prices.
    prices      jsonb NOT NULL,
    -- 'planned', 'running', 'done' or 'failed'.
    state       text NOT NULL,
    error       text NOT NULL DEFAULT '',
    -- Where the log ended when the run began, {partition: offset}: the ledger has to be that far before it is read.
    topic_id    uuid,
    ends        jsonb,
    -- The last reservation that was looked at, and whether all were and the producer was closed.
    cursor_workspace   text NOT NULL DEFAULT '',
    cursor_opened_at   timestamptz NOT NULL DEFAULT 'epoch',
    cursor_reservation text NOT NULL DEFAULT '',
    computed    boolean NOT NULL DEFAULT false,
    closed      boolean NOT NULL DEFAULT false,
    created_at  timestamptz NOT NULL,
    started_at  timestamptz,
    finished_at timestamptz
);

CREATE UNIQUE INDEX reprices_under_way ON control.reprices ((true)) WHERE state IN ('planned', 'running');

-- What a run has found and changed so far.
CREATE TABLE control.reprice_sums (
    reprice_id  text NOT NULL REFERENCES control.reprices,
    workspace   text NOT NULL,
    provider    text NOT NULL,
    model       text NOT NULL,
    requests    bigint NOT NULL,
    changed     bigint NOT NULL,
    kept        bigint NOT NULL,
    before_nano bigint NOT NULL,
    after_nano  bigint NOT NULL,
    PRIMARY KEY (reprice_id, workspace, provider, model)
);
