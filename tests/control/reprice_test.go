package control_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rateguard/rateguard/projections/balances"
	"github.com/rateguard/rateguard/projections/control"
	"github.com/rateguard/rateguard/projections/ledger"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/money"
	"github.com/rateguard/rateguard/schemas/price"
	"github.com/rateguard/rateguard/topics"
)

// reprice starts a run and waits for its end.
func (s *system) reprice(body map[string]any) answer {
	s.t.Helper()
	a := s.root().do("POST", "/v1/reprice", body).want(s.t, 202)
	return s.ended(a.text("id"))
}

func (s *system) ended(id string) (a answer) {
	s.t.Helper()
	await(s.t, id+" to end", func() bool {
		a = s.root().do("GET", "/v1/reprice/"+id, nil).want(s.t, 200)
		return a.text("state") == "done" || a.text("state") == "failed"
	})
	return a
}

// lines returns the difference as text, without the columns that are equal in all tests.
func lines(a answer) (all []string) {
	data, _ := a.body["data"].([]any)
	for _, d := range data {
		m := d.(map[string]any)
		all = append(all, fmt.Sprintf("%s %s %s: %v, %v changed, %v kept, %s to %s, %s", m["workspace"], m["provider"], m["model"], m["requests"], m["changed"],
			m["kept"], m["cost_usd"], m["new_cost_usd"], m["difference_usd"]))
	}
	return all
}

