package clickhouse

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// Table is a table that holds one generation of a projection. The generation's id and the number of the
// last migration stand in the table's comment: it is written with the table and goes with it.
type Table struct {
	conn driver.Conn
	name string
	// steps are the names of its migrations in migrations/, in order; the first creates it.
	steps []string
}

// Requests returns the table of requests.
func Requests(conn driver.Conn) *Table {
	return &Table{conn: conn, name: "requests", steps: []string{"0001_create_requests.sql"}}
}

// Corrections returns the table of corrections of costs.
func Corrections(conn driver.Conn) *Table {
	return &Table{conn: conn, name: "corrections", steps: []string{"0002_create_corrections.sql"}}
}

// Name returns the table's name.
func (t *Table) Name() string { return t.name }

// label is the table's comment.
type label struct {
	Generation string `json:"generation"`
	Migration  int    `json:"migration"`
}

// Description is what a table shows of itself.
type Description struct {
	Exists     bool
	Generation string
	Rows       uint64
	migration  int
}

// Describe looks at the table. A table without our comment has no generation.
func (t *Table) Describe(ctx context.Context) (Description, error) {
	rows, err := t.conn.Query(ctx, "SELECT comment, toUInt64(coalesce(total_rows, 0)) FROM system.tables WHERE database = currentDatabase() AND name = $1", t.name)
	if err != nil {
		return Description{}, fmt.Errorf("looking at table %s: %w", t.name, err)
	}
	defer func() { _ = rows.Close() }()
	var d Description
	for rows.Next() {
		var comment string
		if err := rows.Scan(&comment, &d.Rows); err != nil {
			return Description{}, fmt.Errorf("looking at table %s: %w", t.name, err)
		}
		var l label
		if json.Unmarshal([]byte(comment), &l) == nil {
			d.Generation, d.migration = l.Generation, l.Migration
		}
		d.Exists = true
	}
	if err := rows.Err(); err != nil {
		return Description{}, fmt.Errorf("looking at table %s: %w", t.name, err)
	}
	return d, nil
}

// Migrate applies the steps that the table has not seen. A step is applied again when a crash comes before its number is
// recorded, so its statement has to bear that (IF NOT EXISTS). The caller holds a lock that keeps other migrators away.
func (t *Table) Migrate(ctx context.Context, d Description) error {
	if !d.Exists || d.Generation == "" {
		return nil
	}
	for n := d.migration; n < len(t.steps); n++ {
		if err := t.step(ctx, n, d.Generation); err != nil {
			return err
		}
		comment, err := json.Marshal(label{Generation: d.Generation, Migration: n + 1})
		if err != nil {
			return fmt.Errorf("migrating table %s: %w", t.name, err)
		}
		if err := t.conn.Exec(ctx, fmt.Sprintf("ALTER TABLE %s MODIFY COMMENT '%s'", t.name, comment)); err != nil {
			return fmt.Errorf("recording migration %s: %w", t.steps[n], err)
		}
	}
	return nil
}

// Create makes an empty table of the generation. A table of that name with rows is kept aside under another
// name: it may reach further back than the log. One without rows is dropped.
func (t *Table) Create(ctx context.Context, generation string) error {
	d, err := t.Describe(ctx)
	if err != nil {
		return err
	}
	switch {
	case d.Exists && d.Rows > 0:
		aside := fmt.Sprintf("%s_until_%s", t.name, strings.ReplaceAll(generation, "-", ""))
		if err := t.conn.Exec(ctx, fmt.Sprintf("RENAME TABLE %s TO %s", t.name, aside)); err != nil {
			return fmt.Errorf("keeping table %s aside: %w", t.name, err)
		}
	case d.Exists:
		if err := t.conn.Exec(ctx, fmt.Sprintf("DROP TABLE %s SYNC", t.name)); err != nil {
			return fmt.Errorf("dropping the empty table %s: %w", t.name, err)
		}
	}
	if err := t.step(ctx, 0, generation); err != nil {
		return err
	}
	return t.Migrate(ctx, Description{Exists: true, Generation: generation, migration: 1})
}

// step runs one migration, which is one statement.
func (t *Table) step(ctx context.Context, n int, generation string) error {
	text, err := migrationFiles.ReadFile("migrations/" + t.steps[n])
	if err != nil {
		return fmt.Errorf("reading migration %s: %w", t.steps[n], err)
	}
	comment, err := json.Marshal(label{Generation: generation, Migration: n + 1})
	if err != nil {
		return fmt.Errorf("applying migration %s: %w", t.steps[n], err)
	}
	sql := strings.NewReplacer("{{table}}", t.name, "{{generation}}", generation, "{{comment}}", string(comment)).Replace(withoutComments(string(text)))
	if err := t.conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("applying migration %s: %w", t.steps[n], err)
	}
	return nil
}

// withoutComments drops lines that are comments, whose question marks and braces the driver would take for parameters.
func withoutComments(sql string) string {
	var b strings.Builder
	for line := range strings.Lines(sql) {
		if !strings.HasPrefix(strings.TrimSpace(line), "--") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// Lineage names the rows that were made from offsets From to To of a partition.
type Lineage struct {
	Generation string
	TopicID    uuid.UUID
	Partition  int32
	From, To   int64
}

const whereLineage = " WHERE _generation = $1 AND _topic_id = $2 AND _partition = $3 AND _offset BETWEEN $4 AND $5"

// Count returns the number of rows of the lineage.
func (t *Table) Count(ctx context.Context, l Lineage) (int64, error) {
	var n uint64
	err := t.conn.QueryRow(ctx, "SELECT count() FROM "+t.name+whereLineage, l.Generation, l.TopicID.String(), l.Partition, l.From, l.To).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("counting rows of %s: %w", t.name, err)
	}
	return int64(n), nil
}

// Delete removes the rows of the lineage, from the rollups too, and returns when they are gone.
func (t *Table) Delete(ctx context.Context, l Lineage) error {
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"mutations_sync": 2}))
	err := t.conn.Exec(ctx, "ALTER TABLE "+t.name+" DELETE"+whereLineage, l.Generation, l.TopicID.String(), l.Partition, l.From, l.To)
	if err != nil {
		return fmt.Errorf("deleting rows of %s: %w", t.name, err)
	}
	return nil
}

// insertTimeout bounds one insert on the side of the store.
const insertTimeout = 50 * time.Second

// Insert writes rows, whose values are in the order of columns, as one block, and returns when they are durable. The store ignores an
// insert whose token it has seen.
func (t *Table) Insert(ctx context.Context, columns []string, rows [][]any, token string) error {
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{
		"async_insert": 0, "insert_deduplicate": 1, "insert_deduplication_token": token,
		"deduplicate_blocks_in_dependent_materialized_views": 1,
		"max_execution_time": int(insertTimeout.Seconds()),
	}))
	batch, err := t.conn.PrepareBatch(ctx, fmt.Sprintf("INSERT INTO %s (%s)", t.name, strings.Join(columns, ", ")))
	if err != nil {
		return fmt.Errorf("preparing an insert into %s: %w", t.name, err)
	}
	defer func() { _ = batch.Close() }()
	for _, row := range rows {
		if err := batch.Append(row...); err != nil {
			return fmt.Errorf("filling an insert into %s: %w", t.name, err)
		}
	}
	if err := batch.Send(); err != nil {
		return fmt.Errorf("inserting into %s: %w", t.name, err)
	}
	return nil
}
