package projections_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/rateguard/rateguard/projections/postgres"
)

// TestManyMigrateAtOnce has roles that start together on a fresh database, on one without its read models, and on one that has all.
func TestManyMigrateAtOnce(t *testing.T) {
	r := newRig(t)
	const processes = 8
	migrate := func(what string) {
		t.Helper()
		start := make(chan struct{})
		g, ctx := errgroup.WithContext(t.Context())
		for range processes {
			g.Go(func() error {
				<-start
				return postgres.Migrate(ctx, r.cfg.PostgresURL)
			})
		}
		close(start)
		if err := g.Wait(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	// schema returns all that the steps made, with the number of steps that were recorded.
	schema := func() (objects []string, steps int) {
		t.Helper()
		rows, err := r.pg.Query(t.Context(), `
SELECT n.nspname || '.' || c.relname || ' ' || c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema' ORDER BY 1`)
		if err != nil {
			t.Fatal(err)
		}
		if objects, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			t.Fatal(err)
		}
		if err := r.pg.QueryRow(t.Context(), "SELECT count(*) FROM migrations.applied").Scan(&steps); err != nil {
			t.Fatal(err)
		}
		return objects, steps
	}
	migrate("a fresh database")
	objects, steps := schema()
	if steps == 0 || len(objects) <= steps {
		t.Fatalf("after %d steps there are %v", steps, objects)
	}
	for _, again := range []struct{ what, before string }{
		{"a database that has all", "SELECT 1"},
		{"a database without its read models", "DROP SCHEMA public CASCADE"},
		{"a database without some tables", "DROP TABLE ledger, balances"},
	} {
		if _, err := r.pg.Exec(context.WithoutCancel(t.Context()), again.before); err != nil {
			t.Fatal(err)
		}
		migrate(again.what)
		if o, s := schema(); len(o) != len(objects) || s != steps {
			t.Errorf("%s: got %d steps and %v, want %d and %v", again.what, s, o, steps, objects)
		}
	}
}

// A schema that is as it has to be is only looked at: each session of each projection migrates when it starts, beside writers of the same tables.
func TestMigratingTakesNoLocksWhereNothingIsToDo(t *testing.T) {
	r := newRig(t)
	if err := postgres.Migrate(t.Context(), r.cfg.PostgresURL); err != nil {
		t.Fatal(err)
	}
	tx, err := r.pg.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	if _, err := tx.Exec(t.Context(), "LOCK TABLE ledger, balances, balance_reservations, projection_checkpoints, projection_generations, projection_marks IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := postgres.Migrate(ctx, r.cfg.PostgresURL); err != nil {
		t.Error(err)
	}
}
