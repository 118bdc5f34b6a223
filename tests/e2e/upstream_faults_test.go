package e2e_test

import (
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/deploy/mockprovider"
	"github.com/rateguard/rateguard/tests/harness"
)

// charge is how a request is to be charged.
type charge int

const (
	// nothing: the provider did no work that it bills.
	nothing charge = iota
	// exact: what the provider said it used, by the oracle.
	exact
	// counted: our own count of what came, marked as an estimate.
	counted
	// bound: nobody knows what the provider did; marked as an estimate.
	bound
	// reported: what the provider had said before it broke off; whether that is all nobody knows.
	reported
)

func (c charge) kind() string {
	return [...]string{nothing: "voided", exact: "settled", counted: "settled", bound: "expired", reported: "settled"}[c]
}

// outcome is what a fault of the upstream does to a request.
type outcome struct {
	fault string
	// route has its own times and address; empty: the dialect's.
	route string
	// status and code are what the client sees, cut that its answer breaks off.
	status int
	code   string
	cut    bool
	charge charge
	// rowCode is the error in the row when it is not the client's.
	rowCode string
}

// wholeAnswers and streams are the same faults seen by a client that waits for a whole answer and one that streams.
var (
	wholeAnswers = []outcome{
		{fault: "", status: 200, charge: exact},
		{fault: "500", status: 500, charge: nothing},
		{fault: "429", status: 429, charge: nothing},
		{fault: "404", status: 404, charge: nothing},
		{fault: "hang", route: "hasty", status: 504, code: "upstream_timeout", charge: bound},
		{fault: "reset", status: 502, code: "upstream_unreachable", charge: bound},
		{fault: "cut", status: 502, code: "upstream_unreachable", charge: bound},
		{fault: "stall", route: "hasty", status: 504, code: "upstream_timeout", charge: bound},
		{fault: "no-usage", status: 200, charge: counted},
		{fault: "refused", route: "closed", status: 502, code: "upstream_unreachable", charge: nothing},
	}
	streams = []outcome{
		{fault: "", status: 200, charge: exact},
		{fault: "500", status: 500, charge: nothing},
		{fault: "429", status: 429, charge: nothing},
		{fault: "hang", route: "hasty", status: 504, code: "upstream_timeout", charge: bound},
		{fault: "reset", status: 502, code: "upstream_unreachable", charge: bound},
		{fault: "cut", status: 200, cut: true, charge: counted, rowCode: "upstream_unreachable"},
		{fault: "stall", route: "hasty", status: 200, cut: true, charge: counted, rowCode: "upstream_timeout"},
		{fault: "broken-sse", status: 200, charge: exact},
		{fault: "split", status: 200, charge: exact},
		{fault: "no-usage", status: 200, charge: counted},
		{fault: "no-end", status: 200, charge: reported},
		{fault: "error-event", status: 200, charge: reported},
		{fault: "refused", route: "closed", status: 502, code: "upstream_unreachable", charge: nothing},
	}
)

func TestUpstreamFaults(t *testing.T) {
	t.Parallel()
	for _, d := range dialects() {
		for name, outcomes := range map[string][]outcome{"whole": wholeAnswers, "stream": streams} {
			t.Run(d.name+" "+name, func(t *testing.T) {
				t.Parallel()
				testFaults(t, d, name == "stream", outcomes)
			})
		}
	}
}

// testFaults sends one request for each fault, all at once, and then looks at what all of them left in the stores.
func testFaults(t *testing.T, d dialect, stream bool, outcomes []outcome) {
	s := harness.Shared(t)
	tenant := s.Tenant(t)
	tenant.Route("hasty", adminclient.PutRoute{Provider: d.name, BaseURL: s.MockURL, Timeout: "1s", IdleTimeout: "1s"})
	tenant.Route("closed", adminclient.PutRoute{Provider: d.name, BaseURL: "http://127.0.0.1:1"}) // nobody listens there
	awaitRoutes(t, s, tenant, d.generate("hasty", stream, 1), d.generate("closed", stream, 1))

	answers := make([]answer, len(outcomes))
	keys := map[string]bool{}
	var wg sync.WaitGroup
	for i, o := range outcomes {
		route := o.route
		if route == "" {
			route = d.name
		}
		keys[tenant.ID+o.fault] = true
		wg.Go(func() {
			answers[i] = send(t, s, d.generate(route, stream, 256).by(tenant.Key).with("X-Mock-Fault", mockFault(o)).with("Idempotency-Key", tenant.ID+o.fault))
		})
	}
	wg.Wait()
	b := closeBooks(t, s, tenant)
	if len(b.forwarded) != len(outcomes) {
		t.Errorf("%d requests are in the books, want %d", len(b.forwarded), len(outcomes))
	}
	records := served(t, s, keys)
	for i, o := range outcomes {
		t.Run("fault "+o.fault, func(t *testing.T) {
			got := answers[i]
			o.checkAnswer(t, d, stream, got, answers[0])
			o.checkAccount(t, b.forwarded[got.id()], records[tenant.ID+o.fault])
		})
	}
}

