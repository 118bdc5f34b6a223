package lua_test

import (
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/schemas/keyspace"
)

// A connection may still lead to a primary that was replaced. What it says of a cancellation counts for nothing: the grant may stand on the one that replaced it.
func TestACancellationOnAReplacedPrimaryDoesNotCount(t *testing.T) {
	t.Parallel()
	field := keyspace.Balance("b", 1, "") + "0"
	request := &lua.Request{Workspace: "ws", Reservation: "r/1", Holds: []lua.Hold{{Balance: keyspace.Balance("b", 1, ""), Amount: 5, Limit: 10, Hard: true}}}
	servers := map[string]*lua.Admissions{}
	for n, name := range []string{"replaced", "primary"} {
		r := redistest.Start(t)
		store := openStore(t, lua.StoreConfig{URL: r.URL(), Timeout: patient})
		in := &lua.Installation{Cut: lua.Cut{Workspace: "ws", Epoch: uint64(n + 1), Posted: map[string]int64{}}}
		if n == 1 {
			in.Open = []lua.Entry{{ID: "r/1", Producer: "p", Amounts: []lua.Amount{{Field: field, Nano: 5}}}}
		}
		if ok, err := lua.NewBalances(store).Install(t.Context(), in); err != nil || !ok {
			t.Fatalf("%v %v", ok, err)
		}
		a := lua.NewAdmissions(store, prometheus.NewRegistry())
		a.Obey(func(string) (uint64, bool) { return 2, true })
		servers[name] = a
		t.Cleanup(func() {
			if got := r.Client().HGet(t.Context(), keyspace.State("ws"), "er/1").Val(); got != "" {
				t.Errorf("the %s keeps %q", name, got)
			}
		})
	}
	if err := servers["replaced"].Adjust(t.Context(), lua.Cancel, request, 0); !errors.Is(err, lua.ErrNoEpoch) {
		t.Errorf("got %v, want ErrNoEpoch", err)
	}
	for range 2 {
		if err := servers["primary"].Adjust(t.Context(), lua.Cancel, request, 0); err != nil {
			t.Error(err)
		}
	}
	if err := servers["replaced"].Adjust(t.Context(), lua.Cancel, &lua.Request{Workspace: "ws", Reservation: "l/1"}, 0); err != nil {
		t.Errorf("of limits alone: %v", err)
	}
}
