-- One row a request. {{table}}, {{generation}} and {{comment}} are filled in by the migrator: the
-- constraint refuses rows of an owner that still works for an older generation.
CREATE TABLE IF NOT EXISTS {{table}}
(
    workspace          String,
    time               DateTime64(6, 'UTC'),
    id                 String,
    -- How many requests the row stands for: more than 1 only for denials that were aggregated.
    requests           UInt64 DEFAULT 1,
    key_id             String,
    route              LowCardinality(String),
    provider           LowCardinality(String),
    model              LowCardinality(String),
    endpoint           LowCardinality(String),
    method             LowCardinality(String),
    -- What the client got; 0 when nobody knows.
    status             UInt16,
    upstream_status    UInt16,
    -- 'forwarded' or 'denied'.
    decision           LowCardinality(String),
    error_code         LowCardinality(String),
    stream             Bool,
    input_tokens       Int64 CODEC(T64, ZSTD(1)),
    cached_tokens      Int64 CODEC(T64, ZSTD(1)),
    cache_write_tokens Int64 CODEC(T64, ZSTD(1)),
    output_tokens      Int64 CODEC(T64, ZSTD(1)),
    reasoning_tokens   Int64 CODEC(T64, ZSTD(1)),
    -- Nano-USD; null: the model has no price.
    cost_nano          Nullable(Int64) CODEC(T64, ZSTD(1)),
    estimated          Bool,
    price_version      LowCardinality(String),
    policy_version     UInt64,
    -- Microseconds.
    latency_us         UInt32 CODEC(T64, ZSTD(1)),
    ttft_us            UInt32 CODEC(T64, ZSTD(1)),
    overhead_us        UInt32 CODEC(T64, ZSTD(1)),
    request_bytes      UInt64 CODEC(T64, ZSTD(1)),
    response_bytes     UInt64 CODEC(T64, ZSTD(1)),
    client_ip          String,
    country            LowCardinality(String),
    idempotency_key    String,
    tags               Map(LowCardinality(String), String),
    reservation_ids    Array(String),
    -- What each limit and budget saw, a JSON array.
    checks             String CODEC(ZSTD(3)),
    producer_id        LowCardinality(String),
    -- Lineage: the record and the place in it that the row was made from.
    _generation        LowCardinality(String),
    _topic_id          UUID,
    _partition         Int32,
    _offset            Int64 CODEC(Delta, ZSTD(1)),
    _idx               UInt32,

    INDEX by_id id TYPE bloom_filter(0.001) GRANULARITY 4,
    INDEX by_offset _offset TYPE minmax GRANULARITY 1,
    CONSTRAINT one_generation CHECK _generation = '{{generation}}',

    -- Hourly sums, kept in each part, so that they can never disagree with the rows. A query uses them when it
    -- names no other columns, cuts time by toStartOfHour(time) and writes each aggregate as it stands here: the state of
    -- the percentiles too, as only states of several ranges can be merged.
    PROJECTION hourly
    (
        SELECT
            workspace, toStartOfHour(time), route, model, endpoint, provider, key_id, status, decision,
            sum(requests), sum(input_tokens), sum(cached_tokens), sum(cache_write_tokens), sum(output_tokens), sum(reasoning_tokens),
            sum(cost_nano), sumIf(requests, status >= 400), sumIf(requests, decision = 'denied'),
            quantilesTDigestState(0.5, 0.95, 0.99)(latency_us)
        GROUP BY workspace, toStartOfHour(time), route, model, endpoint, provider, key_id, status, decision
    )
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (workspace, time, id)
SETTINGS non_replicated_deduplication_window = 10000
COMMENT '{{comment}}'
