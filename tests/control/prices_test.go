package control_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/price"
	"github.com/rateguard/rateguard/topics"
)

const gpt = "/v1/prices/openai/gpt-4o"

func at(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339Nano) }

// override is one item of a PUT: a price of input tokens.
func override(from, usd string) map[string]any {
	return map[string]any{"effective_from": from, "usd_per_million": map[string]any{"input_tokens": usd}}
}

func late(o map[string]any) map[string]any {
	o["backdated"] = true
	return o
}

func overrides(list ...map[string]any) map[string]any { return map[string]any{"overrides": list} }

// age moves the stored overrides of all models into the past, as if the time had come.
func age(t *testing.T, database string, by time.Duration) {
	t.Helper()
	const update = `UPDATE control.prices SET overrides = (SELECT jsonb_agg(jsonb_set(o, '{from_us}', to_jsonb((o->>'from_us')::bigint - $1))) FROM jsonb_array_elements(overrides) o)`
	query(t, database, update, by.Microseconds())
}

func query(t *testing.T, database, sql string, args ...any) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// call makes a call that the description's router cannot match.
func call(s *system, method, path string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(s.t.Context(), method, path, nil)
	r.Header.Set("Authorization", "Bearer "+adminToken)
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w
}

func lastPrice(all []record, key string) *rateguardv1.PriceHistory {
	var last *rateguardv1.PriceHistory
	for _, r := range all {
		if r.topic == topics.Prices.Name && r.key == key && r.event != nil {
			last = r.event.GetPriceHistory()
		}
	}
	return last
}

func TestPricesAreListedWithTheirOverrides(t *testing.T) {
	database := newDatabase(t)
	s := idle(t, settings(t, database, "127.0.0.1:1"))
	root := s.root()
	base := price.Default().Version()
	d := root.do("GET", gpt, nil).want(t, 200)
	if got := d.raw; !strings.Contains(got, `"price":{"version":"`+base+`","source":"catalogue","usd_per_million":{"cache_read_tokens":"1.25","input_tokens":"2.5","output_tokens":"10"},"usd_per_unit":{"storage_searches":"0.0025","web_searches":"0.01"}}`) {
		t.Errorf("the catalogue's price: %s", got)
	}
	root.do("PUT", gpt, overrides(override(at(2*time.Minute), "3"))).want(t, 201)
	root.do("PUT", "/v1/prices/acme/own%2FModel", overrides(override(at(2*time.Minute), "0.000001"))).want(t, 201)
	if got := root.do("GET", gpt, nil).want(t, 200); !strings.Contains(got.raw, `"price":{"version":"`+base+`"`) || got.number("version") != 1 || got.header.Get("ETag") != `"1"` {
		t.Errorf("before its instant: %s", got.raw)
	}
	age(t, database, 3*time.Minute)
	for _, path := range []string{gpt, "/v1/prices/OpenAI/gpt-4o-2024-08-06"} {
		if got := root.do("GET", path, nil).want(t, 200).raw; !strings.Contains(got, `"price":{"version":"`+base+`+override.1","source":"override","usd_per_million":{"input_tokens":"3"}}`) {
			t.Errorf("%s, from its instant on: %s", path, got)
		}
	}
	if got := root.do("GET", "/v1/prices?provider=acme", nil).want(t, 200).raw; !strings.Contains(got, `"model":"own/model","price":{"version":"`+base+`+override.1"`) {
		t.Errorf("a model that the catalogue lacks: %s", got)
	}
	if got := root.do("GET", "/v1/prices?provider=openai&model=GPT-4o*", nil).want(t, 200); len(got.body["data"].([]any)) < 3 || strings.Contains(got.raw, "anthropic") {
		t.Errorf("filtered: %s", got.raw)
	}
	var names []string
	for cursor := ""; ; {
		page := root.do("GET", "/v1/prices?limit=700&cursor="+cursor, nil).want(t, 200)
		for _, m := range page.body["data"].([]any) {
			m := m.(map[string]any)
			names = append(names, m["provider"].(string)+"/"+strings.ToLower(m["model"].(string)))
		}
		if cursor = page.text("next"); cursor == "" {
			break
		}
	}
	if sorted := slices.Sorted(slices.Values(names)); !slices.Equal(names, sorted) || len(slices.Compact(sorted)) != len(names) || len(names) < 1600 || !slices.Contains(names, "acme/own/model") {
		t.Errorf("%d names over all pages, sorted and once each: no", len(names))
	}
	if r := call(s, "GET", "/v1/prices/acme/own/model"); r.Code != 200 {
		t.Errorf("slashes as they are: %d %s", r.Code, r.Body)
	}
	root.do("GET", "/v1/prices/acme/nothing", nil).want(t, 404)
	_, key := s.key(s.workspace("a"), map[string]any{"scopes": []string{"write:apis"}})
	for _, method := range []string{"GET", "DELETE"} {
		s.with(key).do(method, gpt, nil).want(t, 403)
	}
	s.with(key).do("GET", "/v1/prices", nil).want(t, 403)
}

