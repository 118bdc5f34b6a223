package e2e_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/tests/harness"
)

// A limit that is made, changed or deleted acts on each of three proxies within a second, and what was used stays used. Not parallel: the
// others would take the time that it measures.
func TestALimitChangesOnEveryProxyWithinASecond(t *testing.T) {
	s := harness.Shared(t)
	tenant := s.Tenant(t)
	proxies := []string{s.ProxyURL, startEdge(t, s, t.TempDir(), s.Config().Kafka).url, startEdge(t, s, t.TempDir(), s.Config().Kafka).url}
	const answers, limited = http.StatusOK, http.StatusTooManyRequests
	for _, step := range []struct {
		name string
		put  adminclient.PutLimit
		want int
	}{
		{"made", adminclient.PutLimit{Limit: 1, Window: "1h"}, limited},
		{"raised", adminclient.PutLimit{Limit: 1_000_000, Window: "1h"}, answers},
		{"another algorithm, below what was used", adminclient.PutLimit{Limit: 1, Window: "1h", Algorithm: "sliding_window"}, limited},
		{"another algorithm, above it", adminclient.PutLimit{Limit: 1_000_000, Window: "1h", Algorithm: "fixed_window"}, answers},
		{"leased", adminclient.PutLimit{Limit: 1_000_000, Window: "1h", Mode: "leased"}, answers},
		{"leased and lowered", adminclient.PutLimit{Limit: 1, Window: "1h", Mode: "leased"}, limited},
		{"deleted", adminclient.PutLimit{}, answers},
	} {
		var err error
		if step.put.Limit == 0 {
			err = s.Admin.DeleteLimit(t.Context(), tenant.ID, "changing")
		} else {
			_, err = s.Admin.PutLimit(t.Context(), tenant.ID, "changing", step.put)
		}
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		harness.Eventually(t, harness.InForceWithin, func() error {
			// The first of them uses up what the others then lack.
			for _, base := range proxies {
				if got, code := askAt(t, base, request{method: http.MethodGet, key: tenant.Key, path: "/http/x"}); got != step.want {
					return fmt.Errorf("%s: %s answers %d %q, want %d", step.name, base, got, code, step.want)
				}
			}
			return nil
		})
	}
}
