package control_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

func TestBudgetDefaultsAndIdenticalPut(t *testing.T) {
	s := newAPI(t)
	ws := s.workspace("a")
	for _, c := range []struct {
		name, given, full string
	}{
		{
			"hard", `{"usd":"10.00"}`,
			`{"scope":"workspace","match":{},"usd":"10","period":"month","timezone":"UTC","enforcement":"hard","alert_at":[0.5,0.8,1],"on_store_failure":"closed","mode":"strict"}`,
		},
		{
			"leased", `{"usd":"10.00","mode":"leased","lease_percent":null}`,
			`{"scope":"workspace","match":{},"usd":"10","period":"month","timezone":"UTC","enforcement":"hard","alert_at":[0.5,0.8,1],"on_store_failure":"closed","mode":"leased","lease_percent":5}`,
		},
		{
			"soft", `{"usd":"0.000000001","enforcement":"soft","scope":null,"match":null,"period":null,"timezone":null,"alert_at":null,"on_store_failure":null,"mode":null}`,
			`{"scope":"workspace","match":{},"usd":"0.000000001","period":"month","timezone":"UTC","enforcement":"soft","alert_at":[0.5,0.8,1],"on_store_failure":"open","mode":"strict"}`,
		},
		{
			"full", `{"scope":"model","match":{"route":"r","model":"gpt-4*","key":"key_1"},"usd":"4000000","period":"week","timezone":"Australia/Lord_Howe",` +
				`"enforcement":"soft","alert_at":[0.1,0.25,10],"on_store_failure":"closed","mode":"leased","lease_percent":50}`,
			`{"scope":"model","match":{"route":"r","model":"gpt-4*","key":"key_1"},"usd":"4000000","period":"week","timezone":"Australia/Lord_Howe",` +
				`"enforcement":"soft","alert_at":[0.1,0.25,10],"on_store_failure":"closed","mode":"leased","lease_percent":50}`,
		},
	} {
		path := ws + "/budgets/" + c.name
		first := s.root().do("PUT", path, c.given).want(t, 201)
		for _, again := range []answer{s.root().do("PUT", path, c.given), s.root().do("PUT", path, c.full)} {
			if again.want(t, 200).raw != first.raw {
				t.Errorf("%s: got %s, want %s", c.name, again.raw, first.raw)
			}
		}
		shown := s.root().do("GET", path, nil).want(t, 200).body
		if shown["name"] != c.name || shown["generation"] != shown["version"] {
			t.Errorf("%s: shown as %v", c.name, shown)
		}
		if shown["balance"] == nil {
			t.Errorf("%s has no balance: %v", c.name, shown)
		}
		for _, own := range []string{"name", "generation", "version", "created_at", "updated_at", "balance"} {
			delete(shown, own)
		}
		var want map[string]any
		if err := json.Unmarshal([]byte(c.full), &want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(shown, want) {
			t.Errorf("%s: got %v, want %v", c.name, shown, want)
		}
	}
}

// What was spent counts on, unless the budget counts something else.
func TestWhenABudgetBeginsAgain(t *testing.T) {
	s := newAPI(t)
	path := s.workspace("a") + "/budgets/b"
	generation := s.root().do("PUT", path, `{"usd":"1"}`).want(t, 201).number("generation")
	for _, c := range []struct {
		name, body string
		again      bool
	}{
		{"another limit", `{"usd":"2"}`, false},
		{"other alerts", `{"usd":"2","alert_at":[1]}`, false},
		{"another enforcement", `{"usd":"2","enforcement":"soft"}`, false},
		{"another mode", `{"usd":"2","mode":"leased"}`, false},
		{"another share", `{"usd":"2","mode":"leased","lease_percent":50}`, false},
		{"another period", `{"usd":"2","period":"day"}`, true},
		{"another zone", `{"usd":"2","period":"day","timezone":"Asia/Tokyo"}`, true},
		{"another scope", `{"usd":"2","period":"day","timezone":"Asia/Tokyo","scope":"key"}`, true},
		{"a match", `{"usd":"2","period":"day","timezone":"Asia/Tokyo","scope":"key","match":{"model":"a"}}`, true},
		{"another match", `{"usd":"2","period":"day","timezone":"Asia/Tokyo","scope":"key","match":{"model":"b"}}`, true},
		{"the same", `{"usd":"2.0","period":"day","timezone":"Asia/Tokyo","scope":"key","match":{"model":"b"}}`, false},
	} {
		got := s.root().do("PUT", path, c.body).want(t, 200)
		if began := got.number("generation") != generation; began != c.again {
			t.Errorf("%s: generation %d after %d", c.name, got.number("generation"), generation)
		}
		if c.again && got.number("generation") != got.number("version") {
			t.Errorf("%s: generation %d of version %d", c.name, got.number("generation"), got.number("version"))
		}
		generation = got.number("generation")
	}
	s.root().do("DELETE", path, nil).want(t, 204)
	again := s.root().do("PUT", path, `{"usd":"2","period":"day","timezone":"Asia/Tokyo","scope":"key","match":{"model":"b"}}`).want(t, 201)
	if again.number("generation") <= generation {
		t.Errorf("deleted and made again: generation %d after %d", again.number("generation"), generation)
	}
}

func TestSettings(t *testing.T) {
	s := newAPI(t)
	ws := s.workspace("a")
	is := func(a answer, want string) {
		t.Helper()
		got, err := json.Marshal(a.body["settings"])
		if err != nil || string(got) != want {
			t.Errorf("settings: got %s, want %s", got, want)
		}
	}
	const defaults = `{"budget_exceeded_status":402,"default_max_output_tokens":null,"fit_max_output_tokens":false,"unknown_outcome":"reserved"}`
	is(s.root().do("GET", ws, nil).want(t, 200), defaults)
	first := s.root().do("PATCH", ws, `{"settings":{"budget_exceeded_status":429,"default_max_output_tokens":4096,"fit_max_output_tokens":true}}`).want(t, 200)
	const changed = `{"budget_exceeded_status":429,"default_max_output_tokens":4096,"fit_max_output_tokens":true,"unknown_outcome":"reserved"}`
	is(first, changed)
	if first.number("version") != 2 {
		t.Errorf("version after a change: got %d, want 2", first.number("version"))
	}
	for _, same := range []string{`{}`, `{"settings":{}}`, `{"name":"a","settings":{"budget_exceeded_status":429,"unknown_outcome":"reserved"}}`} {
		again := s.root().do("PATCH", ws, same).want(t, 200)
		is(again, changed)
		if again.number("version") != 2 {
			t.Errorf("version after %s: got %d, want 2", same, again.number("version"))
		}
	}
	is(s.root().do("PATCH", ws, `{"name":"b","settings":{"budget_exceeded_status":400}}`).want(t, 200), `{"budget_exceeded_status":400,`+changed[len(`{"budget_exceeded_status":429,`):])
	none := `{"settings":{"budget_exceeded_status":null,"unknown_outcome":null,"default_max_output_tokens":null,"fit_max_output_tokens":null}}`
	is(s.root().do("PATCH", ws, none).want(t, 200), defaults)
	is(s.root().do("GET", ws, nil).want(t, 200), defaults)
}

// An unknown outcome must cost what was reserved where a budget is hard: neither change can make it otherwise.
func TestAHardBudgetAndUnknownOutcomesThatCostLess(t *testing.T) {
	s := newAPI(t)
	ws := s.workspace("a")
	outcome := func(v string) answer {
		return s.root().do("PATCH", ws, map[string]any{"settings": map[string]any{"unknown_outcome": v}})
	}
	put := func(enforcement string) answer {
		return s.root().do("PUT", ws+"/budgets/b", map[string]any{"usd": "1", "enforcement": enforcement})
	}
	put("hard").want(t, 201)
	outcome("input").want(t, 409)
	outcome("none").want(t, 409)
	outcome("reserved").want(t, 200)
	put("soft").want(t, 200)
	outcome("input").want(t, 200)
	put("hard").want(t, 409)
	s.root().do("PUT", ws+"/budgets/c", anyBudget).want(t, 409)
	if got := s.root().do("GET", ws+"/budgets/b", nil).want(t, 200); got.text("enforcement") != "soft" {
		t.Errorf("a refused change was made: %s", got.raw)
	}
	outcome("reserved").want(t, 200)
	put("hard").want(t, 200)
}

func TestBudgetsAndSettingsAreInThePolicy(t *testing.T) {
	kafka := brokers(newCluster(t))
	s, _ := running(t, settings(t, newDatabase(t), kafka))
	l := follow(t, kafka, topics.Policies.Name, topics.Audit.Name, topics.Ticks.Name)
	ws := s.workspace("a")
	for _, period := range []string{"hour", "day", "week", "month", "total"} {
		body := map[string]any{"usd": "1.5", "period": period, "timezone": "Europe/Berlin", "enforcement": "soft"}
		if period == "week" {
			body["mode"], body["lease_percent"] = "leased", 7
		}
		s.root().do("PUT", ws+"/budgets/"+period, body).want(t, 201)
	}
	s.root().do("PATCH", ws, `{"settings":{"unknown_outcome":"none","default_max_output_tokens":7,"fit_max_output_tokens":true}}`).want(t, 200)
	all := l.until("the settings", func(all []record) bool { return lastPolicy(all, id(ws)).GetSettings() != nil })
	p := lastPolicy(all, id(ws))
	want := &rateguardv1.WorkspaceSettings{
		BudgetExceededStatus: 402, UnknownOutcome: rateguardv1.UnknownOutcome_UNKNOWN_OUTCOME_NONE, DefaultMaxOutputTokens: 7, FitMaxOutputTokens: true,
	}
	if !proto.Equal(p.GetSettings(), want) {
		t.Errorf("settings: got %v, want %v", p.GetSettings(), want)
	}
	if len(p.GetBudgets()) != 5 {
		t.Fatalf("budgets: got %v", p.GetBudgets())
	}
	now := time.Now()
	ahead := map[string]time.Duration{"hour": 8 * 24 * time.Hour, "day": 14 * 24 * time.Hour, "week": 35 * 24 * time.Hour, "month": 90 * 24 * time.Hour}
	for _, b := range p.GetBudgets() {
		starts := b.GetBoundariesUnixUs()
		b.BoundariesUnixUs = nil
		bare := &rateguardv1.Budget{
			Id: b.GetId(), Generation: b.GetGeneration(), Scope: "workspace", LimitNanoUsd: 1_500_000_000, Period: b.GetId(), Timezone: "Europe/Berlin",
			Enforcement: "soft", AlertAt: []float64{0.5, 0.8, 1}, OnStoreFailure: "open",
		}
		if b.GetId() == "week" {
			bare.Mode, bare.LeasePercent = "leased", 7
		}
		if !proto.Equal(b, bare) || b.GetGeneration() == 0 {
			t.Errorf("budget: got %v, want %v", b, bare)
		}
		if b.GetId() == "total" {
			if len(starts) != 0 {
				t.Errorf("total has periods: %v", starts)
			}
			continue
		}
		if !slices.IsSorted(starts) || len(starts) < 3 || starts[1] > now.UnixMicro() || starts[2] <= now.UnixMicro() && b.GetId() != "hour" {
			t.Errorf("%s: the second of %v is not the period of now", b.GetId(), starts)
		}
		if last := time.UnixMicro(starts[len(starts)-1]); last.Sub(now) < ahead[b.GetId()]-2*time.Hour {
			t.Errorf("%s: the last period begins at %s", b.GetId(), last)
		}
	}

	// The reconciler finds what it would make itself: it comes each 200 ms, a tick each 50 ms.
	ticks := countTopic(all, topics.Ticks.Name)
	all = l.until("five comparisons", func(all []record) bool { return countTopic(all, topics.Ticks.Name) > ticks+20*partitions })
	if got := lastPolicy(all, id(ws)).GetVersion(); got != p.GetVersion() {
		t.Errorf("version: got %d without a change, want %d", got, p.GetVersion())
	}
	s.root().do("PATCH", ws, `{"settings":{"unknown_outcome":"reserved","default_max_output_tokens":null,"fit_max_output_tokens":false}}`).want(t, 200)
	s.root().do("DELETE", ws+"/budgets/hour", nil).want(t, 204)
	all = l.until("the deletion", func(all []record) bool { return len(lastPolicy(all, id(ws)).GetBudgets()) == 4 })
	if got := lastPolicy(all, id(ws)).GetSettings(); got != nil {
		t.Errorf("settings of before: %v", got)
	}
}
