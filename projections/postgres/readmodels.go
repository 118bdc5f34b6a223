package postgres

import (
	"context"
	"fmt"
	"regexp"
	"strings"
)

// statement is a statement of a step that makes a read model, and what it makes.
type statement struct {
	sql string
	// table stands alone, or with the column that is added to it; index stands alone.
	table, column, index string
	// concurrently says that the index is made beside writers, which no transaction can.
	concurrently bool
}

// The forms that statements of read models have, so that what they make can be looked for: even where it is there already, the statement itself
// would lock its table, against writers and up to the end of its transaction.
var forms = regexp.MustCompile(`^(?:CREATE TABLE IF NOT EXISTS (?P<table>\w+) \(` +
	`|ALTER TABLE (?P<altered>\w+) ADD COLUMN IF NOT EXISTS (?P<column>\w+) [^,]+$` +
	`|CREATE (?:UNIQUE )?INDEX (?P<concurrently>CONCURRENTLY )?IF NOT EXISTS (?P<index>\w+) ON )`)

// statements returns the statements of a step that makes read models. One of another form is an error.
func statements(step Migration) ([]statement, error) {
	var code strings.Builder
	for line := range strings.Lines(step.SQL) {
		if !strings.HasPrefix(strings.TrimSpace(line), "--") {
			code.WriteString(line)
		}
	}
	var list []statement
	for sql := range strings.SplitSeq(code.String(), ";") {
		if sql = strings.TrimSpace(sql); sql == "" {
			continue
		}
		match := forms.FindStringSubmatch(sql)
		if match == nil {
			return nil, fmt.Errorf("migration %s: %.60q makes nothing that could be looked for", step.Name, sql)
		}
		part := func(name string) string { return match[forms.SubexpIndex(name)] }
		list = append(list, statement{
			sql: sql, table: part("table") + part("altered"), column: part("column"), index: part("index"), concurrently: part("concurrently") != "",
		})
	}
	return list, nil
}

// restore makes what is missing of a step's read models, statement by statement, and records a step that is not known.
func (m *migrator) restore(ctx context.Context, step Migration, known bool) error {
	list, err := statements(step)
	if err != nil {
		return err
	}
	for _, s := range list {
		if err := m.ensure(ctx, s); err != nil {
			return err
		}
	}
	if known {
		return nil
	}
	_, err = m.conn.Exec(ctx, record, step.Number, step.Name, step.Sum())
	return err
}

// ensure runs the statement unless what it makes is there.
func (m *migrator) ensure(ctx context.Context, s statement) error {
	for {
		there, err := m.made(ctx, s)
		if err != nil || there {
			return err
		}
		if !s.concurrently {
			return m.patiently(ctx, func() error { return m.exec(ctx, s.sql) })
		}
		if err = m.makeConcurrently(ctx, s); err == nil {
			continue
		}
		if !gaveWay(err) {
			return err
		}
		// Two waited for each other. A migrator of an earlier release waits for the lock within a statement, which the index waits for: let it in.
		if err := m.exec(ctx, fmt.Sprintf("SELECT pg_advisory_unlock(%d)", migrationLock)); err != nil {
			return fmt.Errorf("unlocking the migrations: %w", err)
		}
		if err := m.lock(ctx); err != nil {
			return err
		}
	}
}

// made reports whether what the statement makes is there. It reads the catalogue alone.
func (m *migrator) made(ctx context.Context, s statement) (there bool, err error) {
	query, args := "SELECT to_regclass($1) IS NOT NULL", []any{s.table}
	switch {
	case s.column != "":
		query = "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = $2 AND NOT attisdropped)"
		args = append(args, s.column)
	case s.index != "":
		query, args = "SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass($1) AND indisvalid)", []any{s.index}
	}
	if err := m.conn.QueryRow(ctx, query, args...).Scan(&there); err != nil {
		return false, fmt.Errorf("looking for what there is: %w", err)
	}
	return there, nil
}

// makeConcurrently makes an index. It waits for the transactions that were there before, without being in the way of any.
func (m *migrator) makeConcurrently(ctx context.Context, s statement) error {
	if err := m.limit(ctx, 0); err != nil {
		return err
	}
	// What a crash or a deadlock left of it is not valid and stays so.
	if err := m.exec(ctx, "DROP INDEX CONCURRENTLY IF EXISTS "+s.index); err != nil {
		return fmt.Errorf("dropping an index that is not valid: %w", err)
	}
	return m.exec(ctx, s.sql)
}
