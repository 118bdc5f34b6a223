package projections_test

import (
	"fmt"
	"testing"

	"github.com/rateguard/rateguard/projections"
	"github.com/rateguard/rateguard/projections/runner"
)

// Whatever is wiped, the stores are made again from the log and show the same sums.
func TestWipedStoresAreMadeAgain(t *testing.T) {
	tests := []struct {
		name string
		wipe func(r *rig)
		// again lists the projections that have to begin a new generation.
		again []string
	}{
		{"ClickHouse lost its table, the checkpoints are left", func(r *rig) { r.execClickHouse("DROP TABLE requests SYNC") }, []string{"requests"}},
		{"ClickHouse lost its rows", func(r *rig) { r.execClickHouse("TRUNCATE TABLE requests") }, []string{"requests"}},
		{"the table is of another generation", func(r *rig) {
			r.execClickHouse(`ALTER TABLE requests MODIFY COMMENT '{"generation":"other","migration":1}'`)
		}, []string{"requests"}},
		{"ClickHouse lost the table of corrections", func(r *rig) { r.execClickHouse("DROP TABLE corrections SYNC") }, []string{"corrections"}},
		{"ClickHouse lost the rows of corrections", func(r *rig) { r.execClickHouse("TRUNCATE TABLE corrections") }, []string{"corrections"}},
		{"ClickHouse lost everything", func(r *rig) {
			r.execClickHouse("DROP TABLE requests SYNC")
			r.execClickHouse("DROP TABLE corrections SYNC")
		}, []string{"requests", "corrections"}},
		{"PostgreSQL lost the ledger's rows", func(r *rig) { r.exec(r.pg, "TRUNCATE ledger") }, []string{"ledger", "corrections"}},
		{"PostgreSQL lost one table of the balances", func(r *rig) { r.exec(r.pg, "TRUNCATE balances") }, []string{"balances"}},
		{"PostgreSQL lost everything, ClickHouse is left", func(r *rig) {
			r.exec(r.pg, "DROP SCHEMA public, control, migrations CASCADE")
		}, []string{"requests", "ledger", "balances", "corrections"}},
		{
			"PostgreSQL lost the schema of the read models", func(r *rig) { r.exec(r.pg, "DROP SCHEMA public CASCADE") },
			[]string{"requests", "ledger", "balances", "corrections"},
		},
		{"PostgreSQL lost the table of the ledger", func(r *rig) { r.exec(r.pg, "DROP TABLE ledger") }, []string{"ledger", "corrections"}},
		{"PostgreSQL lost the ledger and ClickHouse the corrections", func(r *rig) {
			r.exec(r.pg, "TRUNCATE ledger")
			r.execClickHouse("DROP TABLE corrections SYNC")
		}, []string{"ledger", "corrections"}},
		{"nothing", func(*rig) {}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r, tr := newRig(t), newTraffic(6)
			stop := r.start()
			r.send(tr.load(100)...)
			r.send(tr.corrected(60)...)
			r.caughtUp()
			before := map[string]string{}
			for _, p := range projections.All(r.ch) {
				before[p.Name] = r.generation(p.Name)
			}
			stop()
			test.wipe(r)
			r.start()
			r.send(tr.corrected(30)...)
			r.eventually("the role has looked at the stores", r.newGenerations(before, test.again))
			r.caughtUp()
			r.verify(tr.want)
			for name, old := range before {
				if fresh, want := r.generation(name) != old, contains(test.again, name); fresh != want {
					t.Errorf("%s: new generation %v, want %v", name, fresh, want)
				}
			}
		})
	}
}

// A store that is wiped while the role runs is noticed, also where nothing is written after that.
func TestClickHouseWipedWhileRunning(t *testing.T) {
	for _, test := range []struct {
		name, table string
		more        int
		wipe        string
	}{
		{"requests go on", "requests", 50, "DROP TABLE requests SYNC"},
		{"nothing comes any more", "requests", 0, "TRUNCATE TABLE requests"},
		{"nothing is corrected any more", "corrections", 50, "DROP TABLE corrections SYNC"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, tr := newRig(t), newTraffic(7)
			r.start()
			r.send(tr.load(100)...)
			r.send(tr.corrected(30)...)
			r.caughtUp()
			before := map[string]string{test.table: r.generation(test.table)}
			r.execClickHouse(test.wipe)
			r.send(tr.load(test.more)...)
			r.eventually("the wipe is noticed", r.newGenerations(before, []string{test.table}))
			r.caughtUp()
			r.verify(tr.want)
		})
	}
}

// What a crash left half in the table is removed and inserted again.
func TestHalfInsertedRangeIsRepaired(t *testing.T) {
	for i, projection := range []string{"requests", "requests", "corrections", "corrections"} {
		left := i % 2
		t.Run(fmt.Sprintf("%s, %d of every 2 rows left", projection, left), func(t *testing.T) {
			r, tr := newRig(t), newTraffic(8)
			r.send(tr.corrected(100)...)
			crashed := make(chan struct{})
			stop := r.start(func(c *projections.Config) {
				c.Fail = func(p string, s runner.Step) error {
					if p != projection || s != runner.StepInserted {
						return nil
					}
					select {
					case <-crashed:
					default:
						close(crashed)
					}
					return fmt.Errorf("crash at step %s", s)
				}
			})
			<-crashed
			stop()
			r.execClickHouse(fmt.Sprintf("ALTER TABLE %s DELETE WHERE cityHash64(_offset, _idx) %% 2 >= %d SETTINGS mutations_sync = 2", projection, left))
			r.start()
			r.caughtUp()
			r.verify(tr.want)
		})
	}
}
