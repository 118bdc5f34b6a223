package control_test

import (
	"strings"
	"testing"
	"time"
)

// TestAnotherTenantIsNotThere calls everything of one tenant with the keys of another. The bodies are malformed: a 404 shows
// that they were not looked at.
func TestAnotherTenantIsNotThere(t *testing.T) {
	s := newAPI(t)
	mine, theirs := s.workspace("mine"), s.workspace("theirs")
	all := []string{"write:apis", "write:keys", "write:limits", "write:budgets", "read:usage", "read:requests", "invoke"}
	_, secret := s.key(mine, map[string]any{"scopes": all})
	theirKey, _ := s.key(theirs, map[string]any{})
	s.root().do("PUT", theirs+"/routes/r", anyRoute).want(t, 201)
	s.root().do("PUT", theirs+"/limits/l", anyLimit).want(t, 201)
	s.root().do("PUT", theirs+"/budgets/b", anyBudget).want(t, 201)
	me := s.with(secret)
	for _, c := range [][2]string{
		{"GET", theirs},
		{"PATCH", theirs},
		{"DELETE", theirs},
		{"GET", theirs + "/keys"},
		{"POST", theirs + "/keys"},
		{"GET", theirs + "/keys/" + theirKey},
		{"PATCH", theirs + "/keys/" + theirKey},
		{"POST", theirs + "/keys/" + theirKey + "/rotate"},
		{"POST", theirs + "/keys/" + theirKey + "/revoke"},
		{"GET", theirs + "/routes"},
		{"GET", theirs + "/routes/r"},
		{"PUT", theirs + "/routes/r"},
		{"DELETE", theirs + "/routes/r"},
		{"GET", theirs + "/limits"},
		{"GET", theirs + "/limits/l"},
		{"PUT", theirs + "/limits/l"},
		{"DELETE", theirs + "/limits/l"},
		{"GET", theirs + "/budgets"},
		{"GET", theirs + "/budgets/b"},
		{"GET", theirs + "/budgets/b/balances?limit=x"},
		{"PUT", theirs + "/budgets/b"},
		{"DELETE", theirs + "/budgets/b"},
		{"GET", theirs + "/usage?from=x"},
		{"GET", theirs + "/requests?limit=x"},
		{"GET", theirs + "/requests/x"},
		{"GET", theirs + "/requests/x/explain"},
		// Their things through my own workspace.
		{"GET", mine + "/keys/" + theirKey},
		{"PATCH", mine + "/keys/" + theirKey},
		{"POST", mine + "/keys/" + theirKey + "/rotate"},
		{"POST", mine + "/keys/" + theirKey + "/revoke"},
		{"GET", mine + "/routes/r"},
		{"GET", mine + "/limits/l"},
		{"DELETE", mine + "/limits/l"},
		{"GET", mine + "/budgets/b"},
		{"GET", mine + "/budgets/b/balances"},
		{"DELETE", mine + "/budgets/b"},
	} {
		if got := me.do(c[0], c[1], `{"broken`); got.status != 404 {
			t.Errorf("%s %s: got %d, want 404: %s", c[0], c[1], got.status, got.raw)
		}
	}
	list := me.do("GET", "/v1/workspaces", nil).want(t, 200)
	if strings.Contains(list.raw, theirs[len("/v1/workspaces/"):]) || !strings.Contains(list.raw, mine[len("/v1/workspaces/"):]) {
		t.Errorf("workspaces: %s", list.raw)
	}
}

func TestCredentials(t *testing.T) {
	s := newAPI(t)
	ws := s.workspace("a")
	_, secret := s.key(ws, map[string]any{"scopes": []string{"read:keys"}})
	for _, c := range []struct {
		name, header, code string
	}{
		{"none", "", "invalid_api_key"},
		{"basic", "Basic " + adminToken, "invalid_api_key"},
		{"empty", "Bearer ", "invalid_api_key"},
		{"prefix of the root token", "Bearer " + adminToken[:10], "invalid_api_key"},
		{"unknown key", "Bearer rg_" + strings.Repeat("a", 32), "invalid_api_key"},
		{"key with a tail", "Bearer " + secret + "x", "invalid_api_key"},
	} {
		got := s.with("").set("Authorization", c.header).do("GET", ws+"/keys", nil)
		if got.status != 401 || got.text("code") != c.code || got.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: got %d %s", c.name, got.status, got.raw)
		}
	}
	s.with(secret).do("GET", ws+"/keys", nil).want(t, 200)
}

