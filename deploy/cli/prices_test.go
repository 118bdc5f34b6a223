package cli_test

import (
	"strings"
	"testing"
)

const (
	modelPrice = `"provider":"openai","model":"gpt-4o","context_window":128000,"price":{"version":"c+override.2","source":"override","usd_per_million":` +
		`{"input_tokens":"2","output_tokens":"8.5"},"usd_per_unit":{"web_searches":"0.01"}}`
	wholePrice = `{` + modelPrice + `,"catalogue_model":"gpt-4o","catalogue":null,"overrides":[` +
		`{"effective_from":"2026-11-20T00:00:00Z","usd_per_million":{"input_tokens":"2"},"backdated":true},` +
		`{"effective_from":"2026-11-21T00:00:00Z","catalogue":true}],"version":2}`
	difference = `"from":"2026-11-01T00:00:00Z","to":"2026-11-02T00:00:00Z","requests":3,"changed":2,"kept":1,"cost_usd":"1.5","new_cost_usd":"1.25","difference_usd":"-0.25","data":[` +
		`{"workspace":"ws_1","provider":"openai","model":"gpt-4o","requests":2,"changed":2,"kept":0,"cost_usd":"0.5","new_cost_usd":"0.25","difference_usd":"-0.25"},` +
		`{"workspace":"ws_2","provider":"openai","model":"","requests":1,"changed":0,"kept":1,"cost_usd":"1","new_cost_usd":"1","difference_usd":"0"}]}`
)

func pricesAPI(t *testing.T) (*api, string) {
	t.Helper()
	a, url := newAPI(t)
	for what, answer := range map[string]string{
		"GET /v1/prices?limit=1000&model=gpt-4%2A&provider=openai": `{"data":[{` + modelPrice + `},{"provider":"openai","model":"gpt-4.5","refused":"no whole number","price":null}],"next":""}`,
		"GET /v1/prices/openai/gpt-4o":                             wholePrice,
		"PUT /v1/prices/openai/gpt-4o":                             wholePrice,
		"PUT /v1/prices/acme/own%2Fmodel":                          wholePrice,
		"DELETE /v1/prices/openai/gpt-4o":                          wholePrice,
		"GET /v1/reprice/rpr_1":                                    `{"id":"rpr_1","dry_run":false,"state":"done","reason":"why",` + difference,
	} {
		a.answers[what] = answer
	}
	return a, url
}

func TestPricesAndTheirDifferencesAreShown(t *testing.T) {
	for _, tc := range []struct{ name, args, answer, says string }{
		{"prices", "prices list --provider openai --model gpt-4*", "", ""},
		{"price", "prices get openai gpt-4o", "", ""},
		{"price_yaml", "prices get openai gpt-4o -o yaml", "", ""},
		{"reprice_dry", "reprice --from 2026-11-01T00:00:00Z --dry-run", `{"dry_run":true,` + difference, ""},
		{"reprice_dry_json", "reprice --from 2026-11-01T00:00:00Z --dry-run -o json", `{"dry_run":true,` + difference, ""},
		{"reprice", "reprice --from 2026-11-01T00:00:00Z --reason why", `{"id":"rpr_1","dry_run":false,"state":"planned",` + difference, "rpr_1 is done"},
		{"reprice", "reprice get rpr_1", "", "rpr_1 is done"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			a, url := pricesAPI(t)
			a.answers["POST /v1/reprice"] = tc.answer
			o := run(t, url, "", strings.Fields(tc.args)...)
			if o.code != 0 || !strings.Contains(o.errors, tc.says) {
				t.Fatalf("exit code %d: %s", o.code, o.errors)
			}
			golden(t, tc.name, o.out)
		})
	}
}

func TestPricesAndRepricesAreSent(t *testing.T) {
	for _, tc := range []struct{ args, to, want string }{
		{"prices set openai gpt-4o --from 2026-12-01T00:00:00Z --usd input_tokens=3,web_searches=0.02", "PUT /v1/prices/openai/gpt-4o", `{"overrides":[` +
			`{"effective_from":"2026-11-20T00:00:00Z","usd_per_million":{"input_tokens":"2"},"backdated":true},{"effective_from":"2026-11-21T00:00:00Z","catalogue":true},` +
			`{"effective_from":"2026-12-01T00:00:00Z","usd_per_million":{"input_tokens":"3"},"usd_per_unit":{"web_searches":"0.02"}}]}`},
		{"prices set openai gpt-4o --from 2026-11-20T00:00:00Z --backdated --usd input_tokens=3", "PUT /v1/prices/openai/gpt-4o", `{"overrides":[` +
			`{"effective_from":"2026-11-21T00:00:00Z","catalogue":true},{"effective_from":"2026-11-20T00:00:00Z","usd_per_million":{"input_tokens":"3"},"backdated":true}]}`},
		{"prices set acme own/model --from 2026-12-01T00:00:00Z --catalogue", "PUT /v1/prices/acme/own%2Fmodel", `{"overrides":[{"effective_from":"2026-12-01T00:00:00Z","catalogue":true}]}`},
		{
			"reprice --from 2026-11-01T00:00:00Z --to 2026-11-02T00:00:00Z -w demo --provider openai --model gpt-4* --reason why --background", "POST /v1/reprice",
			`{"from":"2026-11-01T00:00:00Z","to":"2026-11-02T00:00:00Z","workspace":"ws_1","provider":"openai","model":"gpt-4*","dry_run":false,"reason":"why"}`,
		},
	} {
		a, url := pricesAPI(t)
		a.answers["POST /v1/reprice"] = `{"id":"rpr_1","dry_run":false,"state":"planned",` + difference
		if o := run(t, url, "", strings.Fields(tc.args)...); o.code != 0 {
			t.Errorf("%s: exit code %d: %s", tc.args, o.code, o.errors)
		}
		if got := a.bodies[tc.to]; got != tc.want {
			t.Errorf("%s: sent\n%s\nwant\n%s", tc.args, got, tc.want)
		}
	}
}

func TestPricesCommandsThatCannotBeUnderstood(t *testing.T) {
	for args, says := range map[string]string{
		"prices set openai gpt-4o":                                      "--usd or --catalogue",
		"prices set openai gpt-4o --catalogue --usd input_tokens=1":     "--usd or --catalogue",
		"prices set openai gpt-4o --usd words=1":                        `"words" is no unit`,
		"prices set openai gpt-4o --usd input_tokens=1 --backdated":     "--from is required",
		"prices set openai gpt-4o --usd input_tokens=1 --from whenever": "whenever",
		"reprice --dry-run":  "--from is required",
		"reprice --from 48h": "--reason is required",
	} {
		_, url := pricesAPI(t)
		if o := run(t, url, "", strings.Fields(args)...); o.code != 2 || !strings.Contains(o.errors, says) {
			t.Errorf("%s: exit code %d: %s", args, o.code, o.errors)
		}
	}
}
