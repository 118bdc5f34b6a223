package control_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// newAPI returns a role that only answers; the broker does not even exist.
func newAPI(t *testing.T) *system {
	t.Helper()
	return idle(t, settings(t, newDatabase(t), "127.0.0.1:1"))
}

func TestWorkspaceLife(t *testing.T) {
	s := newAPI(t)
	created := s.root().do("POST", "/v1/workspaces", `{"name":"Team A"}`).want(t, 201)
	path := "/v1/workspaces/" + created.text("id")
	if got := created.header.Get("Location"); got != path {
		t.Errorf("Location: got %q, want %q", got, path)
	}
	if !strings.HasPrefix(created.text("id"), "ws_") {
		t.Errorf("id: got %q", created.text("id"))
	}
	got := s.root().do("GET", path, nil).want(t, 200)
	if got.text("name") != "Team A" || got.header.Get("ETag") != `"1"` {
		t.Errorf("read back: %s, ETag %s", got.raw, got.header.Get("ETag"))
	}
	s.root().set("If-Match", `"9"`).do("PATCH", path, `{"name":"B"}`).want(t, 412)
	renamed := s.root().set("If-Match", `"1"`).do("PATCH", path, `{"name":"B"}`).want(t, 200)
	if renamed.number("version") != 2 {
		t.Errorf("version after a change: got %d, want 2", renamed.number("version"))
	}
	if same := s.root().do("PATCH", path, `{"name":"B"}`).want(t, 200); same.number("version") != 2 {
		t.Errorf("version after the same change: got %d, want 2", same.number("version"))
	}
	s.root().do("DELETE", path, nil).want(t, 204)
	for _, method := range []string{"GET", "DELETE"} {
		s.root().do(method, path, nil).want(t, 404)
	}
	s.root().do("PATCH", path, `not even JSON`).want(t, 404)
}

func TestKeysOfADeletedWorkspaceAreRevoked(t *testing.T) {
	s := newAPI(t)
	ws := s.workspace("a")
	_, secret := s.key(ws, map[string]any{"scopes": []string{"read:keys"}})
	s.with(secret).do("GET", ws+"/keys", nil).want(t, 200)
	s.root().do("DELETE", ws, nil).want(t, 204)
	s.with(secret).do("GET", ws+"/keys", nil).want(t, 401)
}

func TestListsArePagedToTheEnd(t *testing.T) {
	s := newAPI(t)
	ws := s.workspace("a")
	want := map[string][]string{}
	for i := range 5 {
		id, _ := s.key(ws, map[string]any{})
		want["keys"] = append(want["keys"], id)
		for kind, body := range map[string]any{"routes": anyRoute, "limits": anyLimit, "budgets": anyBudget} {
			name := fmt.Sprintf("%s-%d", kind, i)
			s.root().do("PUT", ws+"/"+kind+"/"+name, body).want(t, 201)
			want[kind] = append(want[kind], name)
		}
	}
	for kind, field := range map[string]string{"keys": "id", "routes": "name", "limits": "name", "budgets": "name"} {
		var got []string
		cursor := ""
		for {
			page := s.root().do("GET", ws+"/"+kind+"?limit=2"+cursor, nil).want(t, 200)
			for _, item := range page.body["data"].([]any) {
				got = append(got, item.(map[string]any)[field].(string))
			}
			if page.body["next"] == nil {
				break
			}
			cursor = "&cursor=" + page.text("next")
		}
		if !slices.Equal(got, want[kind]) {
			t.Errorf("pages of %s: got %v, want %v", kind, got, want[kind])
		}
	}
}

func TestRouteDefaultsAndIdenticalPut(t *testing.T) {
	s := newAPI(t)
	ws := s.workspace("a")
	path := ws + "/routes/openai"
	first := s.root().do("PUT", path, `{"provider":"openai","base_url":"https://api.test/","credential":"sk-1"}`).want(t, 201)
	if first.text("timeout") != "5m0s" || first.text("idle_timeout") != "5m0s" || first.text("base_url") != "https://api.test" {
		t.Errorf("defaults: %s", first.raw)
	}
	if first.body["has_credential"] != true || strings.Contains(first.raw, "sk-1") {
		t.Errorf("credential: %s", first.raw)
	}
	for _, body := range []string{
		`{"provider":"openai","base_url":"https://api.test/","credential":"sk-1"}`,
		`{"provider":"openai","base_url":"https://api.test","timeout":"300s","cost":{"mode":"per_token"},"weights":{}}`,
	} {
		again := s.root().do("PUT", path, body).want(t, 200)
		if again.raw != first.raw {
			t.Errorf("identical PUT %s: got %s, want %s", body, again.raw, first.raw)
		}
	}
	changed := s.root().do("PUT", path, `{"provider":"openai","base_url":"https://api.test","credential":"sk-2"}`).want(t, 200)
	if changed.number("version") <= first.number("version") {
		t.Errorf("another credential kept the version %d", changed.number("version"))
	}
	none := s.root().do("PUT", path, `{"provider":"openai","base_url":"https://api.test","credential":null}`).want(t, 200)
	if none.body["has_credential"] != false {
		t.Errorf("null did not remove the credential: %s", none.raw)
	}
}

// kinds are the things of a policy that are made by PUT, each with two bodies.
var kinds = []struct {
	path       string
	any, other map[string]any
}{
	{"/routes/r", anyRoute, map[string]any{"provider": "http", "base_url": "http://upstream.test"}},
	{"/limits/l", anyLimit, map[string]any{"limit": 6, "window": "1m"}},
	{"/budgets/b", anyBudget, map[string]any{"usd": "11"}},
}

