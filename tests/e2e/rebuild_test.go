package e2e_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/deploy/standalone/postgres"
	"github.com/rateguard/rateguard/tests/harness"
)

// totals are what every view says of the workspaces, as text, so that a difference shows.
type totals struct{ Usage, Requests, Ledger, Balances, Spend []string }

func readTotals(ctx context.Context, s *harness.System, tenants []*harness.Tenant) (totals, error) {
	var out totals
	for _, tenant := range tenants {
		usage, err := s.Admin.Usage(ctx, tenant.ID, adminclient.UsageQuery{GroupBy: []string{"route", "model", "endpoint", "key", "status"}})
		if err != nil {
			return out, err
		}
		for _, u := range usage.Data {
			out.Usage = append(out.Usage, fmt.Sprintf("%s %+v", tenant.ID, u))
		}
		for r, err := range s.Admin.Requests(ctx, tenant.ID, adminclient.Period{}, nil) {
			if err != nil {
				return out, err
			}
			cost := "null"
			if r.CostUSD != nil {
				cost = *r.CostUSD
			}
			r.CostUSD, r.TTFTMS = nil, nil // pointers
			out.Requests = append(out.Requests, fmt.Sprintf("%s %s %+v", tenant.ID, cost, r))
		}
		spend, err := s.Processors().Spend(ctx, tenant.ID)
		if err != nil {
			return out, err
		}
		out.Spend = append(out.Spend, fmt.Sprint(tenant.ID, spend.GetTotal(), spend.GetMonths()))
	}
	conn, err := pgx.Connect(ctx, s.Config().PostgresURL)
	if err != nil {
		return out, err
	}
	defer func() { _ = conn.Close(ctx) }()
	for table, into := range map[string]*[]string{"ledger": &out.Ledger, "balances": &out.Balances} {
		rows, err := conn.Query(ctx, "SELECT row_to_json(r)::text FROM "+table+" r")
		if err != nil {
			return out, err
		}
		if *into, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			return out, err
		}
	}
	for _, list := range []*[]string{&out.Usage, &out.Requests, &out.Ledger, &out.Balances, &out.Spend} {
		slices.Sort(*list)
	}
	return out, nil
}

// The log is the truth: every view that is wiped is made again from it, and says the same to the byte. The processors keep
// no store on disk, so that each restart is a wipe of theirs.
func TestWipedViewsAreMadeAgainFromTheLog(t *testing.T) {
	t.Parallel()
	s := harness.New(t)
	tenants := []*harness.Tenant{s.Tenant(t), s.Tenant(t)}
	traffic := func() {
		for _, tenant := range tenants {
			for _, d := range dialects() {
				for _, fault := range []string{"", "500", "cut", "no-usage"} {
					send(t, s, d.generate(d.name, true, 32).by(tenant.Key).with("X-Mock-Fault", fault))
				}
			}
			send(t, s, request{key: tenant.Key, path: "/v1/chat/completions", body: "{"})
			closeBooks(t, s, tenant)
		}
	}
	traffic()
	before, err := readTotals(t.Context(), s, tenants)
	if err != nil {
		t.Fatalf("reading the totals: %v", err)
	}
	if len(before.Ledger) != 2*13 || len(before.Usage) == 0 || len(before.Spend) != 2 {
		t.Fatalf("%d entries in the ledger, %d groups in the usage report, %d workspaces in the spend table", len(before.Ledger), len(before.Usage), len(before.Spend))
	}
	for _, wipe := range []struct {
		name string
		do   func(t *testing.T, dir string)
		// again are the projections that have to begin anew.
		again []string
	}{
		{"ClickHouse", wipeClickHouse, []string{"requests", "corrections"}},
		{"the read models of PostgreSQL", func(t *testing.T, dir string) {
			wipePostgres(t, s, dir, "DROP TABLE ledger, balances, balance_reservations")
		}, []string{"ledger", "balances", "corrections"}},
		{"everything at once, checkpoints included", func(t *testing.T, dir string) {
			wipeClickHouse(t, dir)
			wipePostgres(t, s, dir, "DROP SCHEMA public CASCADE")
		}, []string{"requests", "ledger", "balances", "corrections"}},
	} {
		old := generations(t, s)
		s.Restart(t, func(dir string) { wipe.do(t, dir) })
		harness.Eventually(t, 30*time.Second, func() error {
			after, err := readTotals(t.Context(), s, tenants)
			if err != nil {
				return err
			}
			if diff := cmp.Diff(before, after); diff != "" {
				return fmt.Errorf("after a wipe of %s (-before +after):\n%s", wipe.name, diff[:min(len(diff), 3000)])
			}
			now := generations(t, s)
			for _, name := range wipe.again {
				if now[name] == old[name] {
					return fmt.Errorf("after a wipe of %s: projection %s was not made again", wipe.name, name)
				}
			}
			return nil
		})
		for name, generation := range generations(t, s) {
			if generation != old[name] && !slices.Contains(wipe.again, name) {
				t.Errorf("after a wipe of %s: projection %s was made again", wipe.name, name)
			}
		}
	}
	traffic() // and go on from there
}

// generations are the lives of the projections' targets.
func generations(t *testing.T, s *harness.System) map[string]string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.Config().PostgresURL)
	if err != nil {
		t.Fatalf("connecting to PostgreSQL: %v", err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	rows, err := conn.Query(t.Context(), "SELECT projection, generation FROM projection_generations")
	if err != nil {
		t.Fatalf("reading the generations: %v", err)
	}
	found := map[string]string{}
	var name, generation string
	if _, err := pgx.ForEachRow(rows, []any{&name, &generation}, func() error { found[name] = generation; return nil }); err != nil {
		t.Fatalf("reading the generations: %v", err)
	}
	return found
}

func wipeClickHouse(t *testing.T, dir string) {
	t.Helper()
	folder := filepath.Join(dir, "clickhouse")
	if _, err := os.Stat(folder); err != nil {
		t.Fatalf("ClickHouse's data are not where they were: %v", err)
	}
	if err := os.RemoveAll(folder); err != nil {
		t.Fatalf("wiping ClickHouse: %v", err)
	}
}

// wipePostgres runs a statement while nothing else of the system runs.
func wipePostgres(t *testing.T, s *harness.System, dir, statement string) {
	t.Helper()
	ctx := t.Context()
	url := s.Config().PostgresURL
	if !harness.Real() { // the embedded one is down
		p, err := postgres.Start(ctx, postgres.Config{Dir: filepath.Join(dir, "postgres")})
		if err != nil {
			t.Fatalf("starting PostgreSQL: %v", err)
		}
		defer func() {
			if err := p.Close(); err != nil {
				t.Errorf("stopping PostgreSQL: %v", err)
			}
		}()
		url = p.URL()
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatalf("connecting to PostgreSQL: %v", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, statement); err != nil {
		t.Fatalf("%s: %v", strings.Fields(statement)[0], err)
	}
}