// mockFault is the fault as the mock is asked for it; a closed port is none of its own.
func mockFault(o outcome) string {
	if o.fault == "refused" {
		return ""
	}
	return o.fault
}

// checkAnswer holds what the client saw against the outcome; sound is the answer without a fault.
func (o outcome) checkAnswer(t *testing.T, d dialect, stream bool, got, sound answer) {
	t.Helper()
	if got.status != o.status || got.code() != o.code {
		t.Errorf("got %d %q, want %d %q: %.300s", got.status, got.code(), o.status, o.code, got.body)
	}
	if got.id() == "" {
		t.Error("the answer has no x-request-id")
	}
	if (got.cut != nil) != o.cut || o.cut && got.cut != io.ErrUnexpectedEOF { //nolint:errorlint // net/http's own, unwrapped
		t.Errorf("the answer ends with %v, want it cut: %t", got.cut, o.cut)
	}
	if o.code != "" {
		checkError(t, d.name, got, o.status)
	}
	if o.status == 429 && got.header.Get("Retry-After") != "1" {
		t.Errorf("the upstream's retry-after is %q, want 1", got.header.Get("Retry-After"))
	}
	if stream && o.charge == exact && !strings.Contains(got.body, d.mark) {
		t.Errorf("the stream has no end: %q", got.body[max(0, len(got.body)-200):])
	}
	if o.fault == "split" && strings.Count(got.body, "data:") != strings.Count(sound.body, "data:") {
		t.Errorf("a stream that comes in splinters has %d events, want %d", strings.Count(got.body, "data:"), strings.Count(sound.body, "data:"))
	}
}

func (o outcome) checkAccount(t *testing.T, a account, r mockprovider.Record) {
	t.Helper()
	code := o.rowCode
	if code == "" {
		code = o.code
	}
	if int(a.status) != o.status || a.code != code {
		t.Errorf("the row has %d %q, want %d %q", a.status, a.code, o.status, code)
	}
	if a.entry.kind != o.charge.kind() {
		t.Errorf("the ledger has it %s, want %s", a.entry.kind, o.charge.kind())
	}
	switch o.charge {
	case nothing:
		if show(a.cost) != "0" || a.estimated {
			t.Errorf("costs %s (estimated %t), want 0", show(a.cost), a.estimated)
		}
	case exact:
		if value(a.cost) != billed(t, r) || a.estimated {
			t.Errorf("costs %s (estimated %t), want exactly %d", show(a.cost), a.estimated, billed(t, r))
		}
	case bound:
		if value(a.cost) == 0 || value(a.cost) != value(a.entry.bound) || !a.estimated {
			t.Errorf("costs %s (estimated %t), want the bound %s", show(a.cost), a.estimated, show(a.entry.bound))
		}
	case counted:
		if !a.estimated {
			t.Error("is not marked as an estimate")
		}
		checkCount(t, a, r)
	case reported:
		checkCount(t, a, r)
	}
}

// checkCount holds our own count of what was produced against what the provider would bill: right in its order of
// magnitude, and never above the bound.
func checkCount(t *testing.T, a account, r mockprovider.Record) {
	t.Helper()
	want := billed(t, r)
	if got := value(a.cost); got <= 0 || got > value(a.entry.bound) || got < want/3 || got > want*3 {
		t.Errorf("costs %d, want about %d and at most %s", got, want, show(a.entry.bound))
	}
}
