-- State of the runner: which generation of a projection is live, how far each partition is
-- applied, and the marks by which repeats of producers are dropped.

CREATE TABLE IF NOT EXISTS projection_generations (
    projection text PRIMARY KEY,
    -- A random id, the same in the target: a target that shows another one was wiped or replaced.
    generation text NOT NULL,
    reason     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS projection_checkpoints (
    projection  text NOT NULL,
    generation  text NOT NULL,
    topic       text NOT NULL,
    topic_id    uuid NOT NULL,
    partition   integer NOT NULL,
    -- Grows with every new owner; a write by an older owner finds no row and stops.
    epoch       bigint NOT NULL DEFAULT 0,
    next_offset bigint NOT NULL DEFAULT 0,
    -- A batch that was announced and may or may not be in the target; null when there is none.
    pend_from   bigint,
    pend_to     bigint,
    pend_rows   bigint,
    pend_sha    text,
    rows_written   bigint NOT NULL DEFAULT 0,
    -- Time of the newest applied record.
    as_of       timestamptz,
    -- End of the partition as last seen by its owner, and when.
    end_offset  bigint NOT NULL DEFAULT 0,
    observed_at timestamptz,
    PRIMARY KEY (projection, generation, topic, topic_id, partition)
);

CREATE TABLE IF NOT EXISTS projection_marks (
    projection text NOT NULL,
    generation text NOT NULL,
    topic      text NOT NULL,
    workspace  text NOT NULL,
    producer   text NOT NULL,
    -- Largest sequence seen; holes are the sequences below it that never came, as [[from,to],…].
    mark       bigint NOT NULL,
    holes      jsonb NOT NULL DEFAULT '[]',
    closed     boolean NOT NULL DEFAULT false,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (projection, generation, topic, workspace, producer)
);
