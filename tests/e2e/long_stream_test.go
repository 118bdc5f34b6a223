package e2e_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/tests/harness"
)

// setting is a number from the environment, or what it is without.
func setting(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text, ok := os.LookupEnv(name)
	if !ok {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// streamSeconds is how long the stream lasts: longer than a silent process is taken for gone. RATEGUARD_STREAM_SECONDS makes it 20 minutes.
func streamSeconds(t *testing.T) int {
	t.Helper()
	return setting(t, "RATEGUARD_STREAM_SECONDS", 75)
}

// A long stream keeps what it has reserved until its end, also through a loss of Redis half way, while other requests come and go. Then it is charged once, by its usage.
func TestALongStreamKeepsItsReservation(t *testing.T) {
	t.Parallel()
	s := harness.New(t)
	tenant := s.Tenant(t)
	seconds := streamSeconds(t)
	// It lasts for many times what it may be silent.
	tenant.Route("openai", adminclient.PutRoute{Provider: "openai", BaseURL: s.MockURL, IdleTimeout: "15s"})
	setBudget(t, s, tenant, "all", adminclient.PutBudget{USD: "0.000000001", Period: "total"})
	short := request{method: http.MethodGet, key: tenant.Key, path: "/http/x"}
	awaitHeld(t, s.ProxyURL, short, http.StatusPaymentRequired)
	setBudget(t, s, tenant, "all", adminclient.PutBudget{USD: "10", Period: "total"})
	awaitHeld(t, s.ProxyURL, short, http.StatusOK)

	start := time.Now()
	response := open(t.Context(), t, s.ProxyURL, request{
		key: tenant.Key, path: "/v1/chat/completions", header: map[string]string{"X-Mock-Pace": "tps=1,chunk=1", "X-Mock-Usage": "output=" + strconv.Itoa(seconds)},
		body: fmt.Sprintf(`{"model":"gpt-4o","max_tokens":%d,"messages":[{"role":"user","content":"hi"}],"stream":true,"stream_options":{"include_usage":true}}`, 2*seconds),
	})
	defer func() { _ = response.Body.Close() }()
	type end struct {
		text string
		err  error
	}
	ended := make(chan end, 1)
	go func() {
		b, err := io.ReadAll(response.Body)
		ended <- end{string(b), err}
	}()

	reserved := func() int64 {
		b, err := s.Admin.Budget(t.Context(), tenant.ID, "all")
		if err != nil || b.Balance == nil || b.Balance.Source != "live" {
			return -1 // a moment after a loss
		}
		return harness.Nano(t, &b.Balance.ReservedUSD)
	}
	var bound int64
	harness.Eventually(t, 60*time.Second, func() error {
		if bound = reserved(); bound <= 0 {
			return fmt.Errorf("reserved %d with the stream under way", bound)
		}
		return nil
	})
	rdb := redisOf(t, s)
	var other end
	wiped, looks := false, map[bool]int{} // by whether it was wiped
	var odd error                         // what was seen last, which the end of the stream explains if it comes by the next look
	for running := true; running; {
		select {
		case other = <-ended:
			running = false
			continue
		case <-time.After(time.Duration(seconds) * time.Second / 50):
		}
		if odd != nil {
			t.Fatal(odd)
		}
		if !wiped && time.Since(start) > time.Duration(seconds)*time.Second/2 {
			wiped = true
			if err := rdb.FlushAll(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
		}
		awaitHeld(t, s.ProxyURL, short, http.StatusOK) // after the loss, or where the machine stalls, a moment later
		switch got := reserved(); {
		case got >= bound && (got-bound)%harness.HTTPCostNano == 0: // the short ones may not be settled yet
			looks[wiped]++
		case got != -1:
			odd = fmt.Errorf("after %s the stream has %d reserved, not %d", time.Since(start), got, bound)
		}
	}
	if other.err != nil || !strings.Contains(other.text, "[DONE]") {
		t.Errorf("the stream was cut after %s: %v", time.Since(start), other.err)
	}
	if looks[false] < 5 || looks[true] < 5 {
		t.Errorf("its reservation was seen %d times before the loss and %d times after it", looks[false], looks[true])
	}
	row := tenant.Request(response.Header.Get("X-Request-Id"))
	cost := harness.Nano(t, row.CostUSD)
	if row.Estimated || cost <= 0 || cost >= bound {
		t.Errorf("it cost %d of %d: %+v", cost, bound, row)
	}
	posted := s.AwaitBalance(t, tenant, "all")
	a := s.ReadAdmissions(t, tenant.ID)
	if n := a.Check(); posted != cost+int64(n-1)*harness.HTTPCostNano || len(a.Epochs()) < 2 {
		t.Errorf("%d admissions in the epochs %v cost %d; the stream %d, each other one %d", n, a.Epochs(), posted, cost, harness.HTTPCostNano)
	}
	t.Logf("FIGURE a stream of %s under a hard budget", time.Since(start).Round(time.Second))
}
