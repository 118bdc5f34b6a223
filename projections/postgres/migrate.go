package postgres

import (
	"cmp"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// migrationLock is the key of the advisory lock that one migrator at a time holds.
const migrationLock int64 = 0x7261746567 // "rateg"

// lastReadModel is the largest number of the steps that make read models: tables that can be made again from the log, so that anybody may drop
// them. Each start looks for what these steps make, and makes what is missing.
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

// Migrations returns the steps in files ("migrations/NNNN_verb_object.sql") by number. A name of another form, a number that is used twice and a
// read model's statement whose result could not be looked for are errors.
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
		step := Migration{Number: number, Name: name, SQL: string(text)}
		if number <= lastReadModel {
			if _, err := statements(step); err != nil {
				return nil, err
			}
		}
		steps = append(steps, step)
	}
	slices.SortFunc(steps, func(a, b Migration) int { return cmp.Compare(a.Number, b.Number) })
	for i := 1; i < len(steps); i++ {
		if steps[i].Number == steps[i-1].Number {
			return nil, fmt.Errorf("migrations %s and %s have the same number", steps[i-1].Name, steps[i].Name)
		}
	}
	return steps, nil
}

// Migrate brings the schema of the database at url to this release's. Any number of processes may call it at once, beside others that read and
// write: one at a time migrates, each step is a transaction, and a schema that is as it has to be is only looked at. A step that was edited after it
// had been applied is an error; steps of a newer release are left alone.
func Migrate(ctx context.Context, url string) error {
	steps, err := Migrations(migrationFiles)
	if err != nil {
		return err
	}
	conn, err := Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("migrating PostgreSQL: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return (&migrator{conn: conn}).run(ctx, steps)
}

// migrator applies steps on one connection.
type migrator struct{ conn *pgx.Conn }

func (m *migrator) run(ctx context.Context, steps []Migration) error {
	if err := m.lock(ctx); err != nil {
		return err
	}
	if err := m.patiently(ctx, func() error { return m.exec(ctx, createMigrations) }); err != nil {
		return fmt.Errorf("creating the list of migrations: %w", err)
	}
	applied, err := m.applied(ctx)
	if err != nil {
		return err
	}
	for _, step := range steps {
		sum, known := applied[step.Number]
		if known && sum != step.Sum() {
			return fmt.Errorf("migration %s was changed after it had been applied", step.Name)
		}
		if step.Number <= lastReadModel {
			err = m.restore(ctx, step, known)
		} else if !known {
			err = m.patiently(ctx, func() error { return m.once(ctx, step) })
		}
		if err != nil {
			return fmt.Errorf("applying migration %s: %w", step.Name, err)
		}
	}
	return nil
}

// lock makes this process the one that migrates, until its connection ends. It asks again and again, as CREATE INDEX CONCURRENTLY waits for every
// statement that began before, and one that waits for this lock would wait for the index.
func (m *migrator) lock(ctx context.Context) error {
	for {
		var locked bool
		if err := m.conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", migrationLock).Scan(&locked); err != nil {
			return fmt.Errorf("locking the migrations: %w", err)
		}
		if locked {
			return nil
		}
		if err := pause(ctx, lockPoll); err != nil {
			return fmt.Errorf("locking the migrations: %w", err)
		}
	}
}

// applied returns the sums of the applied steps by number.
func (m *migrator) applied(ctx context.Context) (map[int]string, error) {
	rows, err := m.conn.Query(ctx, "SELECT number, sha256 FROM migrations.applied")
	if err != nil {
		return nil, fmt.Errorf("reading the applied migrations: %w", err)
	}
	applied := map[int]string{}
	var number int
	var sum string
	_, err = pgx.ForEachRow(rows, []any{&number, &sum}, func() error {
		applied[number] = sum
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the applied migrations: %w", err)
	}
	return applied, nil
}

// once applies a step and records it, in one transaction.
func (m *migrator) once(ctx context.Context, step Migration) error {
	return pgx.BeginFunc(ctx, m.conn, func(tx pgx.Tx) error {
		// Without arguments pgx uses the simple protocol, which takes several statements.
		if _, err := tx.Exec(ctx, step.SQL); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, record, step.Number, step.Name, step.Sum())
		return err
	})
}

const record = "INSERT INTO migrations.applied (number, name, sha256) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"

// How the migrator waits. Whoever comes behind one that waits for a table's strongest lock waits too, so it gives way soon and asks again.
const (
	lockPoll     = 50 * time.Millisecond
	lockTimeout  = 300 * time.Millisecond
	lockPause    = 500 * time.Millisecond
	lockPatience = 2 * time.Minute
)

// patiently runs do, which gives up a lock that it does not get at once, until it has got it.
func (m *migrator) patiently(ctx context.Context, do func() error) error {
	if err := m.limit(ctx, lockTimeout); err != nil {
		return err
	}
	for started := time.Now(); ; {
		err := do()
		if err == nil || !gaveWay(err) || time.Since(started) > lockPatience {
			return err
		}
		if err := pause(ctx, lockPause); err != nil {
			return err
		}
	}
}

// limit sets how long a statement waits for a lock; 0: without end.
func (m *migrator) limit(ctx context.Context, d time.Duration) error {
	return m.exec(ctx, fmt.Sprintf("SET lock_timeout = %d", d.Milliseconds()))
}

func (m *migrator) exec(ctx context.Context, sql string) error {
	_, err := m.conn.Exec(ctx, sql)
	return err
}

// Codes of PostgreSQL's errors.
const (
	codeLockNotAvailable = "55P03"
	codeDeadlockDetected = "40P01"
)

// gaveWay reports whether a statement ended because of the locks of others.
func gaveWay(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (e.Code == codeLockNotAvailable || e.Code == codeDeadlockDetected)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
