package control_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/schemas/keyspace"
)

// balanceRows writes rows of the projection.
type balanceRows struct {
	t    *testing.T
	conn *pgx.Conn
}

func newBalanceRows(t *testing.T, database string) balanceRows {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return balanceRows{t, conn}
}

func (l balanceRows) put(ws, budget string, generation int, balance string, start time.Time, posted, reserved string) {
	l.t.Helper()
	const insert = `INSERT INTO balances (workspace, scope, budget_id, budget_generation, balance, period_start, posted_nano, reserved_nano)
VALUES ($1, 'budget', $2, $3, $4, $5, $6::numeric, $7::numeric)`
	if _, err := l.conn.Exec(l.t.Context(), insert, id(ws), budget, generation, balance, start, posted, reserved); err != nil {
		l.t.Fatal(err)
	}
}

// followed says that the projection has shown everything up to an instant.
func (l balanceRows) followed(at time.Time) {
	l.t.Helper()
	const generation = `INSERT INTO projection_generations (projection, generation, reason) VALUES ('balances', 'g', 'test')`
	const checkpoint = `INSERT INTO projection_checkpoints (projection, generation, topic, topic_id, partition, next_offset, end_offset, observed_at)
VALUES ('balances', 'g', 't', gen_random_uuid(), 0, 5, 5, $1)`
	if _, err := l.conn.Exec(l.t.Context(), generation); err != nil {
		l.t.Fatal(err)
	}
	if _, err := l.conn.Exec(l.t.Context(), checkpoint, at); err != nil {
		l.t.Fatal(err)
	}
}

// amounts returns the amounts of a balance, in the order limit, posted, reserved, available, and its source.
func amounts(balance any) string {
	b, _ := balance.(map[string]any)
	return fmt.Sprint(b["limit_usd"], " ", b["posted_usd"], " ", b["reserved_usd"], " ", b["available_usd"], " ", b["source"])
}

var thisMonth = func() time.Time {
	now := time.Now().UTC()
	return time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
}()

func TestBalancesOfTheLedger(t *testing.T) {
	database := newDatabase(t)
	s := idle(t, settings(t, database, "127.0.0.1:1"))
	l := newBalanceRows(t, database)
	ws, other := s.workspace("a"), s.workspace("b")
	month := s.root().do("PUT", ws+"/budgets/month", anyBudget).want(t, 201).number("generation")
	total := s.root().do("PUT", ws+"/budgets/total", map[string]any{"usd": "1", "period": "total"}).want(t, 201).number("generation")
	s.root().do("PUT", ws+"/budgets/unused", anyBudget).want(t, 201)
	s.root().do("PUT", ws+"/budgets/divided", map[string]any{"usd": "1", "scope": "key"}).want(t, 201)

	if got := s.root().do("GET", ws+"/budgets/month", nil).want(t, 200).body["balance"].(map[string]any); got["as_of"] != nil || got["source"] != "ledger" {
		t.Errorf("a ledger that has not begun: %v", got)
	}
	asOf := time.Date(2026, 11, 1, 2, 3, 4, 0, time.UTC)
	l.followed(asOf)
	l.put(ws, "month", month, "", thisMonth, "2500000001", "1500000000")
	l.put(ws, "month", month, "", thisMonth.AddDate(0, -1, 0), "7", "7")
	l.put(ws, "month", month+100, "", thisMonth, "8", "8")
	l.put(other, "month", month, "", thisMonth, "9", "9")
	l.put(ws, "total", total, "", time.Unix(0, 0), "99999999999999999999999999999", "99999999999999999999999999999")

	got := s.root().do("GET", ws+"/budgets/month", nil).want(t, 200).body["balance"].(map[string]any)
	if want := "10 2.500000001 1.5 5.999999999 ledger"; amounts(got) != want {
		t.Errorf("month: got %s, want %s", amounts(got), want)
	}
	if got["as_of"] != "2026-11-01T02:03:04Z" || got["period_start"] != thisMonth.Format(time.RFC3339) || got["period_end"] != thisMonth.AddDate(0, 1, 0).Format(time.RFC3339) {
		t.Errorf("times: got %v", got)
	}
	got = s.root().do("GET", ws+"/budgets/total", nil).want(t, 200).body["balance"].(map[string]any)
	if want := "1 4000000000 4000000000 0 ledger"; amounts(got) != want || got["period_start"] != nil || got["period_end"] != nil {
		t.Errorf("total: got %v, want %s", got, want)
	}
	list := s.root().do("GET", ws+"/budgets", nil).want(t, 200).body["data"].([]any)
	want := map[string]string{"month": "10 2.500000001 1.5 5.999999999 ledger", "unused": "10 0 0 10 ledger", "total": "1 4000000000 4000000000 0 ledger"}
	for _, item := range list {
		b := item.(map[string]any)
		name := b["name"].(string)
		if name == "divided" {
			if b["balance"] != nil {
				t.Errorf("a divided budget has one balance: %v", b)
			}
			continue
		}
		if amounts(b["balance"]) != want[name] {
			t.Errorf("%s in the list: got %s, want %s", name, amounts(b["balance"]), want[name])
		}
	}
	if s.root().do("GET", other+"/budgets", nil).want(t, 200); len(list) != 4 {
		t.Errorf("list: %v", list)
	}
	// What is spent does not change the version: a condition must not hide it.
	tag := s.root().do("GET", ws+"/budgets/month", nil).header.Get("ETag")
	s.root().set("If-None-Match", tag).do("GET", ws+"/budgets/month", nil).want(t, 200)
	for _, a := range []answer{s.root().do("PUT", ws+"/budgets/month", anyBudget), s.root().do("PUT", ws+"/budgets/new", anyBudget)} {
		if a.body["balance"] != nil {
			t.Errorf("a PUT answers with a balance: %s", a.raw)
		}
	}
}

