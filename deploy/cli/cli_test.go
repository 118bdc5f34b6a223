package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rateguard/rateguard/deploy/cli"
)

var update = flag.Bool("update", false, "write the golden files")

// api is an admin API with canned answers that remembers what it was asked.
type api struct {
	t       *testing.T
	answers map[string]string // by method and path with query
	asked   []string
	bodies  map[string]string
}

const (
	token = "test-token"
	ws    = `{"id":"ws_1","name":"demo","settings":{"budget_exceeded_status":402,"unknown_outcome":"reserved","default_max_output_tokens":null,"fit_max_output_tokens":false},"version":1,"created_at":"2026-11-23T10:00:00Z"}`
	key   = `{"id":"key_1","name":"app","prefix":"rg_abcd","scopes":["invoke"],"created_at":"2026-11-23T10:00:00Z"}`
	route = `{"name":"openai","provider":"openai","base_url":"https://api.example.com","has_credential":true,"timeout":"5m0s","cost":{"mode":"per_token"}}`
	limit = `{"name":"rpm","scope":"key","match":{"route":"openai","model":"gpt-4*"},"unit":"requests","algorithm":"leaky_bucket","limit":600,"window":"1m0s",` +
		`"burst":20,"mode":"strict","on_store_failure":"closed","max_delay":"500ms","version":3}`
	budget = `{"name":"monthly","scope":"workspace","match":{},"usd":"10","period":"month","timezone":"Europe/Berlin","enforcement":"hard","alert_at":[0.5,0.8,1],` +
		`"on_store_failure":"closed","mode":"leased","lease_percent":5,"generation":3,"version":4,"balance":{"limit_usd":"10","posted_usd":"2.5","reserved_usd":"0.000000001","available_usd":"7.499999999",` +
		`"period_start":"2026-10-31T23:00:00Z","period_end":"2026-11-30T23:00:00Z","source":"live","as_of":"2026-11-23T10:00:05Z"}}`
	divided = `{"name":"per-key","scope":"key","match":{},"usd":"1","period":"total","timezone":"UTC","enforcement":"soft","alert_at":[1],"on_store_failure":"open","mode":"strict","generation":5,"version":5}`
	req     = `{"id":"0190","time":"2026-11-23T10:00:00.123Z","key_id":"key_1","route":"openai","provider":"openai","model":"gpt-4o","endpoint":"chat","method":"POST",` +
		`"status":200,"decision":"forwarded","stream":true,"input_tokens":12,"cached_tokens":0,"cache_write_tokens":0,"output_tokens":34,"reasoning_tokens":0,` +
		`"cost_usd":"0.00037","estimated":false,"price_version":"v1","latency_ms":812.5,"ttft_ms":210,"overhead_us":90,"client_ip":"127.0.0.1","country":""}`
	proved = `{"verdict":["At 2026-11-23 10:00:00 policy version 4 was in force.","The refusal is proved\u001b."],"omitted":3,"data":[` +
		`{"id":"0190/1","lease":false,"held_usd":"0","opened":{"at":"2026-11-23T09:00:00Z","amount_usd":"0.5","price_version":"v1","policy_version":4,"lease_id":"","epoch":2,"op":17,"posted_usd":"2","reserved_usd":"0.75","limit_usd":"10"},` +
		`"ends":[{"at":"2026-11-23T09:00:01Z","revision":1,"kind":"settled","cost_usd":"0.4","estimated":true,"by":"producer"}]},` +
		`{"id":"0192/lease","lease":true,"held_usd":"0.25","opened":{"at":"2026-11-23T09:30:00Z","amount_usd":"0.5","price_version":"","policy_version":4,"lease_id":"","epoch":2,"op":18,` +
		`"posted_usd":"2","reserved_usd":"0.5","limit_usd":"10"},"ends":[]},` +
		`{"id":"0191/1","lease":false,"held_usd":"0.25","opened":{"at":"2026-11-23T09:30:00Z","amount_usd":"0.25","price_version":"v1","policy_version":4,"lease_id":"0192/lease","epoch":2,"op":0,` +
		`"posted_usd":"2","reserved_usd":"0.5","limit_usd":"10"},"ends":[]},` +
		`{"id":"0193/1","lease":false,"held_usd":"0","opened":null,"ends":[{"at":"2026-11-23T09:40:00Z","revision":1,"kind":"expired","cost_usd":null,"estimated":false,"by":"closing"}]}]}`
	audited = `{"ok":true,"complete":true,"data":[{"workspace":"ws_1","openings":12,"leases":2,"taken_from_leases":7,"hard":9,"unknown_policy":0,"unknown_leases":1,"epochs":[{"epoch":1,"openings":11,"last_op":14,"missing":3,` +
		`"gaps":[{"from":2,"to":3},{"from":9,"to":9}]}],"broken":0,"breaches":[],"overran":1,"overran_by_usd":"0.25","overruns":[{"reservation":"0190/1","offset":7,` +
		`"reserved_usd":"0.5","cost_usd":"0.75","cause":"provider billed beyond the bound"}],"lower_views":2,"lower_by_usd":"0.1"}],"log":[]}`
	explained = `{"why":["Refused by limit rpm: 60 requests per minute for key key_1 (key scope).","Decided \u001b with policy version 7."],"checks":[` +
		`{"id":"rpm","kind":"limit","scope":"key","subject":"key_1","unit":"requests","limit":60,"window_us":60000000,"used":60,"remaining":0,"cost":1,` +
		`"reset_after_us":59500000,"retry_after_us":800000,"denied":true,"decided_by":"redis"},` +
		`{"id":"tpd","kind":"limit","scope":"workspace","subject":"","unit":"tokens","limit":90000,"window_us":86400000000,"used":512,"remaining":89488,"cost":40,` +
		`"reset_after_us":1,"retry_after_us":0,"denied":false,"decided_by":"redis"},` +
		`{"id":"monthly","kind":"budget","scope":"workspace","subject":"","unit":"","limit":10000000000,"window_us":0,"used":2500000000,"reserved":750000001,"remaining":6749999999,` +
		`"cost":500000000,"reset_after_us":639000000000,"retry_after_us":0,"denied":false,"decided_by":"redis","enforcement":"hard"}],"reservations":[` +
		`{"id":"0190/1","bound_usd":"2","opened_at":"2026-11-23T10:00:00Z","outcomes":[` +
		`{"revision":1,"kind":"settled","cost_usd":"1.000000001","estimated":false,"reason":"","price_version":"v1","time":"2026-11-23T10:00:01Z"},` +
		`{"revision":2,"kind":"settled","cost_usd":null,"estimated":false,"reason":"repriced","price_version":"v2","time":"2026-11-23T11:00:01Z"}]}]}`
)

