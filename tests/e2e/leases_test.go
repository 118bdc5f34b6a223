package e2e_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/tests/harness"
	"github.com/rateguard/rateguard/tests/harness/faults"
)

// startProcesses starts n proxies of the system and waits until they serve the tenant.
func startProcesses(t *testing.T, s *harness.System, tenant *harness.Tenant, n int) (all []*faults.Proxy) {
	t.Helper()
	for range n {
		all = append(all, faults.StartProxy(t, s, s.Config().RedisURL))
	}
	for _, p := range all {
		harness.Eventually(t, time.Minute, func() error {
			status, err := get(t, p.URL+"/nowhere/x", tenant.Key)
			if err == nil && status != http.StatusNotFound { // 401 until the key is known
				err = fmt.Errorf("it answers %d", status)
			}
			return err
		})
	}
	return all
}

func get(t *testing.T, url, key string) (status int, err error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	r.Header.Set("Authorization", "Bearer "+key)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer func() { _ = response.Body.Close() }()
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, err
}

// lent reads from a proxy's metrics how many units it got to spend by itself.
func lent(t *testing.T, p *faults.Proxy) (units float64) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.Ops+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatalf("reading metrics: %v", err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("reading metrics: %v", err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "rateguard_proxy_leases_units_total "); ok {
			if _, err := fmt.Sscan(value, &units); err != nil {
				t.Fatal(err)
			}
		}
	}
	return units
}

// Three real processes share a leased limit, and one of them is killed with what it holds. Together they let through what burst and rate allow
// and what may be held; the dead one's part is missing once, and no more.
func TestThreeProcessesShareALeasedLimit(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	tenant := s.Tenant(t)
	const rate, burst, held = 20, 2000, 100
	limit := adminclient.PutLimit{Limit: rate, Window: "1s", Burst: burst, Mode: "leased"}
	if _, err := s.Admin.PutLimit(t.Context(), tenant.ID, "shared", limit); err != nil {
		t.Fatalf("setting the limit: %v", err)
	}
	proxies := startProcesses(t, s, tenant, 3)
	var served, refused atomic.Int64
	var dead atomic.Bool
	start := time.Now()
	var wg sync.WaitGroup
	for i, p := range proxies {
		for range 4 {
			wg.Go(func() {
				for (time.Since(start) < 8*time.Second || refused.Load() < burst/5) && (i != 0 || !dead.Load()) {
					status, err := get(t, p.URL+"/http/x", tenant.Key)
					switch {
					case err != nil && i == 0 && dead.Load():
						return
					case err != nil:
						t.Errorf("proxy %d: %v", i, err)
						return
					case status == http.StatusOK:
						served.Add(1)
					case status == http.StatusTooManyRequests:
						refused.Add(1)
					default:
						t.Errorf("proxy %d answers %d", i, status)
						return
					}
				}
			})
		}
	}
	harness.Eventually(t, time.Minute, func() error {
		if n := served.Load(); n < burst/2 {
			return fmt.Errorf("%d are served", n)
		}
		return nil
	})
	units := lent(t, proxies[0])
	dead.Store(true)
	proxies[0].Kill()
	wg.Wait()
	elapsed := time.Since(start).Seconds()
	for _, p := range proxies[1:] {
		units += lent(t, p)
	}
	got, all := float64(served.Load()), burst+rate*elapsed
	t.Logf("%.0f of %.0f were served in %.1f s, %d refused, %.0f of them by leases at most", got, all, elapsed, refused.Load(), units)
	if got > all+held {
		t.Errorf("%.0f were served, allowed are %.0f", got, all+held)
	}
	if got < all-held-0.02*all {
		t.Errorf("%.0f were served of %.0f, and one process can have taken %d with it", got, all, held)
	}
	if units == 0 {
		t.Error("nobody held anything: this shows nothing")
	}
}