// hostile is a model's name as a client may send it.
const hostile = "gpt 4\n{x}:%&?é"

func TestBalancesOfADividedBudgetArePaged(t *testing.T) {
	database := newDatabase(t)
	s := idle(t, settings(t, database, "127.0.0.1:1"))
	l := newBalanceRows(t, database)
	ws := s.workspace("a")
	generation := s.root().do("PUT", ws+"/budgets/b", map[string]any{"usd": "2", "scope": "model"}).want(t, 201).number("generation")
	want := map[string]string{}
	for i, name := range []string{"a", hostile, "b", strings.Repeat("m", 390), "c"} {
		l.put(ws, "b", generation, name, thisMonth, fmt.Sprintf("%d000000000", i), "0")
		want[name] = fmt.Sprintf("2 %d 0 %d ledger", i, max(0, 2-i))
	}
	l.put(ws, "b", generation, "of last month", thisMonth.AddDate(0, -1, 0), "1", "0")
	l.put(ws, "b", generation-1, "of another generation", thisMonth, "1", "0")
	l.put(ws, "c", generation, "of another budget", thisMonth, "1", "0")

	got := map[string]string{}
	for cursor, pages := "", 0; pages < 10; pages++ {
		page := s.root().do("GET", ws+"/budgets/b/balances?limit=2"+cursor, nil).want(t, 200)
		for _, item := range page.body["data"].([]any) {
			got[item.(map[string]any)["subject"].(string)] = amounts(item)
		}
		if page.body["next"] == nil {
			break
		}
		cursor = "&cursor=" + page.text("next")
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("balances: got %q, want %q", got, want)
	}

	s.root().do("PUT", ws+"/budgets/whole", anyBudget).want(t, 201)
	page := s.root().do("GET", ws+"/budgets/whole/balances", nil).want(t, 200)
	if data := page.body["data"].([]any); len(data) != 1 || amounts(data[0]) != "10 0 0 10 ledger" || page.body["next"] != nil {
		t.Errorf("balances of a budget with one: %s", page.raw)
	}
}

