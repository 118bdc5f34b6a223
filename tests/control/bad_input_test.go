package control_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestBadInput sends what is wrong: each is refused with its status and the field's name, and changes nothing.
func TestBadInput(t *testing.T) {
	s := newAPI(t)
	ws := s.workspace("a")
	keyID, _ := s.key(ws, map[string]any{})
	s.root().do("PUT", ws+"/routes/r", anyRoute).want(t, 201)
	s.root().do("PUT", ws+"/limits/l", anyLimit).want(t, 201)
	s.root().do("PUT", ws+"/budgets/b", anyBudget).want(t, 201)
	state := func() string {
		return s.root().do("GET", ws, nil).raw + s.root().do("GET", ws+"/keys", nil).raw + s.root().do("GET", ws+"/routes", nil).raw +
			s.root().do("GET", ws+"/limits", nil).raw + s.root().do("GET", ws+"/budgets", nil).raw
	}
	before := state()
	long := strings.Repeat("x", 300)
	route := func(more string) string { return `{"provider":"openai","base_url":"http://h"` + more + `}` }
	limit := func(more string) string { return `{"limit":5,"window":"1m"` + more + `}` }
	budget := func(more string) string { return `{"usd":"10"` + more + `}` }
	settings := func(in string) string { return `{"settings":{` + in + `}}` }
	base := func(u string) string { return fmt.Sprintf(`{"provider":"openai","base_url":%q}`, u) }
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		field                    string
	}{
		{"empty body", "POST", ws + "/keys", "", 400, ""},
		{"no JSON", "POST", ws + "/keys", "{", 400, ""},
		{"an array", "POST", ws + "/keys", "[]", 400, ""},
		{"two objects", "POST", ws + "/keys", `{"name":"a"}{}`, 400, ""},
		{"not UTF-8", "POST", ws + "/keys", "{\"name\":\"\xff\"}", 400, ""},
		{"too large", "POST", ws + "/keys", `{"name":"` + strings.Repeat("x", 1<<20) + `"}`, 413, ""},
		{"unknown field", "POST", ws + "/keys", `{"name":"a","colour":"b"}`, 400, "colour"},
		{"other case", "POST", ws + "/keys", `{"Name":"a"}`, 400, "Name"},
		{"field twice", "POST", ws + "/keys", `{"name":"a","name":"b"}`, 400, "name"},
		{"no name", "POST", ws + "/keys", `{}`, 400, "name"},
		{"null name", "POST", ws + "/keys", `{"name":null}`, 400, "name"},
		{"empty name", "POST", ws + "/keys", `{"name":""}`, 400, "name"},
		{"name is a number", "POST", ws + "/keys", `{"name":1}`, 400, "name"},
		{"long name", "POST", ws + "/keys", `{"name":"` + long + `"}`, 400, "name"},
		{"control character", "POST", ws + "/keys", `{"name":"a\u0000b"}`, 400, "name"},
		{"unknown scope", "POST", ws + "/keys", `{"name":"a","scopes":["read:everything"]}`, 400, "scopes"},
		{"no scopes", "POST", ws + "/keys", `{"name":"a","scopes":[]}`, 400, "scopes"},
		{"scope is a number", "POST", ws + "/keys", `{"name":"a","scopes":[1]}`, 400, "scopes"},
		{"scope is null", "POST", ws + "/keys", `{"name":"a","scopes":[null]}`, 400, "scopes[0]"},
		{"expired", "POST", ws + "/keys", `{"name":"a","expires_at":"2001-01-01T00:00:00Z"}`, 400, "expires_at"},
		{"no time", "POST", ws + "/keys", `{"name":"a","expires_at":"tomorrow"}`, 400, "expires_at"},
		{"no route id", "POST", ws + "/keys", `{"name":"a","routes":["a/b"]}`, 400, "routes"},
		{"metadata is a list", "POST", ws + "/keys", `{"name":"a","metadata":[]}`, 400, "metadata"},
		{"metadata holds a number", "POST", ws + "/keys", `{"name":"a","metadata":{"a":1}}`, 400, "metadata"},
		{"patch unknown field", "PATCH", ws + "/keys/" + keyID, `{"prefix":"x"}`, 400, "prefix"},
		{"patch name null", "PATCH", ws + "/keys/" + keyID, `{"name":null}`, 400, "name"},
		{"grace without unit", "POST", ws + "/keys/" + keyID + "/rotate", `{"grace":"24"}`, 400, "grace"},
		{"negative grace", "POST", ws + "/keys/" + keyID + "/rotate", `{"grace":"-1h"}`, 400, "grace"},
		{"grace of years", "POST", ws + "/keys/" + keyID + "/rotate", `{"grace":"99999h"}`, 400, "grace"},
		{"revoke with a field", "POST", ws + "/keys/" + keyID + "/revoke", `{"why":"x"}`, 400, "why"},
		{"no such key", "POST", ws + "/keys/key_x/revoke", ``, 404, ""},
		{"no provider", "PUT", ws + "/routes/r", `{"base_url":"http://h"}`, 400, "provider"},
		{"unknown provider", "PUT", ws + "/routes/r", `{"provider":"x","base_url":"http://h"}`, 400, "provider"},
		{"no base_url", "PUT", ws + "/routes/r", `{"provider":"openai"}`, 400, "base_url"},
		{"ftp", "PUT", ws + "/routes/r", base("ftp://h"), 400, "base_url"},
		{"no host", "PUT", ws + "/routes/r", base("http:///x"), 400, "base_url"},
		{"relative", "PUT", ws + "/routes/r", base("/x"), 400, "base_url"},
		{"userinfo", "PUT", ws + "/routes/r", base("http://u:p@h"), 400, "base_url"},
		{"query", "PUT", ws + "/routes/r", base("http://h?a=b"), 400, "base_url"},
		{"empty query", "PUT", ws + "/routes/r", base("http://h?"), 400, "base_url"},
		{"fragment", "PUT", ws + "/routes/r", base("http://h#f"), 400, "base_url"},
		{"port 0", "PUT", ws + "/routes/r", base("http://h:0"), 400, "base_url"},
		{"port 99999", "PUT", ws + "/routes/r", base("http://h:99999"), 400, "base_url"},
		{"blank", "PUT", ws + "/routes/r", base("http://h/a b"), 400, "base_url"},
		{"empty credential", "PUT", ws + "/routes/r", route(`,"credential":""`), 400, "credential"},
		{"newline in credential", "PUT", ws + "/routes/r", route(`,"credential":"a\nb"`), 400, "credential"},
		{"timeout without unit", "PUT", ws + "/routes/r", route(`,"timeout":"5"`), 400, "timeout"},
		{"timeout is a number", "PUT", ws + "/routes/r", route(`,"timeout":5`), 400, "timeout"},
		{"timeout 0", "PUT", ws + "/routes/r", route(`,"timeout":"0s"`), 400, "timeout"},
		{"idle_timeout too long", "PUT", ws + "/routes/r", route(`,"idle_timeout":"48h"`), 400, "idle_timeout"},
		{"cost is text", "PUT", ws + "/routes/r", route(`,"cost":"free"`), 400, "cost"},
		{"cost without mode", "PUT", ws + "/routes/r", route(`,"cost":{}`), 400, "cost.mode"},
		{"unknown mode", "PUT", ws + "/routes/r", route(`,"cost":{"mode":"x"}`), 400, "cost.mode"},
		{"unknown field of cost", "PUT", ws + "/routes/r", route(`,"cost":{"mode":"per_token","eur":"1"}`), 400, "cost.eur"},
		{"per_token with usd", "PUT", ws + "/routes/r", route(`,"cost":{"mode":"per_token","usd":"1"}`), 400, "cost.usd"},
		{"per_request without usd", "PUT", ws + "/routes/r", route(`,"cost":{"mode":"per_request"}`), 400, "cost.usd"},
		{"usd is a number", "PUT", ws + "/routes/r", route(`,"cost":{"mode":"per_request","usd":0.1}`), 400, "cost.usd"},
		{"usd negative", "PUT", ws + "/routes/r", route(`,"cost":{"mode":"per_request","usd":"-1"}`), 400, "cost.usd"},
		{"usd with ten decimals", "PUT", ws + "/routes/r", route(`,"cost":{"mode":"per_request","usd":"0.0000000001"}`), 400, "cost.usd"},
		{"usd above the largest cost of a call", "PUT", ws + "/routes/r", route(`,"cost":{"mode":"per_request","usd":"100000.000000001"}`), 400, "cost.usd"},
		{"usd too large", "PUT", ws + "/routes/r", route(`,"cost":{"mode":"per_request","usd":"99999999999"}`), 400, "cost.usd"},
		{"weight 0", "PUT", ws + "/routes/r", route(`,"weights":{"*":0}`), 400, "weights.*"},
		{"weight is a fraction", "PUT", ws + "/routes/r", route(`,"weights":{"*":1.5}`), 400, "weights"},
		{"route named as a shortcut", "PUT", ws + "/routes/v1", route(``), 400, "route"},
		{"route named with a blank", "PUT", ws + "/routes/a%20b", route(``), 400, "route"},
		{"limit 0", "GET", ws + "/keys?limit=0", "", 400, "limit"},
		{"limit 1001", "GET", ws + "/routes?limit=1001", "", 400, "limit"},
		{"foreign cursor", "GET", ws + "/routes?cursor=abc", "", 400, "cursor"},
		{"unknown parameter", "GET", ws + "/routes?page=2", "", 400, "page"},
		{"no such path", "GET", "/v1/nothing", "", 404, ""},
		{"no such method", "PUT", ws + "/keys", "{}", 405, ""},
		{"no limit", "PUT", ws + "/limits/l", `{"window":"1m"}`, 400, "limit"},
		{"no window", "PUT", ws + "/limits/l", `{"limit":5}`, 400, "window"},
		{"limit 0 of a window", "PUT", ws + "/limits/l", `{"limit":0,"window":"1m"}`, 400, "limit"},
		{"limit negative", "PUT", ws + "/limits/l", `{"limit":-1,"window":"1m"}`, 400, "limit"},
		{"limit is a fraction", "PUT", ws + "/limits/l", `{"limit":1.5,"window":"1m"}`, 400, "limit"},
		{"limit is text", "PUT", ws + "/limits/l", `{"limit":"5","window":"1m"}`, 400, "limit"},
		{"limit above int64", "PUT", ws + "/limits/l", `{"limit":9223372036854775808,"window":"1m"}`, 400, "limit"},
		{"limit above the largest", "PUT", ws + "/limits/l", `{"limit":1000000000001,"window":"1m"}`, 400, "limit"},
		{"window without unit", "PUT", ws + "/limits/l", `{"limit":5,"window":"60"}`, 400, "window"},
		{"window is a number", "PUT", ws + "/limits/l", `{"limit":5,"window":60}`, 400, "window"},
		{"window too short", "PUT", ws + "/limits/l", `{"limit":5,"window":"9ms"}`, 400, "window"},
		{"window too long", "PUT", ws + "/limits/l", `{"limit":5,"window":"9601h"}`, 400, "window"},
		{"unknown scope of a limit", "PUT", ws + "/limits/l", limit(`,"scope":"planet"`), 400, "scope"},
		{"empty scope of a limit", "PUT", ws + "/limits/l", limit(`,"scope":""`), 400, "scope"},
		{"unknown unit", "PUT", ws + "/limits/l", limit(`,"unit":"bytes"`), 400, "unit"},
		{"unknown algorithm", "PUT", ws + "/limits/l", limit(`,"algorithm":"dice"`), 400, "algorithm"},
		{"unknown mode of a limit", "PUT", ws + "/limits/l", limit(`,"mode":"lax"`), 400, "mode"},
		{"unknown on_store_failure", "PUT", ws + "/limits/l", limit(`,"on_store_failure":"ajar"`), 400, "on_store_failure"},
		{"burst 0", "PUT", ws + "/limits/l", limit(`,"burst":0`), 400, "burst"},
		{"burst of a fixed window", "PUT", ws + "/limits/l", limit(`,"algorithm":"fixed_window","burst":5`), 400, "burst"},
		{"burst too large for the rate", "PUT", ws + "/limits/l", `{"limit":1,"window":"9600h","burst":1000000000000}`, 400, "burst"},
		{"max_delay of a token bucket", "PUT", ws + "/limits/l", limit(`,"max_delay":"1s"`), 400, "max_delay"},
		{"max_delay 0", "PUT", ws + "/limits/l", limit(`,"algorithm":"leaky_bucket","max_delay":"0s"`), 400, "max_delay"},
		{"max_delay too long", "PUT", ws + "/limits/l", limit(`,"algorithm":"leaky_bucket","max_delay":"61s"`), 400, "max_delay"},
		{"leaky bucket of tokens", "PUT", ws + "/limits/l", limit(`,"algorithm":"leaky_bucket","unit":"tokens"`), 400, "unit"},
		{"leased window", "PUT", ws + "/limits/l", limit(`,"algorithm":"sliding_window","mode":"leased"`), 400, "mode"},
		{"lease_percent of a strict limit", "PUT", ws + "/limits/l", limit(`,"lease_percent":5`), 400, "lease_percent"},
		{"lease_percent 0", "PUT", ws + "/limits/l", limit(`,"mode":"leased","lease_percent":0`), 400, "lease_percent"},
		{"lease_percent too large", "PUT", ws + "/limits/l", limit(`,"mode":"leased","lease_percent":51`), 400, "lease_percent"},
		{"match is text", "PUT", ws + "/limits/l", limit(`,"match":"gpt-4*"`), 400, "match"},
		{"unknown field of match", "PUT", ws + "/limits/l", limit(`,"match":{"colour":"red"}`), 400, "match.colour"},
		{"match of no route id", "PUT", ws + "/limits/l", limit(`,"match":{"route":"a/b"}`), 400, "match.route"},
		{"empty model of match", "PUT", ws + "/limits/l", limit(`,"match":{"model":""}`), 400, "match.model"},
		{"newline in a key of match", "PUT", ws + "/limits/l", limit(`,"match":{"key":"a\nb"}`), 400, "match.key"},
		{"unknown field of a limit", "PUT", ws + "/limits/l", limit(`,"limits":5`), 400, "limits"},
		{"limit named with a blank", "PUT", ws + "/limits/a%20b", limit(``), 400, "name"},
		{"limits limit 0", "GET", ws + "/limits?limit=0", "", 400, "limit"},
		{"PUT on the list of limits", "PUT", ws + "/limits", "{}", 405, ""},
		{"no usd", "PUT", ws + "/budgets/b", `{}`, 400, "usd"},
		{"null usd", "PUT", ws + "/budgets/b", `{"usd":null}`, 400, "usd"},
		{"usd is a number", "PUT", ws + "/budgets/b", `{"usd":10}`, 400, "usd"},
		{"ten decimals", "PUT", ws + "/budgets/b", `{"usd":"0.0000000001"}`, 400, "usd"},
		{"usd with a sign", "PUT", ws + "/budgets/b", `{"usd":"+1"}`, 400, "usd"},
		{"nothing to spend", "PUT", ws + "/budgets/b", `{"usd":"0"}`, 400, "usd"},
		{"less than nothing", "PUT", ws + "/budgets/b", `{"usd":"-1"}`, 400, "usd"},
		{"too much", "PUT", ws + "/budgets/b", `{"usd":"4000000.000000001"}`, 400, "usd"},
		{"too much for an integer", "PUT", ws + "/budgets/b", `{"usd":"99999999999999999999"}`, 400, "usd"},
		{"budget of endpoints", "PUT", ws + "/budgets/b", budget(`,"scope":"endpoint"`), 400, "scope"},
		{"unknown period", "PUT", ws + "/budgets/b", budget(`,"period":"year"`), 400, "period"},
		{"unknown zone", "PUT", ws + "/budgets/b", budget(`,"timezone":"Mars/Phobos"`), 400, "timezone"},
		{"the machine's zone", "PUT", ws + "/budgets/b", budget(`,"timezone":"Local"`), 400, "timezone"},
		{"unknown enforcement", "PUT", ws + "/budgets/b", budget(`,"enforcement":"firm"`), 400, "enforcement"},
		{"hard and open", "PUT", ws + "/budgets/b", budget(`,"on_store_failure":"open"`), 400, "on_store_failure"},
		{"unknown mode", "PUT", ws + "/budgets/b", budget(`,"mode":"lent"`), 400, "mode"},
		{"lease_percent of a strict budget", "PUT", ws + "/budgets/b", budget(`,"lease_percent":5`), 400, "lease_percent"},
		{"lease_percent 0 of a budget", "PUT", ws + "/budgets/b", budget(`,"mode":"leased","lease_percent":0`), 400, "lease_percent"},
		{"lease_percent of a budget too large", "PUT", ws + "/budgets/b", budget(`,"mode":"leased","lease_percent":51`), 400, "lease_percent"},
		{"alert_at is text", "PUT", ws + "/budgets/b", budget(`,"alert_at":"0.5"`), 400, "alert_at"},
		{"alert_at is empty", "PUT", ws + "/budgets/b", budget(`,"alert_at":[]`), 400, "alert_at"},
		{"alert_at holds null", "PUT", ws + "/budgets/b", budget(`,"alert_at":[null]`), 400, "alert_at"},
		{"alert_at 0", "PUT", ws + "/budgets/b", budget(`,"alert_at":[0,1]`), 400, "alert_at"},
		{"alert_at descends", "PUT", ws + "/budgets/b", budget(`,"alert_at":[1,0.5]`), 400, "alert_at"},
		{"alert_at beyond all numbers", "PUT", ws + "/budgets/b", budget(`,"alert_at":[1e400]`), 400, "alert_at"},
		{"unknown field of a budget's match", "PUT", ws + "/budgets/b", budget(`,"match":{"colour":"red"}`), 400, "match.colour"},
		{"unknown field of a budget", "PUT", ws + "/budgets/b", budget(`,"generation":5`), 400, "generation"},
		{"budget named with a blank", "PUT", ws + "/budgets/a%20b", budget(``), 400, "name"},
		{"budgets limit 0", "GET", ws + "/budgets?limit=0", "", 400, "limit"},
		{"balances of no budget", "GET", ws + "/budgets/c/balances", "", 404, ""},
		{"balances limit 0", "GET", ws + "/budgets/b/balances?limit=0", "", 400, "limit"},
		{"balances with another list's cursor", "GET", ws + "/budgets/b/balances?cursor=YWZ0ZXI6JQ", "", 400, "cursor"},
		{"settings null", "PATCH", ws, `{"settings":null}`, 400, "settings"},
		{"settings are a list", "PATCH", ws, `{"settings":[]}`, 400, "settings"},
		{"unknown setting", "PATCH", ws, settings(`"colour":"red"`), 400, "settings.colour"},
		{"another status", "PATCH", ws, settings(`"budget_exceeded_status":403`), 400, "settings.budget_exceeded_status"},
		{"status is text", "PATCH", ws, settings(`"budget_exceeded_status":"402"`), 400, "settings.budget_exceeded_status"},
		{"unknown outcome", "PATCH", ws, settings(`"unknown_outcome":"output"`), 400, "settings.unknown_outcome"},
		{"no output tokens", "PATCH", ws, settings(`"default_max_output_tokens":0`), 400, "settings.default_max_output_tokens"},
		{"too many output tokens", "PATCH", ws, settings(`"default_max_output_tokens":10000001`), 400, "settings.default_max_output_tokens"},
		{"fit is a number", "PATCH", ws, settings(`"fit_max_output_tokens":1`), 400, "settings.fit_max_output_tokens"},
		{"outcomes of a hard budget", "PATCH", ws, settings(`"unknown_outcome":"input"`), 409, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := s.root().do(c.method, c.path, c.body)
			if got.status != c.status {
				t.Fatalf("status: got %d, want %d: %s", got.status, c.status, got.raw)
			}
			if ct := got.header.Get("Content-Type"); ct != "application/problem+json" {
				t.Errorf("Content-Type: got %q", ct)
			}
			if c.field != "" && !slices.Contains(got.fields(), c.field) {
				t.Errorf("fields: got %v, want %s: %s", got.fields(), c.field, got.raw)
			}
			if strings.Contains(got.raw, "sk-") {
				t.Errorf("the answer repeats the body: %s", got.raw)
			}
		})
	}
	if after := state(); after != before {
		t.Errorf("state: got %s, want %s", after, before)
	}
}

