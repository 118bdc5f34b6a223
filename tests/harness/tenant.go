package harness

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rateguard/rateguard/deploy/adminclient"
)

// VisibleWithin is how soon after its answer a request is to be seen in the analytics.
const VisibleWithin = 3 * time.Second

// InForceWithin is how soon a change of configuration is to act on the proxy.
const InForceWithin = time.Second

// Credential is the upstream credential of every tenant's routes.
const Credential = "sk-upstream-credential"

// HTTPCostUSD is what a request of the route "http" costs, HTTPCostNano the same in nano-USD.
const (
	HTTPCostUSD  = "0.002"
	HTTPCostNano = 2_000_000
)

// Tenant is a workspace with the four demo routes to the mock provider and one key.
type Tenant struct {
	tb     testing.TB
	system Endpoints
	// ID is the workspace's, Key the secret of its key.
	ID, Key, KeyID string
}

// Tenant makes a workspace of tb's own and waits until the proxy serves it.
func (s Endpoints) Tenant(tb testing.TB) *Tenant {
	tb.Helper()
	ctx := tb.Context()
	w, err := s.Admin.CreateWorkspace(ctx, tb.Name())
	if err != nil {
		tb.Fatalf("creating a workspace: %v", err)
	}
	t := &Tenant{tb: tb, system: s, ID: w.ID}
	for _, provider := range []string{"openai", "anthropic", "gemini", "http"} {
		r := adminclient.PutRoute{Provider: provider, BaseURL: s.MockURL}
		if provider == "http" {
			r.Cost = &adminclient.Cost{Mode: "per_request", USD: HTTPCostUSD}
		}
		t.Route(provider, r)
	}
	k, err := s.Admin.CreateKey(ctx, w.ID, adminclient.NewKey{Name: tb.Name()})
	if err != nil {
		tb.Fatalf("creating a key: %v", err)
	}
	t.Key, t.KeyID = k.Secret, k.ID
	t.awaitServed()
	return t
}

// Route sets a route; it carries the harness's credential unless the route says otherwise.
func (t *Tenant) Route(name string, r adminclient.PutRoute) {
	t.tb.Helper()
	if r.Credential == nil {
		c := Credential
		r.Credential = &c
	}
	if _, err := t.system.Admin.PutRoute(t.tb.Context(), t.ID, name, r); err != nil {
		t.tb.Fatalf("setting route %s: %v", name, err)
	}
}

// awaitServed asks for a path whose route does not exist: while the key is unknown the answer is
// 401, once it is known 404, and in neither case is anything forwarded or charged.
func (t *Tenant) awaitServed() {
	t.tb.Helper()
	Eventually(t.tb, 60*InForceWithin, func() error {
		for _, route := range []string{"openai", "anthropic", "gemini", "http"} {
			status, err := t.probe(route)
			if err != nil {
				return err
			}
			if status == http.StatusUnauthorized || status == http.StatusNotFound {
				return fmt.Errorf("route %s answers %d", route, status)
			}
		}
		return nil
	})
}

// probe sends a body that is refused before it is forwarded, if key and route are known.
func (t *Tenant) probe(route string) (int, error) {
	path := map[string]string{"openai": "/v1/chat/completions", "anthropic": "/v1/messages", "gemini": "/v1beta/models/gemini-2.5-flash:generateContent"}[route]
	if path == "" {
		return http.StatusOK, nil
	}
	r, err := http.NewRequestWithContext(t.tb.Context(), http.MethodPost, t.system.ProxyURL+path, strings.NewReader("{"))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Authorization", "Bearer "+t.Key)
	r.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	return response.StatusCode, response.Body.Close()
}

// Request returns the row of a request, waiting until it is visible.
func (t *Tenant) Request(id string) adminclient.Request {
	t.tb.Helper()
	var row adminclient.Request
	Eventually(t.tb, 2*VisibleWithin, func() (err error) {
		row, err = t.system.Admin.Request(t.tb.Context(), t.ID, id)
		return err
	})
	return row
}

// Requests returns all rows of the workspace's forwarded requests by id.
func (t *Tenant) Requests() map[string]adminclient.Request {
	t.tb.Helper()
	rows := map[string]adminclient.Request{}
	for row, err := range t.system.Admin.Requests(t.tb.Context(), t.ID, adminclient.Period{}, nil) {
		if err != nil {
			t.tb.Fatalf("listing requests: %v", err)
		}
		if row.Decision != "forwarded" {
			continue
		}
		if _, ok := rows[row.ID]; ok {
			t.tb.Fatalf("request %s is there twice", row.ID)
		}
		rows[row.ID] = row
	}
	return rows
}

// Nano returns a decimal string of USD in nano-USD without the product's own arithmetic.
func Nano(tb testing.TB, usd *string) int64 {
	tb.Helper()
	if usd == nil {
		tb.Fatal("the cost is null")
	}
	r, ok := new(big.Rat).SetString(*usd)
	if !ok {
		tb.Fatalf("%q is no number", *usd)
	}
	r.Mul(r, big.NewRat(1_000_000_000, 1))
	if !r.IsInt() {
		tb.Fatalf("%q has more than nine decimals", *usd)
	}
	return r.Num().Int64()
}

// Eventually calls f until it returns nil, and fails the test with its last error after the time.
func Eventually(tb testing.TB, within time.Duration, f func() error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), within)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			tb.Fatalf("not within %s: %v", within, errors.Join(err, ctx.Err()))
		case <-tick.C:
		}
	}
}