func newAPI(t *testing.T) (*api, string) {
	t.Helper()
	a := &api{t: t, bodies: map[string]string{}, answers: map[string]string{
		"GET /v1/workspaces":                         `{"data":[` + ws + `],"next":""}`,
		"POST /v1/workspaces":                        ws,
		"GET /v1/workspaces/ws_1":                    ws,
		"GET /v1/workspaces/ws_1/keys":               `{"data":[` + key + `],"next":"more"}`,
		"GET /v1/workspaces/ws_1/keys?cursor=more":   `{"data":[` + strings.Replace(key, "key_1", "key_2", 1) + `],"next":""}`,
		"POST /v1/workspaces/ws_1/keys":              strings.Replace(key, `"prefix"`, `"key":"rg_secret","prefix"`, 1),
		"POST /v1/workspaces/ws_1/keys/key_1/rotate": strings.Replace(key, `"prefix"`, `"key":"rg_next","prefix"`, 1),
		"POST /v1/workspaces/ws_1/keys/key_1/revoke": strings.Replace(key, `"created_at"`, `"revoked_at":"2026-11-23T11:00:00Z","created_at"`, 1),
		"GET /v1/workspaces/ws_1/routes":             `{"data":[` + route + `],"next":""}`,
		"PUT /v1/workspaces/ws_1/routes/geo":         `{"name":"geo","provider":"http","base_url":"https://geo.example.com","has_credential":true,"cost":{"mode":"per_request","usd":"0.002"}}`,
		"GET /v1/workspaces/ws_1/usage?group_by=model": `{"data":[` +
			`{"model":"gpt-4o","requests":3,"errors":1,"denied":0,"input_tokens":36,"cached_tokens":0,"output_tokens":102,"cost_usd":"0.100000001","p50_ms":812.5,"p95_ms":900,"p99_ms":901},` +
			`{"model":"gpt-4o-mini","requests":2,"errors":0,"denied":1,"input_tokens":10,"cached_tokens":4,"output_tokens":7,"cost_usd":"0.2","p50_ms":12,"p95_ms":13,"p99_ms":14}],` +
			`"as_of":"2026-11-23T10:00:05Z","stale":false}`,
		"GET /v1/workspaces/ws_1/requests?limit=50&model=gpt-4o": `{"data":[` + req + `],"next":""}`,
		"GET /v1/workspaces/ws_1/requests/0190":                  req,
		"GET /v1/workspaces/ws_1/requests/0190/explain":          explained,
		"GET /v1/workspaces/ws_1/requests/0191/explain": `{"why":["Admitted: no limit or budget applied to it."],"checks":[],` +
			`"reservations":[{"id":"0191/1","bound_usd":null,"opened_at":null,"outcomes":[]}]}`,
		"GET /v1/workspaces/ws_1/limits":          `{"data":[` + limit + `],"next":""}`,
		"GET /v1/workspaces/ws_1/limits/rpm":      limit,
		"PUT /v1/workspaces/ws_1/limits/rpm":      limit,
		"PUT /v1/workspaces/ws_1/limits/tpd":      `{"name":"tpd","scope":"workspace","match":{},"unit":"tokens","algorithm":"fixed_window","limit":9,"window":"24h0m0s","mode":"strict","on_store_failure":"open"}`,
		"DELETE /v1/workspaces/ws_1/limits/rpm":   ``,
		"PATCH /v1/workspaces/ws_1":               strings.Replace(ws, `"default_max_output_tokens":null`, `"default_max_output_tokens":4096`, 1),
		"GET /v1/workspaces/ws_1/budgets":         `{"data":[` + budget + `,` + divided + `],"next":null}`,
		"GET /v1/workspaces/ws_1/budgets/monthly": budget,
		"GET /v1/workspaces/ws_1/budgets/per-key/balances": `{"data":[{"subject":"key_1","limit_usd":"1","posted_usd":"1.2","reserved_usd":"0","available_usd":"0",` +
			`"period_start":null,"period_end":null,"source":"ledger","as_of":null}],"next":null}`,
		"GET /v1/workspaces/ws_1/budgets/monthly/proof?at=2026-11-23T10%3A00%3A00Z&request=0192": proved,
		"GET /v1/workspaces/ws_1/budgets/monthly/proof?balance=key_1&limit=all":                  proved,
		"GET /v1/budgets/audit":                  audited,
		"GET /v1/producers":                      `{"data":[{"id":"0190-a","host":"proxy-1","started_at":"2026-11-23T09:00:00Z","declared_lost_at":null}],"next":null}`,
		"POST /v1/producers/0190-a/declare-lost": `{"id":"0190-a","host":"proxy-1","started_at":"2026-11-23T09:00:00Z","declared_lost_at":"2026-11-23T10:00:00Z"}`,
		"GET /v1/budgets/audit?workspace=ws_1": strings.Replace(audited, `"broken":0,"breaches":[]`,
			`"broken":1,"breaches":[{"rule":"limit","reservation":"0191/1","budget":"monthly","offset":8,"detail":"is above it"}]`, 1),
		"GET /v1/budgets/audit?workspace=ws_2":       `{"ok":false,"complete":false,"data":[],"log":[]}`,
		"PUT /v1/workspaces/ws_1/budgets/per-key":    divided,
		"DELETE /v1/workspaces/ws_1/budgets/monthly": ``,
		"DELETE /v1/workspaces/ws_1/routes/openai":   ``,
	}}
	s := httptest.NewServer(a)
	t.Cleanup(s.Close)
	return a, s.URL
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	what := r.Method + " " + r.URL.RequestURI()
	a.asked = append(a.asked, what)
	if b, err := io.ReadAll(r.Body); err == nil && len(b) > 0 {
		a.bodies[what] = string(b)
	}
	if r.Header.Get("Authorization") != "Bearer "+token {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"title":"Unauthorized","status":401,"code":"invalid_api_key","detail":"the token is wrong"}`)
		return
	}
	answer, ok := a.answers[what]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"title":"Not Found","status":404,"code":"not_found","detail":"there is no `+strings.ReplaceAll(what, `"`, "")+`"}`)
		return
	}
	_, _ = io.WriteString(w, answer)
}