func TestEveryBadFieldIsNamed(t *testing.T) {
	s := newAPI(t)
	ws := s.workspace("a")
	for _, c := range []struct {
		path, body string
		want       []string
	}{
		{"/routes/r", `{"provider":"x","base_url":"ftp://h","timeout":"x","zzz":1}`, []string{"provider", "base_url", "timeout", "zzz"}},
		{
			"/limits/l", `{"scope":"x","unit":1,"limit":0,"window":"1","burst":0,"max_delay":"1s","match":{"x":1},"zzz":1}`,
			[]string{"unit", "limit", "burst", "window", "match.x", "scope", "max_delay", "zzz"},
		},
		{"/limits/l", `{}`, []string{"limit", "window"}},
		{
			"/budgets/b", `{"scope":"x","usd":"1.","period":1,"timezone":"x","enforcement":"x","alert_at":[2,1],"on_store_failure":"x","mode":"x","lease_percent":0,"match":{"x":1},"zzz":1}`,
			[]string{"period", "usd", "lease_percent", "match.x", "scope", "timezone", "enforcement", "alert_at", "on_store_failure", "mode", "zzz"},
		},
	} {
		if got := s.root().do("PUT", ws+c.path, c.body).want(t, 400).fields(); !slices.Equal(got, c.want) {
			t.Errorf("PUT %s %s: got %v, want %v", c.path, c.body, got, c.want)
		}
	}
}