func TestScopes(t *testing.T) {
	s := newAPI(t)
	ws := s.workspace("a")
	keyID, _ := s.key(ws, map[string]any{})
	s.root().do("PUT", ws+"/routes/r", anyRoute).want(t, 201)
	s.root().do("PUT", ws+"/limits/l", anyLimit).want(t, 201)
	s.root().do("PUT", ws+"/budgets/b", anyBudget).want(t, 201)
	for _, c := range []struct {
		name   string
		scopes []string
		method string
		path   string
		want   int
	}{
		{"no scopes cannot read", nil, "GET", ws + "/keys", 403},
		{"no scopes cannot see the workspace", nil, "GET", ws, 403},
		{"read does not write", []string{"read:apis"}, "PUT", ws + "/routes/r", 403},
		{"read reads", []string{"read:apis"}, "GET", ws + "/routes/r", 200},
		{"write implies read", []string{"write:apis"}, "GET", ws + "/routes", 200},
		{"write writes", []string{"write:apis"}, "PUT", ws + "/routes/r", 200},
		{"other resource", []string{"write:apis"}, "GET", ws + "/keys", 403},
		{"keys", []string{"read:keys"}, "GET", ws + "/keys/" + keyID, 200},
		{"limits are not routes", []string{"write:apis"}, "GET", ws + "/limits/l", 403},
		{"limits are read", []string{"read:limits"}, "GET", ws + "/limits", 200},
		{"read does not write limits", []string{"read:limits"}, "PUT", ws + "/limits/l", 403},
		{"read does not delete limits", []string{"read:limits"}, "DELETE", ws + "/limits/l", 403},
		{"limits are written", []string{"write:limits"}, "PUT", ws + "/limits/l", 200},
		{"write implies read of limits", []string{"write:limits"}, "GET", ws + "/limits/l", 200},
		{"budgets are not limits", []string{"write:limits"}, "GET", ws + "/budgets/b", 403},
		{"balances are not limits", []string{"write:limits"}, "GET", ws + "/budgets/b/balances", 403},
		{"budgets are read", []string{"read:budgets"}, "GET", ws + "/budgets", 200},
		{"balances are read", []string{"read:budgets"}, "GET", ws + "/budgets/b/balances", 200},
		{"read does not write budgets", []string{"read:budgets"}, "PUT", ws + "/budgets/b", 403},
		{"read does not delete budgets", []string{"read:budgets"}, "DELETE", ws + "/budgets/b", 403},
		{"budgets are written", []string{"write:budgets"}, "PUT", ws + "/budgets/b", 200},
		{"settings", []string{"write:budgets", "write:limits"}, "PATCH", ws, 403},
		{"usage", []string{"read:keys"}, "GET", ws + "/usage", 403},
		{"own workspace", []string{"read:usage"}, "GET", ws, 200},
		{"rename", []string{"write:keys", "write:apis"}, "PATCH", ws, 403},
		{"delete the workspace", []string{"write:keys", "write:apis"}, "DELETE", ws, 403},
		{"new workspace", []string{"write:keys", "write:apis"}, "POST", "/v1/workspaces", 403},
	} {
		fields := map[string]any{}
		if c.scopes != nil {
			fields["scopes"] = c.scopes
		}
		_, secret := s.key(ws, fields)
		var body any
		if c.want == 200 && c.method == "PUT" {
			switch body = anyRoute; {
			case strings.Contains(c.path, "/limits/"):
				body = anyLimit
			case strings.Contains(c.path, "/budgets/"):
				body = anyBudget
			}
		}
		if got := s.with(secret).do(c.method, c.path, body); got.status != c.want {
			t.Errorf("%s: got %d, want %d: %s", c.name, got.status, c.want, got.raw)
		}
	}
}

func TestAKeyCannotGrantWhatItLacks(t *testing.T) {
	s := newAPI(t)
	ws := s.workspace("a")
	_, manager := s.key(ws, map[string]any{"scopes": []string{"write:keys", "read:usage"}})
	_, narrow := s.key(ws, map[string]any{"scopes": []string{"write:keys", "invoke"}, "routes": []string{"openai"}, "models": []string{"gpt-4*"}})
	strong, _ := s.key(ws, map[string]any{"scopes": []string{"write:apis", "invoke"}})
	weak, _ := s.key(ws, map[string]any{"scopes": []string{"read:usage"}})
	for _, c := range []struct {
		name, secret, method, path, body string
		want                             int
	}{
		{"what it has", manager, "POST", "/keys", `{"name":"a","scopes":["read:keys","read:usage"]}`, 201},
		{"read by write", manager, "POST", "/keys", `{"name":"a","scopes":["write:keys"]}`, 201},
		{"write by read", manager, "POST", "/keys", `{"name":"a","scopes":["write:usage"]}`, 403},
		{"invoke by default", manager, "POST", "/keys", `{"name":"a"}`, 403},
		{"another scope", manager, "POST", "/keys", `{"name":"a","scopes":["write:apis"]}`, 403},
		{"more by PATCH", manager, "PATCH", "/keys/" + weak, `{"scopes":["write:apis"]}`, 403},
		{"a name by PATCH", manager, "PATCH", "/keys/" + strong, `{"name":"b"}`, 200},
		{"life by PATCH", manager, "PATCH", "/keys/" + strong, `{"expires_at":"2099-01-01T00:00:00Z"}`, 403},
		{"a stronger secret by rotation", manager, "POST", "/keys/" + strong + "/rotate", `{"grace":"1h"}`, 403},
		{"rotation of a weaker one", manager, "POST", "/keys/" + weak + "/rotate", `{"grace":"1h"}`, 201},
		{"revocation", manager, "POST", "/keys/" + strong + "/revoke", ``, 200},
		{"all routes", narrow, "POST", "/keys", `{"name":"a","models":["gpt-4o"]}`, 403},
		{"another route", narrow, "POST", "/keys", `{"name":"a","routes":["http"],"models":["gpt-4o"]}`, 403},
		{"all models", narrow, "POST", "/keys", `{"name":"a","routes":["openai"]}`, 403},
		{"another model", narrow, "POST", "/keys", `{"name":"a","routes":["openai"],"models":["o3"]}`, 403},
		{"a wider pattern", narrow, "POST", "/keys", `{"name":"a","routes":["openai"],"models":["gpt-*"]}`, 403},
		{"a narrower pattern", narrow, "POST", "/keys", `{"name":"a","routes":["openai"],"models":["gpt-4o*"]}`, 201},
	} {
		if got := s.with(c.secret).do(c.method, ws+c.path, c.body); got.status != c.want {
			t.Errorf("%s: got %d, want %d: %s", c.name, got.status, c.want, got.raw)
		}
	}
}