// TestLiveBalances has all of a workspace's state in Redis, then loses the state, then Redis.
func TestLiveBalances(t *testing.T) {
	database := newDatabase(t)
	cfg := settings(t, database, "127.0.0.1:1")
	url, client := newRedis(t)
	cfg.RedisURL = url
	s := idle(t, cfg)
	l := newBalanceRows(t, database)
	ws := s.workspace("a")
	put := func(name string, body map[string]any) int {
		return s.root().do("PUT", ws+"/budgets/"+name, body).want(t, 201).number("generation")
	}
	month, total := put("month", anyBudget), put("total", map[string]any{"usd": "3", "period": "total"})
	models := put("models", map[string]any{"usd": "1", "scope": "model"})
	put("unused", anyBudget)
	long := strings.Repeat("m", 399)
	for _, model := range []string{hostile, "plain", long} {
		l.put(ws, "models", models, model, thisMonth, "100000000", "0")
	}
	field := func(budget string, generation int, balance string, start time.Time) string {
		p := keyspace.BudgetPeriod{Budget: budget, Generation: uint64(generation), Balance: balance}
		if !start.IsZero() {
			p.StartUS = start.UnixMicro()
		}
		return p.Field()
	}
	state := map[string]any{
		field("month", month, "", thisMonth):                  "4500000000 1500000000 4000000000",
		field("month", month, "", thisMonth.AddDate(0, 1, 0)): "7 7 7",
		field("month", month+1, "", thisMonth):                "8 8 8",
		field("total", total, "", time.Time{}):                "2000000000 2000000000 0",
		field("models", models, hostile, thisMonth):           "250000000 500000000 0",
	}
	check := func(when string, want map[string]string) {
		t.Helper()
		got := map[string]string{}
		for _, item := range s.root().do("GET", ws+"/budgets", nil).want(t, 200).body["data"].([]any) {
			if b := item.(map[string]any); b["balance"] != nil {
				got[b["name"].(string)] = amounts(b["balance"])
			}
		}
		for _, item := range s.root().do("GET", ws+"/budgets/models/balances", nil).want(t, 200).body["data"].([]any) {
			got[item.(map[string]any)["subject"].(string)] = amounts(item)
		}
		if g, w := text(t, got), text(t, want); g != w {
			t.Errorf("%s:\n got %s\nwant %s", when, g, w)
		}
	}
	ofLedger := map[string]string{
		"month": "10 0 0 10 ledger", "total": "3 0 0 3 ledger", "unused": "10 0 0 10 ledger",
		hostile: "1 0.1 0 0.9 ledger", "plain": "1 0.1 0 0.9 ledger", long: "1 0.1 0 0.9 ledger",
	}
	check("nothing in Redis", ofLedger)
	if err := client.HSet(t.Context(), keyspace.State(id(ws)), state).Err(); err != nil {
		t.Fatal(err)
	}
	check("balances without an epoch, as a loss leaves them", ofLedger)
	if err := client.HSet(t.Context(), keyspace.State(id(ws)), "epoch", 7).Err(); err != nil {
		t.Fatal(err)
	}
	live := map[string]string{
		"month": "10 4.5 1.5 4 live", "total": "3 2 2 0 live", "unused": "10 0 0 10 live",
		hostile: "1 0.25 0.5 0.25 live", "plain": "1 0 0 1 live", long: "1 0.1 0 0.9 ledger", // what the ledger calls it may not be its name
	}
	check("an epoch", live)
	asOf := s.root().do("GET", ws+"/budgets/month", nil).want(t, 200).body["balance"].(map[string]any)["as_of"].(string)
	if at, err := time.Parse(time.RFC3339, asOf); err != nil || time.Since(at).Abs() > time.Minute {
		t.Errorf("as_of: got %s, %v", asOf, err)
	}
	if err := client.HSet(t.Context(), keyspace.State(id(ws)), field("month", month, "", thisMonth), "broken").Err(); err != nil {
		t.Fatal(err)
	}
	live["month"], live["total"], live["unused"] = ofLedger["month"], ofLedger["total"], ofLedger["unused"]
	check("a balance that cannot be read", live)
	if err := client.Do(t.Context(), "CLIENT", "PAUSE", "60000", "ALL").Err(); err != nil {
		t.Fatal(err)
	}
	check("a Redis that hangs", ofLedger)
}

func text(t *testing.T, of map[string]string) string {
	t.Helper()
	var names []string
	for name := range of {
		names = append(names, name)
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		line, err := json.Marshal([]string{name[:min(len(name), 20)], of[name]})
		if err != nil {
			t.Fatal(err)
		}
		b.Write(line)
	}
	return b.String()
}