// outcome of a command line.
type outcome struct {
	code        int
	out, errors string
}

func run(t *testing.T, url, stdin string, args ...string) outcome {
	t.Helper()
	return runIn(t.Context(), map[string]string{"RATEGUARD_ADMIN_URL": url, "RATEGUARD_ADMIN_TOKEN": token, "UPSTREAM_KEY": "sk-upstream"}, stdin, args...)
}

func runIn(ctx context.Context, env map[string]string, stdin string, args ...string) outcome {
	var out, errs bytes.Buffer
	code := cli.Run(ctx, cli.Env{
		Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs, Version: "1.2.3",
		Getenv: func(name string) string { return env[name] },
	}, args)
	return outcome{code, out.String(), errs.String()}
}

func TestOutput(t *testing.T) {
	for _, tc := range []struct{ name, args string }{
		{"workspaces", "workspaces list"},
		{"workspace_yaml", "workspaces get ws_1 -o yaml"},
		{"keys", "keys list"},
		{"key_created", "keys create app --scopes invoke,read:usage"},
		{"key_rotated", "keys rotate key_1 --grace 1h"},
		{"key_revoked", "keys revoke key_1 -w demo"},
		{"routes", "routes list"},
		{"route_put", "routes put geo --provider http --base-url https://geo.example.com --usd-per-request 0.002 --credential-env UPSTREAM_KEY"},
		{"limits", "limits list"},
		{"limit_yaml", "limits get rpm -o yaml"},
		{"limit_put", "limits put tpd --unit tokens --algorithm fixed_window --limit 9 --window 24h"},
		{"workspace_settings", "workspaces settings ws_1"},
		{"workspace_settings_changed", "workspaces settings ws_1 --default-max-output-tokens 4096"},
		{"budgets", "budgets list"},
		{"budget_yaml", "budgets get monthly -o yaml"},
		{"budget_set", "budgets set per-key --usd 1 --scope key --period total --enforcement soft"},
		{"balances", "budgets balances per-key"},
		{"budget_proved", "budgets prove monthly --at 2026-11-23T10:00:00Z --request 0192"},
		{"budget_proved_json", "budgets prove monthly --balance key_1 -o json"},
		{"budgets_audited", "budgets audit"},
		{"producers_yaml", "producers list -o yaml"},
		{"producer_lost", "budgets declare-lost 0190-a --reason gone"},
		{"usage", "usage"},
		{"usage_json", "usage -o json"},
		{"usage_yaml", "usage -o yaml"},
		{"requests", "requests list --model gpt-4o"},
		{"request_yaml", "requests get 0190 -o yaml"},
		{"explain", "requests explain 0190"},
		{"explain_open", "requests explain 0191"},
		{"explain_json", "requests explain 0190 -o json"},
		{"version", "version"},
		{"help", "help"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, url := newAPI(t)
			o := run(t, url, "", strings.Fields(tc.args)...)
			if o.code != 0 || o.errors != "" {
				t.Fatalf("exit code %d: %s", o.code, o.errors)
			}
			golden(t, tc.name, strings.ReplaceAll(o.out, url, "http://admin.example"))
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("output differs (-want +got):\n%s", diff)
	}
}

func TestExitCodes(t *testing.T) {
	for _, tc := range []struct {
		name, args string
		want       int
		says       string
	}{
		{"unknown command", "kyes list", 2, `no command "kyes"`},
		{"unknown command below", "keys lits", 2, `no command "lits"`},
		{"unknown flag", "usage --frm 1h", 2, "unknown flag: --frm"},
		{"missing argument", "keys get", 2, "takes 1 arguments, got 0"},
		{"unknown output", "keys list -o xml", 2, "not table, json or yaml"},
		{"unknown group", "usage -g colour", 2, "colour"},
		{"bad time", "usage --from yesterday", 2, "yesterday"},
		{"bad money", "routes put x --base-url https://a.example --usd-per-request 1e-3", 2, "usd-per-request"},
		{"missing flag", "routes put x", 2, "base-url"},
		{"limit without a window", "limits put x --limit 5", 2, "window"},
		{"window without a limit", "limits put x --window 1m", 2, "limit"},
		{"negative burst", "limits put x --limit 5 --window 1m --burst -1", 2, "burst"},
		{"window without unit", "limits put x --limit 5 --window 60", 2, "window"},
		{"unknown limit", "limits get x", 1, "404"},
		{"budget without an amount", "budgets set x", 2, "usd"},
		{"budget of nothing", "budgets set x --usd 0", 2, "usd"},
		{"budget with a negative share", "budgets set x --usd 1 --lease-percent -1", 2, "lease-percent"},
		{"budget that is no amount", "budgets set x --usd 1e3", 2, "usd"},
		{"alert that is no number", "budgets set x --usd 1 --alert-at half", 2, "alert-at"},
		{"unknown budget", "budgets get x", 1, "404"},
		{"broken budgets", "budgets audit -w demo", 1, "broken 1 times"},
		{"broken budgets as a document", "budgets audit -w ws_1 -o json", 1, "broken 1 times"},
		{"an audit without its end", "budgets audit -w ws_2", 1, "not read to its end"},
		{"loss without a reason", "budgets declare-lost 0190-a", 2, "--reason"},
		{"proof at no time", "budgets prove x --at noon", 2, "--at"},
		{"unknown workspace", "keys list -w other", 1, `no workspace "other"`},
		{"not found", "requests get nope", 1, "404"},
		{"bad setting", "up --admin-addr nonsense --check-config", 1, "admin-addr"},
		{"bad rate", "demo --rps 0", 2, "--rps"},
		{"good settings", "up --check-config", 0, ""},
		{"help of a role", "topics plan --help", 0, "kafka-brokers"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, url := newAPI(t)
			o := run(t, url, "", strings.Fields(tc.args)...)
			if o.code != tc.want {
				t.Errorf("exit code %d, want %d: %s", o.code, tc.want, o.errors)
			}
			if !strings.Contains(o.errors, tc.says) {
				t.Errorf("says %q, want %q in it", o.errors, tc.says)
			}
		})
	}
}

