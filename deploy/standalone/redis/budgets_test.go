package redis_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/deploy/standalone/redis"
	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/schemas/keyspace"
)

// The stand-in runs the scripts of budgets as a server does.
func TestTheStandInHoldsBudgets(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	s, err := redis.Start(t.Context(), redis.Config{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	store, err := lua.OpenStore(lua.StoreConfig{URL: s.URL(), Timeout: 5 * time.Second, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	balances, admissions := lua.NewBalances(store), lua.NewAdmissions(store, prometheus.NewRegistry())
	field := keyspace.BudgetPeriod{Budget: "b", Generation: 1}.Field()
	ok, err := balances.Install(t.Context(), &lua.Installation{
		Cut: lua.Cut{Workspace: "ws", Epoch: 1, To: 4, Posted: map[string]int64{field: 400}}, PolicyVersion: 1,
		Open: []lua.Entry{{ID: "old/1", Producer: "p0", Amounts: []lua.Amount{{Field: field, Nano: 300}}}}, Fenced: []string{"zombie"},
	})
	if err != nil || !ok {
		t.Fatalf("installing: %t %v", ok, err)
	}
	if at, err := balances.Places(t.Context(), []string{"ws"}); err != nil || at[0] != (lua.Place{Epoch: 1, At: 4}) {
		t.Errorf("place %+v %v", at, err)
	}
	request := func(id string, nano int64) *lua.Request {
		return &lua.Request{
			Workspace: "ws", Reservation: id, Key: "k", PolicyVersion: 1, Producer: "p1", Epoch: 1,
			Holds: []lua.Hold{{Balance: keyspace.Balance("b", 1, ""), Limit: 1000, Amount: nano, Hard: true}},
		}
	}
	if d, err := admissions.Admit(t.Context(), request("a/1", 301)); err != nil || d.Admitted {
		t.Errorf("above the limit: %+v %v", d, err)
	}
	r := request("b/1", 300)
	d, err := admissions.Admit(t.Context(), r)
	if err != nil || !d.Admitted || d.Held[0].ReservedNano != 600 || d.Op != 1 {
		t.Fatalf("within the limit: %+v %v", d, err)
	}
	r.Cost = 120
	if err := admissions.Adjust(t.Context(), lua.Settle, r, d.NowUS); err != nil {
		t.Fatal(err)
	}
	step := &lua.Step{Cut: lua.Cut{Workspace: "ws", Epoch: 1, To: 9, Posted: map[string]int64{field: 570}}, From: 4, Ended: []string{"b/1", "old/1"}}
	if applied, _, _, err := balances.Reconcile(t.Context(), step); err != nil || !applied {
		t.Fatalf("a step of the log: %t %v", applied, err)
	}
	if d, err := admissions.Admit(t.Context(), request("c/1", 430)); err != nil || !d.Admitted || d.Held[0].PostedNano != 570 || d.Held[0].ReservedNano != 430 {
		t.Errorf("what is left: %+v %v", d, err)
	}
	if entries, err := balances.Retire(t.Context(), lua.Retirement{Workspace: "ws", Producer: "p1", Least: 1}); err != nil || len(entries) != 1 || entries[0].ID != "c/1" {
		t.Errorf("retired: %+v %v", entries, err)
	}
}
