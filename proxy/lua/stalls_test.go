package lua_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
)

// A Redis that stops for a moment, for longer than limits wait for it, refuses nothing under a hard budget: not the calls that have reached it, and not those
// behind them for whom it was given up already.
func TestHardBudgetsOutlastAStall(t *testing.T) {
	t.Parallel()
	_, _, r := installed(t)
	s := openStore(t, lua.StoreConfig{URL: r.URL()})
	a := lua.NewAdmissions(s, prometheus.NewRegistry())
	soft := hold("soft", 10*usd, 1)
	soft.Hard = false
	if _, err := a.Admit(t.Context(), reserve("first", soft)); err != nil {
		t.Fatal(err)
	}
	r.Stop()
	var all sync.WaitGroup
	admit := func(id string, h lua.Hold) error {
		d, err := a.Admit(t.Context(), reserve(id, h))
		if err == nil && !d.Admitted {
			err = fmt.Errorf("denied: %+v", d)
		}
		return err
	}
	for i := range 8 {
		all.Go(func() {
			if err := admit(fmt.Sprint("soft ", i), soft); !errors.Is(err, lua.ErrUnavailable) {
				t.Errorf("soft: %v", err)
			}
		})
		all.Go(func() {
			if err := admit(fmt.Sprint("hard ", i), hold("hard", 10*usd, 1)); err != nil {
				t.Errorf("hard: %v", err)
			}
		})
	}
	redistest.Until(t, "Redis to be given up", func() bool { return admit("open", soft) != nil })
	all.Go(func() {
		if err := admit("behind", hold("hard", 10*usd, 1)); err != nil {
			t.Errorf("hard: %v", err)
		}
	})
	time.AfterFunc(4*lua.DefaultTimeout, r.Continue)
	all.Wait()
}