func TestMockIsSwitchedOffByAnEmptyVariable(t *testing.T) {
	for _, name := range []string{"OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"} {
		t.Setenv(name, "")
	}
	file := filepath.Join(t.TempDir(), "settings.yaml")
	if err := os.WriteFile(file, []byte("mock-addr: 127.0.0.1:8090\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const refused = "demo: needs mock-addr" // what the settings say without the mock provider
	for _, tc := range []struct {
		name string
		env  []string // RATEGUARD_MOCK_ADDR, where it is set
		args []string
		key  string
		off  bool
	}{
		{name: "unset"},
		{name: "an address", env: []string{"127.0.0.1:0"}},
		{name: "empty", env: []string{""}, off: true},
		{name: "empty, above the file", env: []string{""}, args: []string{"--config", file}, off: true},
		{name: "empty, below the command line", env: []string{""}, args: []string{"--mock-addr", "127.0.0.1:0"}},
		{name: "empty, with a real provider", env: []string{""}, key: "sk-real"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv("OPENAI_API_KEY", tc.key)
			t.Setenv("RATEGUARD_MOCK_ADDR", "")
			if tc.env == nil {
				if err := os.Unsetenv("RATEGUARD_MOCK_ADDR"); err != nil { // t.Setenv puts it back
					t.Fatal(err)
				}
			} else {
				t.Setenv("RATEGUARD_MOCK_ADDR", tc.env[0])
			}
			o := runIn(t.Context(), nil, "", append([]string{"up", "--check-config"}, tc.args...)...)
			if off := strings.Contains(o.errors, refused); off != tc.off || (o.code != 0) != tc.off {
				t.Errorf("exit code %d, %q; want the mock provider off: %t", o.code, o.errors, tc.off)
			}
		})
	}
}

func TestTokenComesFromTheDataDirectory(t *testing.T) {
	_, url := newAPI(t)
	dir := t.TempDir()
	env := map[string]string{"RATEGUARD_ADMIN_URL": url, "RATEGUARD_DATA_DIR": dir}
	if o := runIn(t.Context(), env, "", "workspaces", "list"); o.code != 2 || !strings.Contains(o.errors, "no admin token") {
		t.Errorf("without a token: %+v", o)
	}
	if err := os.WriteFile(filepath.Join(dir, "admin-token"), []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if o := runIn(t.Context(), env, "", "workspaces", "list"); o.code != 0 {
		t.Errorf("with the file: %+v", o)
	}
	env["RATEGUARD_ADMIN_TOKEN"] = "wrong"
	if o := runIn(t.Context(), env, "", "workspaces", "list"); o.code != 1 || !strings.Contains(o.errors, "the token is wrong") {
		t.Errorf("the variable must win: %+v", o)
	}
}

func TestCredentialIsReadFromStandardInput(t *testing.T) {
	a, url := newAPI(t)
	o := run(t, url, "sk-piped\n", "routes", "put", "geo", "--provider", "http", "--base-url", "https://geo.example.com", "--credential-stdin")
	if o.code != 0 {
		t.Fatalf("%+v", o)
	}
	var body map[string]any
	if err := json.Unmarshal([]byte(a.bodies["PUT /v1/workspaces/ws_1/routes/geo"]), &body); err != nil {
		t.Fatal(err)
	}
	if body["credential"] != "sk-piped" {
		t.Errorf("sent %v", body)
	}
}

func TestLimitFlagsAreSent(t *testing.T) {
	a, url := newAPI(t)
	for _, tc := range []struct{ args, asked, body string }{
		{
			"put rpm --scope key --match-route openai --match-model gpt-4* --match-key key_1 --unit requests --algorithm leaky_bucket --limit 600 " +
				"--window 1m --burst 20 --mode strict --on-store-failure closed --max-delay 500ms", "PUT /v1/workspaces/ws_1/limits/rpm",
			`{"scope":"key","match":{"route":"openai","model":"gpt-4*","key":"key_1"},"unit":"requests","algorithm":"leaky_bucket","limit":600,` +
				`"window":"1m0s","burst":20,"mode":"strict","on_store_failure":"closed","max_delay":"500ms"}`,
		},
		{
			"put rpm --limit 5 --window 1m --mode leased --lease-percent 10", "PUT /v1/workspaces/ws_1/limits/rpm",
			`{"limit":5,"window":"1m0s","mode":"leased","lease_percent":10}`,
		},
		{"put rpm --limit 5 --window 1m", "PUT /v1/workspaces/ws_1/limits/rpm", `{"limit":5,"window":"1m0s"}`},
		{"delete rpm", "DELETE /v1/workspaces/ws_1/limits/rpm", ""},
	} {
		clear(a.bodies)
		if o := run(t, url, "", append([]string{"limits"}, strings.Fields(tc.args)...)...); o.code != 0 {
			t.Fatalf("%s: %+v", tc.args, o)
		}
		if last := a.asked[len(a.asked)-1]; last != tc.asked || a.bodies[tc.asked] != tc.body {
			t.Errorf("%s: sent %s %s, want %s %s", tc.args, last, a.bodies[last], tc.asked, tc.body)
		}
	}
}

func TestBudgetFlagsAreSent(t *testing.T) {
	a, url := newAPI(t)
	for _, tc := range []struct{ args, asked, body string }{
		{
			"budgets set per-key --usd 10.00 --scope key --match-route openai --match-model gpt-4* --match-key key_1 --period week --timezone Asia/Tokyo --enforcement soft " +
				"--alert-at 0.5,2 --on-store-failure closed --mode leased --lease-percent 7", "PUT /v1/workspaces/ws_1/budgets/per-key",
			`{"scope":"key","match":{"route":"openai","model":"gpt-4*","key":"key_1"},"usd":"10.00","period":"week","timezone":"Asia/Tokyo",` +
				`"enforcement":"soft","alert_at":[0.5,2],"on_store_failure":"closed","mode":"leased","lease_percent":7}`,
		},
		{"budgets set per-key --usd 1", "PUT /v1/workspaces/ws_1/budgets/per-key", `{"usd":"1"}`},
		{"budgets delete monthly", "DELETE /v1/workspaces/ws_1/budgets/monthly", ""},
		{"workspaces settings ws_1", "GET /v1/workspaces/ws_1", ""},
		{
			"workspaces settings ws_1 --budget-exceeded-status 429 --unknown-outcome input --default-max-output-tokens 4096 --fit-max-output-tokens", "PATCH /v1/workspaces/ws_1",
			`{"settings":{"budget_exceeded_status":429,"default_max_output_tokens":4096,"fit_max_output_tokens":true,"unknown_outcome":"input"}}`,
		},
		{
			"workspaces settings ws_1 --default-max-output-tokens 0 --fit-max-output-tokens=false", "PATCH /v1/workspaces/ws_1",
			`{"settings":{"default_max_output_tokens":null,"fit_max_output_tokens":false}}`,
		},
	} {
		clear(a.bodies)
		if o := run(t, url, "", strings.Fields(tc.args)...); o.code != 0 {
			t.Fatalf("%s: %+v", tc.args, o)
		}
		if last := a.asked[len(a.asked)-1]; last != tc.asked || a.bodies[tc.asked] != tc.body {
			t.Errorf("%s: sent %s %s, want %s %s", tc.args, last, a.bodies[last], tc.asked, tc.body)
		}
	}
}

func TestTailShowsEachRequestOnceUntilInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	polls := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if polls++; polls == 3 {
			cancel()
			return
		}
		_, _ = io.WriteString(w, `{"data":[`+req+`],"next":""}`)
	}))
	t.Cleanup(s.Close)
	env := map[string]string{"RATEGUARD_ADMIN_URL": s.URL, "RATEGUARD_ADMIN_TOKEN": token, "RATEGUARD_WORKSPACE": "ws_1"}
	o := runIn(ctx, env, "", "requests", "tail", "--since", "1000000h")
	if o.code != 0 || strings.Count(o.out, "0190") != 1 {
		t.Errorf("got %+v", o)
	}
}
