package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

const imagePath = "/v1beta/models/gemini-2.5-flash-image"

// An answer with pictures is long, and its usage stands behind them: in one line of a stream with them, or at the end of a body that is not held.
func TestTheUsageOfLongAnswersIsRead(t *testing.T) {
	const metadata = `"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":1290,"candidatesTokensDetails":[{"modality":"IMAGE","tokenCount":1290}]}`
	picture := strings.Repeat("A", 3<<20)
	chunk := `{"candidates":[{"content":{"parts":[{"inlineData":{"data":"` + picture + `"}},{"functionCall":{"args":{"usageMetadata":{"promptTokenCount":1}}}}]}}],` + metadata + `}`
	const cost = 10*300 + 1290*30_000
	for name, tc := range map[string]struct{ action, kind, body string }{
		"a line":     {":streamGenerateContent?alt=sse", "text/event-stream", "data: " + chunk + "\r\n\r\n"},
		"a body":     {":generateContent", "application/json", chunk},
		"a sequence": {":streamGenerateContent", "application/json", "[" + chunk + ",\n" + chunk + "]"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigConfig{buffer: 1 << 20, upstream: upstreamFunc(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", tc.kind)
				_, _ = io.WriteString(w, tc.body)
			})})
			if got := r.post(t, imagePath+tc.action, `{"contents":[]}`); got.status != http.StatusOK || got.body != tc.body {
				t.Fatalf("%d, %d bytes", got.status, len(got.body))
			}
			if o, kind := r.log.outcome(t); kind != "settled" || o.GetEstimated() || o.GetCostNanoUsd() != cost {
				t.Errorf("%s at %d, estimated %t; want %d", kind, o.GetCostNanoUsd(), o.GetEstimated(), cost)
			}
		})
	}
}

// What is too long to be read and says nothing at its end costs what was reserved for it.
func TestAnUnreadAnswerCostsItsBound(t *testing.T) {
	r := newRig(t, rigConfig{buffer: 1000, upstream: upstreamFunc(t, answerJSON(`{"choices":[{"message":{"content":"`+strings.Repeat("word ", 400)+`"}}]}`))})
	r.post(t, chatPath, chatBody)
	if o, _ := r.log.outcome(t); !o.GetEstimated() || o.GetCostNanoUsd() != o.GetBoundNanoUsd() || o.GetBoundNanoUsd() == 0 {
		t.Errorf("got %d of %d", o.GetCostNanoUsd(), o.GetBoundNanoUsd())
	}
}

// Of a stream that is cut, the input that the provider had stored cannot be counted: it costs as much as was reserved for it.
func TestACutAnswerToWhatIsStoredCostsAllOfItsInput(t *testing.T) {
	const window = 128_000 * 150 // of gpt-4o-mini, in nano-USD
	for name, tc := range map[string]struct {
		input string
		whole bool
	}{
		"in the body":         {`"input":"hello"`, false},
		"the response before": {`"input":"hello","previous_response_id":"resp_1"`, true},
		"a conversation":      {`"input":"hello","conversation":"conv_1"`, true},
		"a file":              {`"input":[{"role":"user","content":[{"type":"input_file","file_id":"f"}]}]`, true},
		"a picture":           {`"input":[{"role":"user","content":[{"type":"input_image","image_url":"data:image/png;base64,AAAA"}]}]`, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := upstreamFunc(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				_, _ = fmt.Fprint(w, `data: {"type":"response.output_text.delta","delta":"some words"}`+"\n\n")
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			})
			r := newRig(t, rigConfig{drain: 50 * time.Millisecond, upstream: url, budgets: []*rateguardv1.Budget{}})
			r.post(t, responsesPath, `{"model":"gpt-4o-mini","stream":true,"max_output_tokens":1000,`+tc.input+`}`)
			o, kind := r.log.outcome(t)
			if cost := o.GetCostNanoUsd(); kind != "settled" || !o.GetEstimated() || (cost >= window) != tc.whole || cost > o.GetBoundNanoUsd() || cost == 0 {
				t.Errorf("%s at %d of %d", kind, cost, o.GetBoundNanoUsd())
			}
		})
	}
}