// TestAPriceThatActsCannotBeRewritten looks at every rule of what may follow what.
func TestAPriceThatActsCannotBeRewritten(t *testing.T) {
	database := newDatabase(t)
	root := idle(t, settings(t, database, "127.0.0.1:1")).root()
	refused := func(what string, body map[string]any, fields ...string) {
		t.Helper()
		if a := root.do("PUT", gpt, body).want(t, 400); !slices.Equal(a.fields(), fields) {
			t.Errorf("%s: got %v, want %v: %s", what, a.fields(), fields, a.raw)
		}
	}
	refused("too soon", overrides(override(at(58*time.Second), "3")), "overrides[0].effective_from")
	refused("in the past", overrides(override(at(-time.Hour), "3")), "overrides[0].effective_from")
	refused("backdated into the future", overrides(late(override(at(time.Hour), "3"))), "overrides[0].backdated")

	soon, past := override(at(2*time.Minute), "3"), late(override(at(-time.Hour), "2"))
	root.do("PUT", gpt, overrides(soon, past)).want(t, 201)
	if a := root.do("PUT", gpt, overrides(past, soon)).want(t, 200); a.number("version") != 1 {
		t.Errorf("the same again: %s", a.raw)
	}
	root.do("PUT", gpt, overrides(override(at(3*time.Minute), "4"))).want(t, 200) // it was still far enough away
	root.do("PUT", gpt, overrides(soon, past)).want(t, 200)
	age(t, database, 90*time.Second)
	stored := root.do("GET", gpt, nil).body["overrides"].([]any)
	past, soon = stored[0].(map[string]any), stored[1].(map[string]any)
	refused("about to act and left out", overrides(past), "overrides")
	refused("about to act and changed", overrides(past, override(soon["effective_from"].(string), "4")), "overrides[1].effective_from", "overrides")
	root.do("PUT", gpt, overrides(soon)).want(t, 200) // backdated ones may go
	if a := root.do("PUT", gpt, overrides(soon, override(at(2*time.Minute), "5"))).want(t, 200); a.number("version") != 5 {
		t.Errorf("one more: %s", a.raw)
	}
	root.set("If-Match", `"4"`).do("PUT", gpt, overrides(soon)).want(t, 412)
	root.set("If-Match", `"4"`).do("DELETE", gpt, nil).want(t, 412)
	a := root.do("DELETE", gpt, nil).want(t, 200)
	left := a.body["overrides"].([]any)
	if len(left) != 2 || left[0].(map[string]any)["effective_from"] != soon["effective_from"] || left[1].(map[string]any)["catalogue"] != true {
		t.Errorf("deleted: %s", a.raw)
	}
	end, err := time.Parse(time.RFC3339, left[1].(map[string]any)["effective_from"].(string))
	if wait := time.Until(end); err != nil || wait < 50*time.Second || wait > time.Minute {
		t.Errorf("deleted, given back after %s, %v", wait, err)
	}
	if again := root.do("DELETE", gpt, nil).want(t, 200); again.number("version") != a.number("version") {
		t.Errorf("deleted twice: %s", again.raw)
	}
	root.do("DELETE", "/v1/prices/openai/gpt-4o-mini", nil).want(t, 404)
	const mini = "/v1/prices/openai/gpt-4o-mini"
	root.do("PUT", mini, overrides(override(at(2*time.Minute), "3"))).want(t, 201)
	if a := root.do("DELETE", mini, nil).want(t, 200); len(a.body["overrides"].([]any)) != 0 || a.number("version") != 2 {
		t.Errorf("one that never acted, deleted: %s", a.raw)
	}
	root.do("DELETE", mini, nil).want(t, 404)
	root.do("PUT", mini, overrides(override(at(2*time.Minute), "3"))).want(t, 200)
}