func wantLines(t *testing.T, what string, a answer, want ...string) {
	t.Helper()
	if got := lines(a); !slices.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func usd(nano int64) string { return money.Nano(nano).String() }

// from is less than the two days back that the table of spend keeps periods of, also for what lies an hour before it.
var from = time.Now().Add(-44 * time.Hour).UTC().Truncate(time.Hour)

// span is the time of the tests.
func span(more map[string]any) map[string]any {
	body := map[string]any{"from": from.Format(time.RFC3339), "to": from.Add(43 * time.Hour).Format(time.RFC3339), "reason": "a new price list"}
	for k, v := range more {
		body[k] = v
	}
	return body
}

// newPrices backdates other prices of gpt-4o, and of a model that had none, to the middle of the span.
func newPrices(s *system) *price.Catalogue {
	s.t.Helper()
	middle := from.Add(24 * time.Hour)
	own := map[string]int64{"input_tokens": 1_000_000, "output_tokens": 20_000_000}
	for _, model := range []string{"gpt-4o", "own-model"} {
		s.root().do("PUT", "/v1/prices/openai/"+model, overrides(map[string]any{
			"effective_from": middle.Format(time.RFC3339), "backdated": true, "usd_per_million": map[string]any{"input_tokens": "1", "output_tokens": "20"},
		})).want(s.t, 201)
	}
	var list []*rateguardv1.PriceHistory
	for _, model := range []string{"gpt-4o", "own-model"} {
		list = append(list, &rateguardv1.PriceHistory{Provider: "openai", Model: model, Version: 1, Overrides: []*rateguardv1.PriceOverride{
			{EffectiveFromUnixUs: middle.UnixMicro(), PicoUsd: own, Backdated: true},
		}})
	}
	c, err := price.Default().Restated(list)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// TestRepriceCorrectsEachCostOnce goes from the dry run to a second run that finds nothing.
func TestRepriceCorrectsEachCostOnce(t *testing.T) {
	b := newBooks(t)
	b.follow(ledger.New())
	b.follow(balances.New())
	s, _ := running(t, settings(t, b.database, b.kafka))
	catalogue := newPrices(s)
	a, other := id(s.workspace("a")), id(s.workspace("b"))
	if a > other {
		a, other = other, a
	}
	before, after, mini := map[string]int64{}, map[string]int64{}, int64(0)
	changed := map[string]int{}
	var all []spent
	for i := range 1300 {
		one := b.settled([]string{a, other}[i%2], from.Add(time.Duration(b.rng.Int64N(int64(43*time.Hour)))).Truncate(time.Microsecond))
		cost, _ := costOf(t, catalogue, "gpt-4o", one.at, *one.usage)
		before[one.ws], after[one.ws] = before[one.ws]+*one.cost, after[one.ws]+cost
		if cost != *one.cost {
			changed[one.ws]++
		}
		all = append(all, one)
	}
	// Another model, as it was; and one outside of the span, which stays.
	one := b.settled(a, from.Add(30*time.Hour))
	one.model = "gpt-4o-mini"
	mini, one.version = costOf(t, price.Default(), one.model, one.at, *one.usage)
	one.cost = &mini
	outside := b.settled(a, from.Add(-time.Hour))
	b.write(append(all, one, outside)...)
	b.caughtUp()

	line := func(ws, model string, n, changed int, before, after int64) string {
		return fmt.Sprintf("%s openai %s: %d, %d changed, 0 kept, %s to %s, %s", ws, model, n, changed, usd(before), usd(after), usd(after-before))
	}
	want := []string{
		line(a, "gpt-4o", 650, changed[a], before[a], after[a]),
		line(a, "gpt-4o-mini", 1, 0, mini, mini),
		line(other, "gpt-4o", 650, changed[other], before[other], after[other]),
	}
	dry := s.root().do("POST", "/v1/reprice", span(map[string]any{"dry_run": true})).want(t, 200)
	wantLines(t, "dry run", dry, want...)
	wantLines(t, "dry run of one", s.root().do("POST", "/v1/reprice", span(map[string]any{"dry_run": true, "workspace": other, "provider": "OpenAI", "model": "GPT-4*"})).want(t, 200), want[2])
	wantLines(t, "dry run of none", s.root().do("POST", "/v1/reprice", span(map[string]any{"dry_run": true, "model": "gpt_4o"})).want(t, 200))
	b.check(map[string]int64{a: before[a] + mini + *outside.cost, other: before[other]})

	l := follow(t, b.kafka, topics.Audit.Name)
	done := s.reprice(span(nil))
	wantLines(t, "the run", done, want...)
	if done.text("state") != "done" || done.text("reason") != "a new price list" || done.number("changed") != changed[a]+changed[other] {
		t.Errorf("the run: %s", done.raw)
	}
	b.check(map[string]int64{a: after[a] + mini + *outside.cost, other: after[other]})
	version := price.Default().Version() + "+override.1.backdated"
	if n := b.number("SELECT count(*) FROM ledger WHERE revision = 2 AND reason = $1 AND price_version = $2", done.text("id")+": a new price list", version); n != int64(changed[a]+changed[other]) {
		t.Errorf("%d corrections say why and by which price", n)
	}
	records := l.until("the audit records", func(all []record) bool {
		return slices.ContainsFunc(all, func(r record) bool { return r.key == other && r.event.GetControlAction().GetAction() == "reprice.done" })
	})
	var told []string
	for _, r := range records {
		if act := r.event.GetControlAction(); strings.HasPrefix(act.GetAction(), "reprice.") {
			told = append(told, r.key+" "+act.GetAction()+" "+act.GetActor())
			if !strings.Contains(string(act.GetAfterJson()), `"reason":"a new price list"`) {
				t.Errorf("%s says %s", act.GetAction(), act.GetAfterJson())
			}
		}
	}
	slices.Sort(told)
	if want := []string{"root reprice.done admin", "root reprice.start admin", a + " reprice.done admin", other + " reprice.done admin"}; !slices.Equal(told, want) {
		t.Errorf("told: %v", told)
	}

	for _, again := range []answer{s.root().do("POST", "/v1/reprice", span(map[string]any{"dry_run": true})).want(t, 200), s.reprice(span(nil))} {
		if again.number("changed") != 0 || again.text("difference_usd") != "0" || again.text("cost_usd") != done.text("new_cost_usd") {
			t.Errorf("again: %s", again.raw)
		}
	}
	// Without the override the costs are what they were.
	for _, model := range []string{"gpt-4o", "own-model"} {
		s.root().do("DELETE", "/v1/prices/openai/"+model, nil).want(t, 200)
	}
	s.reprice(span(nil))
	b.check(map[string]int64{a: before[a] + mini + *outside.cost, other: before[other]})
}

// TestRepriceKeepsWhatUsageDoesNotPrice has a cost of every other kind.
func TestRepriceKeepsWhatUsageDoesNotPrice(t *testing.T) {
	b := newBooks(t)
	b.follow(ledger.New())
	b.follow(balances.New())
	s, _ := running(t, settings(t, b.database, b.kafka))
	ws := id(s.workspace("a"))
	catalogue := newPrices(s)
	when := from.Add(30 * time.Hour)
	n := func(v int64) *int64 { return &v }
	version := price.Default().Version()
	u := &price.Usage{InputTokens: 1000, OutputTokens: 100}
	broken := &price.Usage{InputTokens: -1}
	base := spent{ws: ws, provider: "openai", model: "gpt-4o", version: version, at: when, usage: u}
	full, _ := costOf(t, catalogue, "gpt-4o", when, *u)
	with := func(change func(*spent)) spent {
		s := base
		change(&s)
		return s
	}
	keeps := 0
	for _, c := range []struct {
		name  string
		spent spent
		want  int64
	}{
		{"unknown outcome", with(func(s *spent) { s.kind, s.cost, s.usage = rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED, n(77), nil }), 77},
		{"voided", with(func(s *spent) { s.kind, s.cost, s.usage = rateguardv1.OutcomeKind_OUTCOME_KIND_VOIDED, n(0), nil }), 0},
		{"a price of the route", with(func(s *spent) { s.version, s.cost = "", n(88) }), 88},
		{"no usage", with(func(s *spent) { s.usage = nil }), 0},
		{"a usage that no price takes", with(func(s *spent) { s.usage, s.cost, s.estimated = broken, n(99), true }), 99},
		{"a model without price", with(func(s *spent) { s.model, s.cost = "nobody-sells-this", n(66) }), 66},
		{"an estimate, below what was reserved", with(func(s *spent) { s.cost, s.bound, s.estimated = n(1), n(1_000_000_000), true }), full},
		{"an estimate, up to what was reserved", with(func(s *spent) { s.cost, s.bound, s.estimated = n(1), n(full-5), true }), full - 5},
		{"the provider's count, above what was reserved", with(func(s *spent) { s.cost, s.bound = n(1), n(full-5) }), full},
		{"a model that had no price", with(func(s *spent) { s.model = "own-model" }), full},
	} {
		c.spent.ws = ws + "-" + strings.ReplaceAll(c.name, " ", "-")
		b.write(c.spent)
		b.caughtUp()
		if c.want == deref(c.spent.cost) {
			keeps++
		}
		if done := s.reprice(span(nil)); done.number("kept") != keeps {
			t.Errorf("%s: %s", c.name, done.raw)
		}
		b.check(map[string]int64{c.spent.ws: c.want})
	}
}

func deref(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

// TestRepriceSurvivesACrashAtEveryStep abandons runs at each point. Beside that, the relay loses what it knows of each correction that the
// brokers have acknowledged, and sends it again.
func TestRepriceSurvivesACrashAtEveryStep(t *testing.T) {
	b := newBooks(t)
	b.follow(ledger.New())
	b.follow(balances.New())
	query(t, b.database, `CREATE TABLE sent (value bytea PRIMARY KEY);
CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF OLD.topic = '`+topics.Costs.Name+`' AND NOT EXISTS (SELECT FROM sent WHERE value = OLD.value) THEN
    INSERT INTO sent VALUES (OLD.value);
    INSERT INTO control.outbox (topic, key, value) VALUES (OLD.topic, OLD.key, OLD.value);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER again AFTER DELETE ON control.outbox FOR EACH ROW EXECUTE FUNCTION again()`)
	cfg := settings(t, b.database, b.kafka)
	var mu sync.Mutex // guards the two below
	var step control.RepriceStep
	crashes := 0
	cfg.Fail = func(at control.RepriceStep) error {
		mu.Lock()
		defer mu.Unlock()
		if at != step || crashes == 2 {
			return nil
		}
		crashes++
		return errors.New("crash on purpose")
	}
	s, _ := running(t, cfg)
	catalogue := newPrices(s)
	for _, at := range []control.RepriceStep{
		control.RepriceBegun, control.RepriceWritten, control.RepriceCommitted, control.RepriceComputed, control.RepriceClosed, control.RepriceFinished,
	} {
		mu.Lock()
		step, crashes = at, 0
		mu.Unlock()
		ws := id(s.workspace(string(at)))
		want := int64(0)
		var all []spent
		for range 1200 {
			one := b.settled(ws, from.Add(time.Duration(b.rng.Int64N(int64(43*time.Hour)))))
			cost, _ := costOf(t, catalogue, "gpt-4o", one.at, *one.usage)
			want += cost
			all = append(all, one)
		}
		b.write(all...)
		done := s.reprice(span(map[string]any{"workspace": ws}))
		if done.text("state") != "done" || done.number("requests") != len(all) || done.text("new_cost_usd") != usd(want) {
			t.Errorf("%s: %.400s", at, done.raw)
		}
		mu.Lock()
		if crashes == 0 {
			t.Errorf("%s: nothing crashed", at)
		}
		mu.Unlock()
		b.check(map[string]int64{ws: want})
		corrections, ids := 0, map[string]bool{}
		for _, r := range b.read() {
			if c := r.event.GetCostCorrected(); c != nil && r.key == ws {
				corrections++
				ids[fmt.Sprint(c.GetOutcome().GetReservationId(), c.GetOutcome().GetRevision(), r.event.GetSequence())] = true
			}
		}
		if corrections != 2*done.number("changed") || len(ids) != done.number("changed") {
			t.Errorf("%s: %d corrections in the log, %d different ones, want %d, each twice", at, corrections, len(ids), done.number("changed"))
		}
	}
}

// TestRepriceGoesOnInAnotherProcess ends the one that began a run.
func TestRepriceGoesOnInAnotherProcess(t *testing.T) {
	b := newBooks(t)
	b.follow(ledger.New())
	b.follow(balances.New())
	cfg := settings(t, b.database, b.kafka)
	begun := make(chan struct{})
	once := sync.OnceFunc(func() { close(begun) })
	cfg.Fail = func(at control.RepriceStep) error {
		if at == control.RepriceCommitted {
			once()
			return errors.New("the last thing that this process does")
		}
		return nil
	}
	s, stop := running(t, cfg)
	ws := id(s.workspace("a"))
	catalogue := newPrices(s)
	want := int64(0)
	var all []spent
	for range 1200 {
		one := b.settled(ws, from.Add(30*time.Hour))
		cost, _ := costOf(t, catalogue, "gpt-4o", one.at, *one.usage)
		want += cost
		all = append(all, one)
	}
	b.write(all...)
	planned := s.root().do("POST", "/v1/reprice", span(nil)).want(t, 202)
	<-begun
	stop()
	next, _ := running(t, settings(t, b.database, b.kafka))
	if done := next.ended(planned.text("id")); done.number("changed") != len(all) {
		t.Errorf("the run: %.400s", done.raw)
	}
	b.check(map[string]int64{ws: want})
}

// TestRepriceWaitsForTheLedger has a ledger that is behind: neither costs that are not in it yet nor an earlier run may be missed.
func TestRepriceWaitsForTheLedger(t *testing.T) {
	b := newBooks(t)
	stop := b.follow(ledger.New())
	b.follow(balances.New())
	s, _ := running(t, settings(t, b.database, b.kafka))
	ws := id(s.workspace("a"))
	catalogue := newPrices(s)
	first, second := b.settled(ws, from.Add(30*time.Hour)), b.settled(ws, from.Add(31*time.Hour))
	b.write(first)
	b.caughtUp()
	stop()
	b.write(second)
	planned := s.root().do("POST", "/v1/reprice", span(nil)).want(t, 202)
	await(t, "the run to begin", func() bool {
		return s.root().do("GET", "/v1/reprice/"+planned.text("id"), nil).text("state") == "running"
	})
	s.root().do("POST", "/v1/reprice", span(nil)).want(t, 409)
	if n := b.number("SELECT count(*) FROM control.reprice_sums"); n != 0 {
		t.Errorf("%d sums before the ledger has caught up", n)
	}
	b.follow(ledger.New())
	done := s.ended(planned.text("id"))
	if done.number("changed") != 2 {
		t.Errorf("the run: %s", done.raw)
	}
	a, _ := costOf(t, catalogue, "gpt-4o", first.at, *first.usage)
	c, _ := costOf(t, catalogue, "gpt-4o", second.at, *second.usage)
	b.check(map[string]int64{ws: a + c})
}

func TestBadRepricesAreRefused(t *testing.T) {
	s := newAPI(t)
	for _, c := range []struct{ name, body, field string }{
		{"no from", `{"reason":"x"}`, "from"},
		{"no time", `{"from":"yesterday","reason":"x"}`, "from"},
		{"an empty range", `{"from":"2026-01-02T00:00:00Z","to":"2026-01-02T00:00:00Z","reason":"x"}`, "to"},
		{"from the future", `{"from":"2099-01-02T00:00:00Z","reason":"x"}`, "to"},
		{"no reason", `{"from":"2026-01-02T00:00:00Z"}`, "reason"},
		{"an empty reason", `{"from":"2026-01-02T00:00:00Z","reason":""}`, "reason"},
		{"dry run in words", `{"from":"2026-01-02T00:00:00Z","reason":"x","dry_run":"yes"}`, "dry_run"},
		{"unknown field", `{"from":"2026-01-02T00:00:00Z","reason":"x","colour":1}`, "colour"},
	} {
		if a := s.root().do("POST", "/v1/reprice", c.body); a.status != 400 || !slices.Equal(a.fields(), []string{c.field}) {
			t.Errorf("%s: got %d %v, want %s: %s", c.name, a.status, a.fields(), c.field, a.raw)
		}
	}
	s.root().do("POST", "/v1/reprice", `{"from":"2026-01-02T00:00:00Z","workspace":"ws_nobody","dry_run":true}`).want(t, 404)
	s.root().do("GET", "/v1/reprice/rpr_nothing", nil).want(t, 404)
	_, key := s.key(s.workspace("a"), map[string]any{"scopes": []string{"write:usage"}})
	s.with(key).do("POST", "/v1/reprice", `{"from":"2026-01-02T00:00:00Z","dry_run":true}`).want(t, 403)
}
