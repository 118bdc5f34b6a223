package postgres

import (
	"cmp"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// migrationLock is the key of the advisory lock that one migrator at a time holds.
const migrationLock int64 = 0x7261746567 // "rateg"

// lastReadModel is the largest number of the steps that make read models: tables that can be made again from the log, so
// that anybody may drop them. These steps bear being applied again (IF NOT EXISTS), and are, at every start.
const lastReadModel = 9

// The list of steps has a schema of its own, so that it survives when the read models are dropped with theirs. The schema is not
// named as a user would be: PostgreSQL puts the tables of a user into the schema of its name.
const createMigrations = `
CREATE SCHEMA IF NOT EXISTS migrations;
CREATE TABLE IF NOT EXISTS migrations.applied (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
DO $$ BEGIN
    IF to_regnamespace('public') IS NULL THEN CREATE SCHEMA public; END IF;
END $$`

//go:embed migrations/*.sql
var migrationFiles embed.FS

// fileName is NNNN_verb_object.sql.
var fileName = regexp.MustCompile(`^(\d{4})_[a-z0-9]+(_[a-z0-9]+)+\.sql$`)

// Migration is one step of the schema.
type Migration struct {
	Number int
	Name   string
	SQL    string
}

// Sum returns the SHA-256 of the step's text in hex.
func (m Migration) Sum() string {
	s := sha256.Sum256([]byte(m.SQL))
	return hex.EncodeToString(s[:])
}

// Migrations returns the steps in files ("migrations/NNNN_verb_object.sql") by number. A name of
// another form and a number that is used twice are errors.
func Migrations(files fs.FS) ([]Migration, error) {
	names, err := fs.Glob(files, "migrations/*")
	if err != nil {
		return nil, fmt.Errorf("listing migrations: %w", err)
	}
	steps := make([]Migration, 0, len(names))
	for _, path := range names {
		name := path[len("migrations/"):]
		match := fileName.FindStringSubmatch(name)
		if match == nil {
			return nil, fmt.Errorf("migration %s: its name is not NNNN_verb_object.sql", name)
		}
		number, err := strconv.Atoi(match[1])
		if err != nil {
			return nil, fmt.Errorf("migration %s: %w", name, err)
		}
		text, err := fs.ReadFile(files, path)
		if err != nil {
			return nil, fmt.Errorf("reading migration %s: %w", name, err)
		}
		steps = append(steps, Migration{Number: number, Name: name, SQL: string(text)})
	}
	slices.SortFunc(steps, func(a, b Migration) int { return cmp.Compare(a.Number, b.Number) })
	for i := 1; i < len(steps); i++ {
		if steps[i].Number == steps[i-1].Number {
			return nil, fmt.Errorf("migrations %s and %s have the same number", steps[i-1].Name, steps[i].Name)
		}
	}
	return steps, nil
}

// Migrate brings the schema of the database at url to this release's. Any number of
// processes may call it at once: all steps run in one transaction under one advisory lock, so
// a schema is never half-changed. A step that was edited after it had been applied is an error;
// steps of a newer release are left alone.
func Migrate(ctx context.Context, url string) error {
	steps, err := Migrations(migrationFiles)
	if err != nil {
		return err
	}
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return fmt.Errorf("reading the PostgreSQL URL: %w", err)
	}
	cfg.ConnectTimeout = connectTimeout
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("connecting to migrate PostgreSQL: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return apply(ctx, tx, steps) })
}

func apply(ctx context.Context, tx pgx.Tx, steps []Migration) error {
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", migrationLock); err != nil {
		return fmt.Errorf("locking the migrations: %w", err)
	}
	if _, err := tx.Exec(ctx, createMigrations); err != nil {
		return fmt.Errorf("creating the list of migrations: %w", err)
	}
	rows, err := tx.Query(ctx, "SELECT number, sha256 FROM migrations.applied")
	if err != nil {
		return fmt.Errorf("reading the applied migrations: %w", err)
	}
	applied := map[int]string{}
	var number int
	var sum string
	_, err = pgx.ForEachRow(rows, []any{&number, &sum}, func() error {
		applied[number] = sum
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading the applied migrations: %w", err)
	}
	for _, m := range steps {
		if sum, ok := applied[m.Number]; ok {
			if sum != m.Sum() {
				return fmt.Errorf("migration %s was changed after it had been applied", m.Name)
			}
			if m.Number > lastReadModel {
				continue
			}
		}
		// Without arguments pgx uses the simple protocol, which takes several statements.
		if _, err := tx.Exec(ctx, m.SQL); err != nil {
			return fmt.Errorf("applying migration %s: %w", m.Name, err)
		}
		if _, err := tx.Exec(ctx, "INSERT INTO migrations.applied (number, name, sha256) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
			m.Number, m.Name, m.Sum()); err != nil {
			return fmt.Errorf("recording migration %s: %w", m.Name, err)
		}
	}
	return nil
}