func TestBadPricesAreRefused(t *testing.T) {
	root := idle(t, settings(t, newDatabase(t), "127.0.0.1:1")).root()
	from := `"effective_from":"` + at(time.Hour) + `"`
	for _, c := range []struct{ name, body, field string }{
		{"none", `{}`, "overrides"},
		{"null", `{"overrides":null}`, "overrides"},
		{"no list", `{"overrides":{}}`, "overrides"},
		{"no object", `{"overrides":[1]}`, "overrides[0]"},
		{"unknown field", `{"overrides":[{` + from + `,"catalogue":true,"colour":1}]}`, "overrides[0].colour"},
		{"no instant", `{"overrides":[{"catalogue":true}]}`, "overrides[0].effective_from"},
		{"no time", `{"overrides":[{"effective_from":"soon","catalogue":true}]}`, "overrides[0].effective_from"},
		{"neither prices nor catalogue", `{"overrides":[{` + from + `}]}`, "overrides[0].usd_per_million"},
		{"both", `{"overrides":[{` + from + `,"catalogue":true,"usd_per_million":{"input_tokens":"1"}}]}`, "overrides[0].catalogue"},
		{"no unit", `{"overrides":[{` + from + `,"usd_per_million":{"input_tokens":"1","words":"1"}}]}`, "overrides[0].usd_per_million.words"},
		{"quoted otherwise", `{"overrides":[{` + from + `,"usd_per_million":{"input_tokens":"1","requests":"1"}}]}`, "overrides[0].usd_per_million.requests"},
		{"a number", `{"overrides":[{` + from + `,"usd_per_million":{"input_tokens":"1","output_tokens":2.5}}]}`, "overrides[0].usd_per_million.output_tokens"},
		{"null price", `{"overrides":[{` + from + `,"usd_per_million":{"input_tokens":"1","output_tokens":null}}]}`, "overrides[0].usd_per_million.output_tokens"},
		{"too fine", `{"overrides":[{` + from + `,"usd_per_million":{"input_tokens":"1","output_tokens":"0.0000001"}}]}`, "overrides[0].usd_per_million.output_tokens"},
		{"a part without its total", `{"overrides":[{` + from + `,"usd_per_million":{"cache_read_tokens":"1"}}]}`, "overrides[0].usd_per_million"},
		{"an instant twice", `{"overrides":[{` + from + `,"catalogue":true},{` + from + `,"usd_per_unit":{"requests":"1"}}]}`, "overrides[1].effective_from"},
		{"too many", `{"overrides":[` + strings.Repeat(`1,`, 100) + `1]}`, "overrides"},
	} {
		if a := root.do("PUT", gpt, c.body); a.status != 400 || !slices.Equal(a.fields(), []string{c.field}) {
			t.Errorf("%s: got %d %v, want %s: %s", c.name, a.status, a.fields(), c.field, a.raw)
		}
	}
	root.do("PUT", "/v1/prices/openai/"+strings.Repeat("x", 201), overrides(override(at(time.Hour), "1"))).want(t, 400)
	root.do("PUT", "/v1/prices/openai/a%00b", overrides(override(at(time.Hour), "1"))).want(t, 400)
	root.do("GET", "/v1/prices?colour=red", nil).want(t, 400)
	if a := root.do("GET", gpt, nil).want(t, 200); len(a.body["overrides"].([]any)) != 0 {
		t.Errorf("something was stored: %s", a.raw)
	}
}

// TestPricesAreInTheLog publishes overrides, and once more where the topic shows something else.
func TestPricesAreInTheLog(t *testing.T) {
	kafka, database := brokers(newCluster(t)), newDatabase(t)
	s, stop := running(t, settings(t, database, kafka))
	l := follow(t, kafka, topics.Prices.Name, topics.Audit.Name)
	from := time.Now().Add(time.Hour).Truncate(time.Microsecond)
	s.root().do("PUT", "/v1/prices/openrouter/Google%2Fgemini", overrides(override(from.Format(time.RFC3339Nano), "2.5"), late(override(at(-time.Hour), "2")))).want(t, 201)
	const key = "openrouter/google/gemini"
	all := l.until("the price and its audit record", func(all []record) bool { return lastPrice(all, key) != nil && countTopic(all, topics.Audit.Name) == 1 })
	got := lastPrice(all, key)
	want := &rateguardv1.PriceOverride{EffectiveFromUnixUs: from.UnixMicro(), PicoUsd: map[string]int64{"input_tokens": 2_500_000}}
	if len(got.GetOverrides()) != 2 || !got.GetOverrides()[0].GetBackdated() || !proto.Equal(got.GetOverrides()[1], want) || got.GetVersion() != 1 {
		t.Errorf("published: %v", got)
	}
	s.root().do("DELETE", "/v1/prices/openrouter/google%2Fgemini", nil).want(t, http.StatusOK)
	all = l.until("the deletion", func(all []record) bool {
		return len(lastPrice(all, key).GetOverrides()) == 0 && countTopic(all, topics.Audit.Name) == 2
	})
	checkChain(t, all)
	checkActions(t, all, "price.put", "price.delete")
	for _, r := range all {
		if r.topic == topics.Audit.Name && r.key != "root" {
			t.Errorf("audit record of %q", r.key)
		}
	}
	stop()
	publish(t, kafka, topics.Prices, key, &rateguardv1.Event{Id: "x", Body: &rateguardv1.Event_PriceHistory{
		PriceHistory: &rateguardv1.PriceHistory{Provider: "openrouter", Model: "google/gemini", Version: 9},
	}})
	running(t, settings(t, database, kafka))
	l.until("a larger version", func(all []record) bool { return lastPrice(all, key).GetVersion() == 10 })
}
