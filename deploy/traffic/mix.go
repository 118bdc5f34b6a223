package traffic

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
)

// kind is one kind of call and its share of the traffic.
type kind struct {
	name, dialect string
	weight        int
	// fault asks the mock provider for a failure; real providers ignore it.
	fault string
	make  func(*rand.Rand) (body, path string)
}

// mix is what a company's traffic looks like: mostly chat, much of it streamed, some of it failing.
func mix() []kind {
	return []kind{
		{name: "openai chat", weight: 36, make: chat(false)},
		{name: "openai chat stream", weight: 18, make: chat(true)},
		{name: "openai responses", weight: 6, make: responses},
		{name: "openai embeddings", weight: 8, make: embeddings},
		{name: "anthropic message", dialect: "anthropic", weight: 12, make: message(false)},
		{name: "anthropic stream", dialect: "anthropic", weight: 8, make: message(true)},
		{name: "gemini", dialect: "gemini", weight: 4, make: gemini("generateContent")},
		{name: "gemini stream", dialect: "gemini", weight: 3, make: gemini("streamGenerateContent?alt=sse")},
		{name: "http", weight: 3, make: plain},
		{name: "upstream answers 500", weight: 1, fault: "500", make: chat(false)},
		{name: "upstream cuts a stream", weight: 1, fault: "cut", make: chat(true)},
	}
}

func totalWeight(kinds []kind) int {
	n := 0
	for _, k := range kinds {
		n += k.weight
	}
	return n
}

var topics = strings.Fields("ledgers budgets tokens caches queues rivers bridges clocks maps gardens libraries engines")

// prompt is a question of mostly ordinary, sometimes great length.
func prompt(r *rand.Rand) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Tell me about %s and %s.", topics[r.IntN(len(topics))], topics[r.IntN(len(topics))])
	lines := r.IntN(8)
	if r.IntN(12) == 0 {
		lines = 100
	}
	for range lines {
		fmt.Fprintf(&b, " Consider also what %d %s mean for it.", r.IntN(1000), topics[r.IntN(len(topics))])
	}
	return b.String()
}

func pick(r *rand.Rand, models ...string) string { return models[r.IntN(len(models))] }

func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return "{}" // maps of strings and numbers always encode
	}
	return string(b)
}

type obj = map[string]any

func messages(r *rand.Rand) []obj { return []obj{{"role": "user", "content": prompt(r)}} }

func chat(stream bool) func(*rand.Rand) (string, string) {
	return func(r *rand.Rand) (string, string) {
		b := obj{"model": pick(r, "gpt-4o-mini", "gpt-4o", "gpt-4.1-mini"), "messages": messages(r), "max_tokens": 64 + r.IntN(256)}
		if stream {
			b["stream"] = true
			if r.IntN(2) == 0 {
				b["stream_options"] = obj{"include_usage": true}
			}
		}
		return encode(b), "/v1/chat/completions"
	}
}

func responses(r *rand.Rand) (string, string) {
	return encode(obj{"model": "gpt-4.1-mini", "input": prompt(r), "max_output_tokens": 64 + r.IntN(256)}), "/v1/responses"
}

func embeddings(r *rand.Rand) (string, string) {
	return encode(obj{"model": "text-embedding-3-small", "input": []string{prompt(r), prompt(r)}}), "/v1/embeddings"
}

func message(stream bool) func(*rand.Rand) (string, string) {
	return func(r *rand.Rand) (string, string) {
		b := obj{"model": pick(r, "claude-sonnet-4-5", "claude-haiku-4-5"), "messages": messages(r), "max_tokens": 64 + r.IntN(256), "stream": stream}
		if r.IntN(3) == 0 {
			b["system"] = []obj{{"type": "text", "text": strings.Repeat("You are careful with other people's money. ", 40), "cache_control": obj{"type": "ephemeral"}}}
		}
		return encode(b), "/v1/messages"
	}
}

func gemini(verb string) func(*rand.Rand) (string, string) {
	return func(r *rand.Rand) (string, string) {
		b := obj{
			"contents":         []obj{{"role": "user", "parts": []obj{{"text": prompt(r)}}}},
			"generationConfig": obj{"maxOutputTokens": 256 + r.IntN(256)},
		}
		return encode(b), "/v1beta/models/" + pick(r, "gemini-2.5-flash", "gemini-2.5-flash-lite") + ":" + verb
	}
}

func plain(r *rand.Rand) (string, string) {
	return encode(obj{"address": fmt.Sprintf("%d Ledger Street", r.IntN(100))}), "/http/geocode"
}
