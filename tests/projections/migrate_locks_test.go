package projections_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/rateguard/rateguard/projections/ledger"
	"github.com/rateguard/rateguard/projections/postgres"
)

// deadlockDetected is the code of PostgreSQL's error.
const deadlockDetected = "40P01"

// withoutApart brings the ledger to what it was before it had the column apart.
const withoutApart = "DROP INDEX ledger_corrections; ALTER TABLE ledger DROP COLUMN apart; DELETE FROM migrations.applied WHERE number = 4"

// appendRow is what a writer of the ledger does.
const appendRow = `INSERT INTO ledger (workspace, reservation_id, revision, request_id, attempt, key_id, route, provider, model, endpoint, kind, delta_nano, estimated, usage,
 price_version, policy_version, holds, reason, opened_at, occurred_at, producer_id, topic_id, log_partition, log_offset, log_idx)
VALUES ('ws', gen_random_uuid()::text, 1, 'q', 1, '', '', '', '', '', 'settled', 1, false, '{}', '', 1, '[]', '', now(), now(), '', gen_random_uuid(), 0, 0, 0)`

// A writer of the ledger reads it, and then appends to it. A migration that held any lock on the ledger while it waits for a stronger one would
// have the writer wait for it, which waits for the writer. One that waits without end would have everybody wait who comes behind it.
func TestMigrationWaitsBesideWriters(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := postgres.Migrate(ctx, r.cfg.PostgresURL); err != nil {
		t.Fatal(err)
	}
	r.exec(r.pg, withoutApart)
	r.exec(r.pg, appendRow)
	tx, err := r.pg.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	var rows int
	if err := tx.QueryRow(ctx, "SELECT count(*) FROM ledger").Scan(&rows); err != nil {
		t.Fatal(err)
	}
	migrated := make(chan error, 1)
	go func() { migrated <- postgres.Migrate(ctx, r.cfg.PostgresURL) }()
	r.eventually("the migration waits for the reader", func(ctx context.Context) error {
		var waits bool
		err := r.pg.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'ledger'::regclass AND NOT granted)").Scan(&waits)
		if err == nil && !waits {
			err = errors.New("nobody waits for the ledger")
		}
		return err
	})
	if _, err := r.pg.Exec(ctx, appendRow); err != nil {
		t.Errorf("another writer, while the migration waits: %v", err)
	}
	if _, err := tx.Exec(ctx, appendRow); err != nil {
		t.Errorf("the writer that the migration waits for: %v", err)
	}
	if err := tx.Commit(ctx); err != nil {
		t.Errorf("the writer that the migration waits for: %v", err)
	}
	if err := <-migrated; err != nil {
		t.Fatalf("migrating: %v", err)
	}
	var valid bool
	err = r.pg.QueryRow(ctx, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ledger_corrections'::regclass").Scan(&valid)
	if err != nil || !valid {
		t.Errorf("the index: valid %t, %v", valid, err)
	}
	if err := r.pg.QueryRow(ctx, "SELECT count(*) FROM ledger WHERE NOT apart").Scan(&rows); err != nil || rows != 3 {
		t.Errorf("rows that are not apart: got %d, want 3, %v", rows, err)
	}
}

// Whatever writers and the emptying of a ledger meet a migration with, neither the migration nor a writer fails.
func TestMigrationsAndWritersDoNotFailEachOther(t *testing.T) {
	r := newRig(t)
	if err := postgres.Migrate(t.Context(), r.cfg.PostgresURL); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	g, gctx := errgroup.WithContext(ctx)
	loop := func(do func(context.Context, pgx.Tx) error) {
		g.Go(func() error {
			for ctx.Err() == nil {
				err := pgx.BeginFunc(context.WithoutCancel(gctx), r.pg, func(tx pgx.Tx) error { return do(gctx, tx) })
				if err != nil && ctx.Err() == nil {
					return err
				}
			}
			return nil
		})
	}
	for range 3 {
		loop(func(ctx context.Context, tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SELECT count(*) FROM ledger"); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, appendRow)
			return err
		})
	}
	g.Go(func() error {
		for ctx.Err() == nil {
			err := pgx.BeginFunc(context.WithoutCancel(gctx), r.pg, func(tx pgx.Tx) error {
				target := ledger.New().Target
				if _, err := target.State(gctx, tx); err != nil {
					return err
				}
				return target.Reset(gctx, tx, "")
			})
			// It looks at the ledger before it takes all of it, and can lose against a writer that does the same. Its session then begins anew.
			if lost := new(pgconn.PgError); errors.As(err, &lost) && lost.Code == deadlockDetected {
				continue
			}
			if err != nil && ctx.Err() == nil {
				return err
			}
		}
		return nil
	})
	for range 3 {
		r.exec(r.pg, withoutApart)
		if err := postgres.Migrate(t.Context(), r.cfg.PostgresURL); err != nil {
			t.Error(err)
		}
	}
	stop()
	if err := g.Wait(); err != nil {
		t.Errorf("a writer: %v", err)
	}
}

// What a crash left of an index that was made beside writers is not valid, and no statement with IF NOT EXISTS would make it so.
func TestIndexThatIsNotValidIsMadeAgain(t *testing.T) {
	r := newRig(t)
	if err := postgres.Migrate(t.Context(), r.cfg.PostgresURL); err != nil {
		t.Fatal(err)
	}
	r.exec(r.pg, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ledger_corrections'::regclass")
	if err := postgres.Migrate(t.Context(), r.cfg.PostgresURL); err != nil {
		t.Fatal(err)
	}
	var valid bool
	if err := r.pg.QueryRow(t.Context(), "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ledger_corrections'::regclass").Scan(&valid); err != nil || !valid {
		t.Errorf("the index: valid %t, %v", valid, err)
	}
}
