package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/tests/harness"
)

// exhaust sends requests by the keys in turn until one is refused, and returns how many the limit admitted of each. It
// waits until all of them are in the log.
func exhaust(t *testing.T, s *harness.System, tenant *harness.Tenant, keys ...string) (admitted map[string]int, last string, refused answer) {
	t.Helper()
	admitted = map[string]int{}
	var ids []string
	n := 0
	harness.Eventually(t, 60*harness.InForceWithin, func() error {
		last = keys[n%len(keys)]
		n++
		got := send(t, s, request{method: http.MethodGet, key: last, path: "/http/x"})
		switch {
		case got.status == http.StatusTooManyRequests:
			refused = got
			return nil
		case got.status != http.StatusOK:
			t.Fatalf("got %d %s", got.status, got.body)
		case got.header.Get("Ratelimit") != "": // the limit was in force
			admitted[last]++
			ids = append(ids, got.id())
		}
		return fmt.Errorf("request %d is admitted", n)
	})
	for _, id := range append(ids, refused.id()) {
		tenant.Request(id)
	}
	return admitted, last, refused
}

func explain(t *testing.T, s *harness.System, tenant *harness.Tenant, id string) []string {
	t.Helper()
	doc, err := s.Admin.Explain(t.Context(), tenant.ID, id)
	if err != nil {
		t.Fatalf("explaining %s: %v", id, err)
	}
	var e adminclient.Explanation
	if err := json.Unmarshal(doc, &e); err != nil {
		t.Fatalf("reading the explanation: %v in %s", err, doc)
	}
	return e.Why
}

// Who is limited is told in words by what, who else used it, and by whose clock and policy it was decided.
func TestALimitedRequestIsExplained(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	tenant := s.Tenant(t)
	other, err := s.Admin.CreateKey(t.Context(), tenant.ID, adminclient.NewKey{Name: "other"})
	if err != nil {
		t.Fatalf("creating a key: %v", err)
	}
	put := func(name string, l adminclient.PutLimit) adminclient.Limit {
		t.Helper()
		l.Window = "24h"
		out, err := s.Admin.PutLimit(t.Context(), tenant.ID, name, l)
		if err != nil {
			t.Fatalf("setting limit %s: %v", name, err)
		}
		return out
	}
	harness.Eventually(t, 60*harness.InForceWithin, func() error {
		if got := send(t, s, request{method: http.MethodGet, key: other.Secret, path: "/http/x"}); got.status != http.StatusOK {
			return fmt.Errorf("the other key gets %d", got.status)
		}
		return nil
	})
	shared := put("shared", adminclient.PutLimit{Scope: "workspace", Limit: 6})
	admitted, last, refused := exhaust(t, s, tenant, tenant.Key, tenant.Key, other.Secret)
	why := explain(t, s, tenant, refused.id())
	ids := map[string]string{tenant.Key: tenant.KeyID, other.Secret: other.ID}
	for _, want := range []string{
		"Refused by limit shared: 6 requests per day for the whole workspace (workspace scope). 6 of 6 were used when the request came; it asked for 1.",
		"The same limit would have admitted it ",
		"Burst: 6 of 6 requests came within ",
		"Redis' clock, by which limits are decided, ",
		fmt.Sprintf("Decided with policy version %d.", shared.Version),
	} {
		if !slices.ContainsFunc(why, func(s string) bool { return strings.HasPrefix(s, want) }) {
			t.Errorf("no sentence %q in\n%s", want, strings.Join(why, "\n"))
		}
	}
	for key, n := range admitted {
		want := fmt.Sprintf("%d of key %s", n, ids[key])
		if key == last {
			want = fmt.Sprintf("%d of this request's key %s", n, ids[key])
		}
		if !slices.ContainsFunc(why, func(s string) bool {
			return strings.HasPrefix(s, "In the 24 h before, it admitted 6 requests: ") && strings.Contains(s, want)
		}) {
			t.Errorf("no sentence that says %q in\n%s", want, strings.Join(why, "\n"))
		}
	}

	put("shared", adminclient.PutLimit{Scope: "workspace", Limit: 1000})
	put("own", adminclient.PutLimit{Scope: "key", Algorithm: "sliding_window", Limit: 3})
	harness.Eventually(t, 60*harness.InForceWithin, func() error {
		got := send(t, s, request{method: http.MethodGet, key: tenant.Key, path: "/http/x"})
		if got.status != http.StatusOK || !strings.Contains(got.header.Get("Ratelimit"), `"own"`) {
			return fmt.Errorf("got %d with the limits %s", got.status, got.header.Get("Ratelimit"))
		}
		return nil
	})
	_, _, refused = exhaust(t, s, tenant, other.Secret)
	text := strings.Join(explain(t, s, tenant, refused.id()), "\n")
	for _, want := range []string{
		"Refused by limit own: 3 requests per day for key " + other.ID + " (key scope). 3 of 3 were used when the request came; it asked for 1.\n",
		"In the 24 h before, it admitted 3 requests of this key, by route and model: 3 to http.\n",
		"Limit shared: 1000 requests per day for the whole workspace (workspace scope). ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if got := send(t, s, request{method: http.MethodGet, key: other.Secret, path: "/nowhere/x"}); got.status == http.StatusNotFound {
		tenant.Request(got.id())
		if why := explain(t, s, tenant, got.id()); why[0] != "Refused with route_not_found (404): the workspace has no such route." {
			t.Errorf("an unknown route is explained by %q", why)
		}
	} else {
		t.Errorf("an unknown route answers %d", got.status)
	}
}
