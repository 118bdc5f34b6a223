package e2e_test

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rateguard/rateguard/tests/harness"
)

// leaving is a client that does not wait for the end.
type leaving struct {
	name   string
	stream bool
	// pace is how fast the provider answers.
	pace string
	// first says that the client leaves after the first tokens, not before anything came.
	first  bool
	charge charge
}

// A client that leaves is logged as 499. Its upstream may go on for the drain time of 5 s: an answer that ends within it
// is charged exactly; of one that is cut off then what was produced is charged; where nothing came, the bound.
func TestClientThatLeavesPaysForWhatWasProduced(t *testing.T) {
	t.Parallel()
	cases := []leaving{
		{name: "in a stream that goes on for long", stream: true, pace: "tps=100,chunk=5", first: true, charge: counted},
		{name: "in a stream that ends soon", stream: true, pace: "tps=2000,chunk=40", first: true, charge: exact},
		{name: "before a stream has begun", stream: true, pace: "ttft=1m", charge: bound},
		{name: "before a whole answer", pace: "ttft=1m", charge: bound},
	}
	s := harness.Shared(t)
	tenants := map[string]*harness.Tenant{}
	var wg sync.WaitGroup
	for _, d := range dialects() {
		tenants[d.name] = s.Tenant(t)
	}
	for _, d := range dialects() {
		for _, c := range cases {
			wg.Go(func() { c.leave(t, s, d, tenants[d.name]) })
		}
	}
	wg.Wait()
	for _, d := range dialects() {
		keys := map[string]bool{}
		for _, c := range cases {
			keys[c.key(d, tenants[d.name])] = true
		}
		records := served(t, s, keys)
		accounts := map[string]account{}
		for _, a := range closeBooks(t, s, tenants[d.name]).forwarded {
			accounts[a.idempotency] = a
		}
		if len(accounts) != len(cases) {
			t.Errorf("%s: %d requests are in the books, want %d", d.name, len(accounts), len(cases))
		}
		for _, c := range cases {
			t.Run(d.name+" "+c.name, func(t *testing.T) {
				key := c.key(d, tenants[d.name])
				want := outcome{status: 499, charge: c.charge}
				if c.charge == bound {
					want.rowCode = "upstream_unreachable"
				}
				// Gemini tells its usage so far with every piece: what came is then exactly known, and still no whole answer.
				if c.charge == counted && d == geminiDialect {
					want.charge = reported
				}
				want.checkAccount(t, accounts[key], records[key])
			})
		}
	}
}

func (c leaving) key(d dialect, tenant *harness.Tenant) string { return tenant.ID + d.name + c.name }

// leave sends the request and leaves when its time has come.
func (c leaving) leave(t *testing.T, s *harness.System, d dialect, tenant *harness.Tenant) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := d.generate(d.name, c.stream, 4000).by(tenant.Key).with("Idempotency-Key", c.key(d, tenant)).
		with("X-Mock-Pace", c.pace).with("X-Mock-Usage", "output=4000")
	if c.first {
		response := open(ctx, t, s.ProxyURL, r)
		defer func() { _ = response.Body.Close() }()
		lines := bufio.NewScanner(response.Body)
		for events := 0; events < 6 && lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "data:") {
				events++
			}
		}
		cancel()
		return
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		response, err := http.DefaultClient.Do(newRequest(ctx, t, s.ProxyURL, r))
		if err == nil { // the head of a stream may have come
			_ = response.Body.Close()
		}
	}()
	harness.Eventually(t, 60*time.Second, func() error { return reached(s, c.key(d, tenant)) })
	cancel()
	<-gone
}