func TestAThingMadeAgainHasANewerVersion(t *testing.T) {
	s := newAPI(t)
	ws := s.workspace("a")
	for _, kind := range kinds {
		path := ws + kind.path
		first := s.root().do("PUT", path, kind.any).want(t, 201)
		if got := first.header.Get("Location"); got != path {
			t.Errorf("Location: got %q, want %q", got, path)
		}
		s.root().do("DELETE", path, nil).want(t, 204)
		s.root().do("GET", path, nil).want(t, 404)
		s.root().do("DELETE", path, nil).want(t, 404)
		s.root().set("If-Match", first.header.Get("ETag")).do("PUT", path, kind.any).want(t, 412)
		second := s.root().do("PUT", path, kind.any).want(t, 201)
		if second.number("version") <= first.number("version") {
			t.Errorf("%s: version %d after %d", kind.path, second.number("version"), first.number("version"))
		}
		s.root().set("If-Match", first.header.Get("ETag")).do("DELETE", path, nil).want(t, 412)
	}
}

func TestConditions(t *testing.T) {
	s := newAPI(t)
	ws := s.workspace("a")
	for _, kind := range kinds {
		path := ws + kind.path
		s.root().set("If-Match", "*").do("PUT", path, kind.any).want(t, 412)
		tag := s.root().set("If-None-Match", "*").do("PUT", path, kind.any).want(t, 201).header.Get("ETag")
		s.root().set("If-None-Match", "*").do("PUT", path, kind.any).want(t, 412)
		for _, c := range []struct {
			match string
			want  int
		}{
			{`"999"`, 412}, {`W/` + tag, 412}, {`nonsense`, 400}, {`"998", ` + tag, 200}, {`*`, 200},
		} {
			if got := s.root().set("If-Match", c.match).do("PUT", path, kind.other); got.status != c.want {
				t.Errorf("%s, If-Match %s: got %d, want %d: %s", kind.path, c.match, got.status, c.want, got.raw)
			}
		}
		current := s.root().do("GET", path, nil).want(t, 200).header.Get("ETag")
		if got := s.root().set("If-None-Match", current).do("HEAD", path, nil); got.status != http.StatusOK {
			t.Errorf("%s: HEAD: got %d", kind.path, got.status)
		}
	}
}

func TestLimitDefaultsAndIdenticalPut(t *testing.T) {
	s := newAPI(t)
	ws := s.workspace("a")
	for _, c := range []struct {
		name, given, full string
	}{
		{
			"bucket", `{"limit":600,"window":"60s"}`,
			`{"scope":"workspace","match":{},"unit":"requests","algorithm":"token_bucket","limit":600,"window":"1m0s","burst":600,"mode":"strict","on_store_failure":"open"}`,
		},
		{
			"window", `{"scope":"model","unit":"tokens","algorithm":"sliding_window","limit":7,"window":"1h","on_store_failure":"closed","burst":null}`,
			`{"scope":"model","match":{},"unit":"tokens","algorithm":"sliding_window","limit":7,"window":"1h0m0s","mode":"strict","on_store_failure":"closed"}`,
		},
		{
			"leased", `{"limit":600,"window":"1m","mode":"leased"}`,
			`{"scope":"workspace","match":{},"unit":"requests","algorithm":"token_bucket","limit":600,"window":"1m0s","burst":600,"mode":"leased","on_store_failure":"open","lease_percent":5}`,
		},
		{
			"leaky", `{"scope":"key","match":{"route":"r","model":"gpt-4*","key":"key_1"},"algorithm":"leaky_bucket","limit":1,"window":"10ms","burst":3}`,
			`{"scope":"key","match":{"route":"r","model":"gpt-4*","key":"key_1"},"unit":"requests","algorithm":"leaky_bucket","limit":1,"window":"10ms","burst":3,"mode":"strict","on_store_failure":"open","max_delay":"1s"}`,
		},
	} {
		path := ws + "/limits/" + c.name
		first := s.root().do("PUT", path, c.given).want(t, 201)
		for _, again := range []answer{s.root().do("GET", path, nil), s.root().do("PUT", path, c.given), s.root().do("PUT", path, c.full)} {
			if again.want(t, 200).raw != first.raw {
				t.Errorf("%s: got %s, want %s", c.name, again.raw, first.raw)
			}
		}
		shown := first.body
		if shown["name"] != c.name {
			t.Errorf("name: got %v, want %s", shown["name"], c.name)
		}
		for _, own := range []string{"name", "version", "created_at", "updated_at"} {
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

func TestAWorkspaceHasAHundredLimitsAndBudgets(t *testing.T) {
	s := newAPI(t)
	ws := s.workspace("a")
	for kind, bodies := range map[string][2]any{"limits": {anyLimit, map[string]any{"limit": 6, "window": "1m"}}, "budgets": {anyBudget, map[string]any{"usd": "11"}}} {
		for i := range 100 {
			s.root().do("PUT", fmt.Sprintf("%s/%s/l%d", ws, kind, i), bodies[0]).want(t, 201)
		}
		s.root().do("PUT", ws+"/"+kind+"/more", bodies[0]).want(t, 409)
		s.root().do("PUT", ws+"/"+kind+"/l7", bodies[1]).want(t, 200)
		s.root().do("DELETE", ws+"/"+kind+"/l7", nil).want(t, 204)
		s.root().do("PUT", ws+"/"+kind+"/more", bodies[0]).want(t, 201)
	}
}

func TestPerRequestCostIsExact(t *testing.T) {
	s := newAPI(t)
	path := s.workspace("a") + "/routes/r"
	a := s.root().do("PUT", path, `{"provider":"http","base_url":"http://h","cost":{"mode":"per_request","usd":"0.100000001"}}`).want(t, 201)
	if got := a.body["cost"].(map[string]any)["usd"]; got != "0.100000001" {
		t.Errorf("usd: got %v", got)
	}
}
