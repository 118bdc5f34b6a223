package usage_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/forward/usage"
	"github.com/rateguard/rateguard/schemas/price"
)

const chunk = `{"id":"chatcmpl-9","object":"chat.completion.chunk","created":1795000000,"model":"gpt-4o-mini","system_fingerprint":"fp_44709d6fcb",` +
	`"choices":[{"index":0,"delta":{"content":" ledger"},"logprobs":null,"finish_reason":null}],"usage":null}`

// counted is what a meter makes of one chunk.
type counted struct {
	Usage price.Usage
	Final bool
	Text  int64
}

func count(read func(*usage.Meter), api call.API) counted {
	m := usage.Meter{API: api}
	read(&m)
	var c counted
	c.Usage, c.Final = m.Final()
	c.Text = m.Estimate(func() int64 { return 1 }).OutputTokens
	return c
}

// agrees compares the walk over a chunk with the general parser.
func agrees(t rapid.TB, api call.API, data []byte) counted {
	t.Helper()
	got := count(func(m *usage.Meter) { m.Data(data) }, api)
	want := count(func(m *usage.Meter) { m.ReadLoosely(data) }, api)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: walked (+) and parsed (-) differ:\n%s", data, diff)
	}
	return got
}

func TestAChunkIsCountedAsTheGeneralParserCountsIt(t *testing.T) {
	for name, test := range map[string]struct {
		api  call.API
		data string
		text int64
		last bool
	}{
		"text":                 {call.OpenAIChat, chunk, 2, false},
		"spaced":               {call.OpenAIChat, "{ \"choices\" : [ { \"delta\" : { \"role\" : \"assistant\" , \"content\" : \"four\" } } ] }", 1, false},
		"escapes":              {call.OpenAIChat, `{"choices":[{"delta":{"content":"\u4e2d\u6587\n\"x\""}}]}`, 3, false},
		"two choices":          {call.OpenAIChat, `{"choices":[{"delta":{"content":"abcd"}},{"delta":{"content":"efgh"}}]}`, 2, false},
		"tool call":            {call.OpenAIChat, `{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{\"a\":[1]}"}}]}}]}`, 0, false},
		"usage":                {call.OpenAIChat, `{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":9}}`, 9, true},
		"usage before choices": {call.OpenAIChat, `{"usage":{"completion_tokens":9},"choices":[{"delta":{"content":"a long text"}}]}`, 9, true},
		"no choices":           {call.OpenAIChat, `{"choices":null}`, 0, false},
		"choices twice":        {call.OpenAIChat, `{"choices":[],"choices":[{"delta":{"content":"abcd"}}]}`, 0, false},
		"cut":                  {call.OpenAIChat, `{"choices":[{"delta":{"content":"abcd"`, 1, false},
		"cut escape":           {call.OpenAIChat, `{"choices":[{"delta":{"content":"abcd\`, 0, false},
		"escaped key":          {call.OpenAIChat, `{"ch\u006fices":[{"delta":{"content":"abcd"}}]}`, 0, false},
		"delta of no object":   {call.OpenAIChat, `{"choices":[{"delta":"abcd"},{"delta":null}]}`, 1, false},
		"choice of no object":  {call.OpenAIChat, `{"choices":[7,{"delta":{"content":"abcd"}}]}`, 1, false},
		"completion":           {call.OpenAICompletions, `{"choices":[{"text":"abcdefgh","index":0}]}`, 2, false},
		"empty":                {call.OpenAIChat, `{}`, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			got := agrees(t, test.api, []byte(test.data))
			if name != "tool call" && name != "cut escape" && name != "escaped key" && (got.Text != test.text || got.Final != test.last) {
				t.Errorf("%d tokens, final %t; want %d, %t", got.Text, got.Final, test.text, test.last)
			}
		})
	}
}

func TestChunksThatDifferInTheirTextAreCountedLikeTheFirst(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const head, tail = `{"id":"a\"b","choices":[{"delta":{"role":"assistant","content":"`, `"},"text":null}],"usage":null}`
		texts := rapid.SliceOfN(rapid.OneOf(rapid.StringMatching(`[a-z ]{0,9}`), rapid.SampledFrom([]string{
			`\n`, `\"`, `"},"delta":{"content":"long enough to count`, `x","refusal":"long enough to count`, `\u4e2d\u6587`, `中文`,
		})), 1, 8).Draw(t, "texts")
		walked, parsed := usage.Meter{API: call.OpenAIChat}, usage.Meter{API: call.OpenAIChat}
		for _, text := range texts {
			walked.Data([]byte(head + text + tail))
			parsed.ReadLoosely([]byte(head + text + tail))
		}
		one := func() int64 { return 1 }
		if got, want := walked.Estimate(one), parsed.Estimate(one); got != want {
			t.Errorf("%q: walked %d, parsed %d tokens", texts, got.OutputTokens, want.OutputTokens)
		}
	})
}

func TestAnyChunkIsCountedAsTheGeneralParserCountsIt(t *testing.T) {
	value := rapid.OneOf(
		rapid.Map(rapid.String(), func(s string) any { return s }),
		rapid.Just[any](nil), rapid.Just[any](1.5), rapid.Just[any](true),
		rapid.Just[any]([]any{map[string]any{"function": map[string]any{"arguments": `{"a":"b"}`}}}),
	)
	rapid.Check(t, func(t *rapid.T) {
		delta := rapid.MapOf(rapid.SampledFrom([]string{"role", "content", "refusal", "reasoning", "tool_calls"}), value).Draw(t, "delta")
		choice := map[string]any{"index": 0, "delta": delta, "text": value.Draw(t, "text"), "logprobs": map[string]any{"content": []any{"}", "]", "\""}}}
		doc := map[string]any{"id": rapid.String().Draw(t, "id"), "choices": []any{choice, choice}}
		if rapid.Bool().Draw(t, "with usage") {
			doc["usage"] = map[string]any{"prompt_tokens": 3, "completion_tokens": 4}
		}
		data, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		if rapid.Bool().Draw(t, "cut") {
			data = data[:rapid.IntRange(1, len(data)).Draw(t, "length")]
		}
		agrees(t, rapid.SampledFrom([]call.API{call.OpenAIChat, call.OpenAICompletions}).Draw(t, "api"), data)
	})
}

func BenchmarkAChunkOfAChatIsRead(b *testing.B) {
	m := usage.Meter{API: call.OpenAIChat}
	data := []byte(chunk)
	b.ReportAllocs()
	for b.Loop() {
		m.Data(data)
	}
}

func BenchmarkAChunkOfAChatIsParsed(b *testing.B) {
	m := usage.Meter{API: call.OpenAIChat}
	data := []byte(chunk)
	b.ReportAllocs()
	for b.Loop() {
		m.ReadLoosely(data)
	}
}
