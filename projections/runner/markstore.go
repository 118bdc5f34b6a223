package runner

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// maxCachedMarks bounds the marks in memory; when there are more, all are forgotten and read again as needed.
const maxCachedMarks = 100_000

// markKey names a mark within a projection, generation and topic.
type markKey struct{ workspace, producer string }

// markCache holds marks of one owned partition. Its owner is their only writer, so what is in memory is what is in
// PostgreSQL plus the batch at hand; when a batch fails, the cache goes with the session.
type markCache struct {
	marks map[markKey]*Mark
	dirty map[markKey]bool
}

func newMarkCache() *markCache {
	return &markCache{marks: map[markKey]*Mark{}, dirty: map[markKey]bool{}}
}

// scope says whose marks are meant.
type scope struct{ projection, generation, topic string }

// load makes sure that the marks of keys are in memory.
func (c *markCache) load(ctx context.Context, db querier, s scope, keys map[markKey]bool) error {
	if len(c.marks) > maxCachedMarks {
		c.marks = map[markKey]*Mark{}
	}
	var workspaces, producers []string
	for k := range keys {
		if c.marks[k] == nil {
			workspaces, producers = append(workspaces, k.workspace), append(producers, k.producer)
			c.marks[k] = &Mark{}
		}
	}
	if len(workspaces) == 0 {
		return nil
	}
	rows, err := db.Query(ctx, `
SELECT m.workspace, m.producer, m.mark, m.holes, m.closed
  FROM projection_marks m
  JOIN unnest($4::text[], $5::text[]) AS k(workspace, producer) USING (workspace, producer)
 WHERE m.projection = $1 AND m.generation = $2 AND m.topic = $3`,
		s.projection, s.generation, s.topic, workspaces, producers)
	if err != nil {
		return fmt.Errorf("reading marks: %w", err)
	}
	var k markKey
	var sequence int64
	var holes []byte
	var closed bool
	_, err = pgx.ForEachRow(rows, []any{&k.workspace, &k.producer, &sequence, &holes, &closed}, func() error {
		m := &Mark{Sequence: uint64(sequence), Closed: closed} //nolint:gosec // checked on the way in
		if err := json.Unmarshal(holes, &m.Holes); err != nil {
			return fmt.Errorf("reading the holes of producer %s: %w", k.producer, err)
		}
		c.marks[k] = m
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading marks: %w", err)
	}
	return nil
}

// refuse takes the sequence of a record that cannot be applied.
func (c *markCache) refuse(rec Record) {
	if rec.Event.GetProducerId() == "" || rec.Event.GetSequence() == 0 {
		return
	}
	key := markKey{rec.Workspace, rec.Event.GetProducerId()}
	c.marks[key].Refuse(rec.Event.GetSequence())
	c.dirty[key] = true
}

// save writes the marks that changed since the last save.
func (c *markCache) save(ctx context.Context, tx pgx.Tx, s scope) error {
	if len(c.dirty) == 0 {
		return nil
	}
	var workspaces, producers []string
	var sequences []int64
	var holes []string
	var closed []bool
	for k := range c.dirty {
		m := c.marks[k]
		h, err := json.Marshal(m.Holes)
		if err != nil {
			return fmt.Errorf("writing the holes of producer %s: %w", k.producer, err)
		}
		if m.Holes == nil {
			h = []byte("[]")
		}
		workspaces, producers = append(workspaces, k.workspace), append(producers, k.producer)
		sequences = append(sequences, int64(m.Sequence)) //nolint:gosec // checked on the way in
		holes, closed = append(holes, string(h)), append(closed, m.Closed)
	}
	_, err := tx.Exec(ctx, `
INSERT INTO projection_marks (projection, generation, topic, workspace, producer, mark, holes, closed)
SELECT $1, $2, $3, workspace, producer, mark, holes::jsonb, closed
  FROM unnest($4::text[], $5::text[], $6::bigint[], $7::text[], $8::boolean[]) AS n(workspace, producer, mark, holes, closed)
    ON CONFLICT (projection, generation, topic, workspace, producer)
    DO UPDATE SET mark = excluded.mark, holes = excluded.holes, closed = excluded.closed, updated_at = now()`,
		s.projection, s.generation, s.topic, workspaces, producers, sequences, holes, closed)
	if err != nil {
		return fmt.Errorf("writing marks: %w", err)
	}
	c.dirty = map[markKey]bool{}
	return nil
}
