package proxy_test

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// Redis stands still. Calls under a hard budget are refused by their deadline and not sent, and what stands in its socket reserves nothing when it goes on.
func TestAStoppedRedisReservesNothingLate(t *testing.T) {
	t.Parallel()
	var sent atomic.Int64
	r, store := budgeted(t, func(w http.ResponseWriter, req *http.Request) {
		sent.Add(1)
		answerJSON(chatAnswer)(w, req)
	}, rigConfig{budgets: []*rateguardv1.Budget{hard("b", usd)}})
	if got := r.chat(t); got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	store.Stop()
	var all sync.WaitGroup
	for range 30 { // more at once than connections fail in a row before the store is left alone
		all.Go(func() {
			if got := r.chat(t); got.status != http.StatusServiceUnavailable || got.header.Get("X-Rateguard-Error") != "store_unavailable" {
				t.Errorf("while Redis stands still: %d %s", got.status, got.body)
			}
		})
	}
	all.Wait()
	store.Continue()
	eventually(t, func() bool { return r.chat(t).status == http.StatusOK }, "a budget that can be used")
	eventually(t, func() bool { _, reserved := balance(t, store, "b", ""); return reserved == 0 }, "everything that was reserved late to be cancelled")
	opened := int64(len(r.log.opened()))
	if posted, _ := balance(t, store, "b", ""); posted != opened*156_000 || sent.Load() != opened {
		t.Errorf("posted %d for %d opened and %d sent", posted, opened, sent.Load())
	}
}

// What a body refers to the gateway cannot see: the call reserves what fills the model's context window, and no budget is too small by what hides there.
func TestHiddenInputReservesTheContextWindow(t *testing.T) {
	t.Parallel()
	const window = 128_000 * 150 // of gpt-4o-mini, in nano-USD
	for name, test := range map[string]struct {
		path, body string
		hidden     bool
	}{
		"all of it is in the body": {"/v1/responses", `{"model":"gpt-4o-mini","max_output_tokens":1,"input":"x"}`, false},
		"input_text":               {"/v1/responses", `{"model":"gpt-4o-mini","max_output_tokens":1,"input":[{"role":"user","content":[{"type":"input_text","text":"x"}]}]}`, false},
		"the response before":      {"/v1/responses", `{"model":"gpt-4o-mini","max_output_tokens":1,"input":"x","previous_response_id":"resp_1"}`, true},
		"a conversation":           {"/v1/responses", `{"model":"gpt-4o-mini","max_output_tokens":1,"input":"x","conversation":"conv_1"}`, true},
		"a file":                   {"/v1/responses", `{"model":"gpt-4o-mini","max_output_tokens":1,"input":[{"role":"user","content":[{"type":"input_file","file_id":"f"}]}]}`, true},
		"an address":               {"/v1/chat/completions", `{"model":"gpt-4o-mini","max_tokens":1,"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x"}}]}]}`, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, _ := budgeted(t, answerJSON(chatAnswer), rigConfig{budgets: []*rateguardv1.Budget{hard("b", usd)}})
			if got := r.post(t, test.path, test.body); got.status != http.StatusOK {
				t.Fatalf("%d %s", got.status, got.body)
			}
			amount := r.log.opened()[0].GetHolds()[0].GetAmountNanoUsd()
			if test.hidden && amount < window || !test.hidden && amount > window/100 {
				t.Errorf("reserved %d nano-USD; the context window costs %d", amount, window)
			}
			small, _ := budgeted(t, answerJSON(chatAnswer), rigConfig{budgets: []*rateguardv1.Budget{hard("b", window/2)}})
			if got := small.post(t, test.path, test.body); (got.status == http.StatusPaymentRequired) != test.hidden {
				t.Errorf("under half of that: %d %s", got.status, got.body)
			}
		})
	}
}

// Tools that the provider runs, which a stored prompt may bring too, cost by the call and call the model again and again: they have no bound.
func TestToolsOfTheProviderHaveNoBound(t *testing.T) {
	t.Parallel()
	r, _ := budgeted(t, answerJSON(chatAnswer), rigConfig{budgets: []*rateguardv1.Budget{hard("b", usd)}})
	for param, more := range map[string]string{
		"prompt": `"prompt":{"id":"pmpt_1"}`, "tools": `"input":"x","tools":[{"type":"mcp","server_url":"https://x"}]`, "service_tier": `"input":"x","service_tier":"priority"`,
	} {
		got := r.post(t, "/v1/responses", `{"model":"gpt-4o-mini","max_output_tokens":1,`+more+`}`)
		if got.status != http.StatusBadRequest || got.header.Get("X-Rateguard-Error") != "cost_unbounded" || !strings.Contains(got.body, `"param":"`+param+`"`) {
			t.Errorf("%s: %d %s", more, got.status, got.body)
		}
	}
}
