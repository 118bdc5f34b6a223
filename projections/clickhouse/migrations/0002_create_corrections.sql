-- What the rows of requests do not say of costs: a copy of those rows of the ledger that correct a cost, or whose request may have any
-- row or none. {{table}}, {{generation}} and {{comment}} are filled in by the migrator.
CREATE TABLE IF NOT EXISTS {{table}}
(
    workspace       String,
    -- When the reservation was opened.
    time            DateTime64(6, 'UTC'),
    request_id      String,
    reservation_id  String,
    revision        Int32,
    -- Then the costs of the request are all of its rows here, and its row in requests says none; else they are that row and these differences.
    apart           Bool,
    key_id          String,
    route           LowCardinality(String),
    provider        LowCardinality(String),
    model           LowCardinality(String),
    endpoint        LowCardinality(String),
    -- Nano-USD, absolute; null: the model has no price.
    cost_nano       Nullable(Int64) CODEC(T64, ZSTD(1)),
    -- What the row adds to the sum of costs.
    delta_nano      Int64 CODEC(T64, ZSTD(1)),
    estimated       Bool,
    price_version   LowCardinality(String),
    -- Lineage: the record and the place in it that the row was made from.
    _generation     LowCardinality(String),
    _topic_id       UUID,
    _partition      Int32,
    _offset         Int64 CODEC(Delta, ZSTD(1)),
    _idx            UInt32,

    INDEX by_request request_id TYPE bloom_filter(0.001) GRANULARITY 4,
    INDEX by_offset _offset TYPE minmax GRANULARITY 1,
    CONSTRAINT one_generation CHECK _generation = '{{generation}}'
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (workspace, time, request_id)
SETTINGS non_replicated_deduplication_window = 10000
COMMENT '{{comment}}'
