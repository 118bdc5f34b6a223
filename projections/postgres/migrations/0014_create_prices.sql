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