func TestKeySecretIsShownOnce(t *testing.T) {
	s := newAPI(t)
	ws := s.workspace("a")
	id, secret := s.key(ws, map[string]any{"scopes": []string{"read:keys"}})
	for _, path := range []string{ws + "/keys", ws + "/keys/" + id} {
		if got := s.root().do("GET", path, nil).want(t, 200); strings.Contains(got.raw, secret) || strings.Contains(got.raw, `"key"`) {
			t.Errorf("GET %s shows the secret: %s", path, got.raw)
		}
	}
}

func TestRotationKeepsTheOldKeyForTheGrace(t *testing.T) {
	s := newAPI(t)
	ws := s.workspace("a")
	old, oldSecret := s.key(ws, map[string]any{"name": "n", "scopes": []string{"write:keys"}, "metadata": map[string]string{"team": "x"}})
	fresh := s.root().do("POST", ws+"/keys/"+old+"/rotate", `{"grace":"24h"}`).want(t, 201)
	if fresh.text("id") == old || fresh.text("key") == oldSecret || fresh.text("name") != "n" || !strings.Contains(fresh.raw, `"team":"x"`) {
		t.Errorf("new key: %s", fresh.raw)
	}
	s.with(oldSecret).do("GET", ws+"/keys", nil).want(t, 200)
	s.with(fresh.text("key")).do("GET", ws+"/keys", nil).want(t, 200)
	expires, err := time.Parse(time.RFC3339, s.root().do("GET", ws+"/keys/"+old, nil).text("expires_at"))
	if left := time.Until(expires); err != nil || left < 23*time.Hour || left > 24*time.Hour {
		t.Errorf("the old key expires in %s (%v), want 24 h", left, err)
	}
	// A second rotation with a longer grace does not give the old key more time; one without ends it.
	s.root().do("POST", ws+"/keys/"+old+"/rotate", `{"grace":"48h"}`).want(t, 201)
	if again := s.root().do("GET", ws+"/keys/"+old, nil).text("expires_at"); again != expires.Format(time.RFC3339Nano) {
		t.Errorf("expiry after a longer grace: got %s, want %s", again, expires.Format(time.RFC3339Nano))
	}
	s.root().do("POST", ws+"/keys/"+old+"/rotate", nil).want(t, 201)
	if got := s.with(oldSecret).do("GET", ws+"/keys", nil).want(t, 401); got.text("code") != "api_key_expired" {
		t.Errorf("code: got %s", got.text("code"))
	}
	s.root().do("POST", ws+"/keys/"+old+"/rotate", nil).want(t, 409)
}

func TestRevocationIsForEver(t *testing.T) {
	s := newAPI(t)
	ws := s.workspace("a")
	id, secret := s.key(ws, map[string]any{"scopes": []string{"write:keys"}})
	first := s.root().do("POST", ws+"/keys/"+id+"/revoke", nil).want(t, 200)
	again := s.root().do("POST", ws+"/keys/"+id+"/revoke", `{}`).want(t, 200)
	if first.raw != again.raw {
		t.Errorf("second revocation: got %s, want %s", again.raw, first.raw)
	}
	if got := s.with(secret).do("GET", ws+"/keys", nil).want(t, 401); got.text("code") != "api_key_revoked" {
		t.Errorf("code: got %s", got.text("code"))
	}
	s.root().do("PATCH", ws+"/keys/"+id, `{"revoked_at":null}`).want(t, 400)
	s.root().do("POST", ws+"/keys/"+id+"/rotate", nil).want(t, 409)
}
