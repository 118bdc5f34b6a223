package mockprovider

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/tidwall/gjson"
)

// models that the list shows; any other name is answered too.
var models = map[dialect][]string{
	openAI:    {"gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini", "gpt-5-mini", "o3", "text-embedding-3-small"},
	anthropic: {"claude-opus-4-1", "claude-sonnet-4-5", "claude-haiku-4-5"},
	gemini:    {"gemini-2.5-pro", "gemini-2.5-flash", "gemini-2.5-flash-lite"},
}

func (c *call) serveOpenAI() {
	if c.r.Method == http.MethodGet {
		c.serveOpenAIModels()
		return
	}
	if c.model == "" {
		c.fail(http.StatusBadRequest, "you must provide a model parameter")
		return
	}
	if strings.HasPrefix(c.model, "no-such") {
		c.fail(http.StatusNotFound, fmt.Sprintf("The model `%s` does not exist", c.model))
		return
	}
	switch strings.TrimPrefix(c.path, "/v1") {
	case "/chat/completions":
		c.serveChat()
	case "/completions":
		c.serveCompletions()
	case "/responses":
		c.serveResponses()
	case "/embeddings":
		c.serveEmbeddings()
	default:
		c.fail(http.StatusNotFound, "Unknown request URL: "+c.r.Method+" "+c.path)
	}
}

func (c *call) serveOpenAIModels() {
	if c.path != "/v1/models" {
		c.fail(http.StatusNotFound, "Unknown request URL: GET "+c.path)
		return
	}
	list := []obj{}
	for _, m := range models[openAI] {
		list = append(list, obj{"id": m, "object": "model", "created": 1_700_000_000, "owned_by": "mock"})
	}
	c.finish(http.StatusOK, "application/json", encode(obj{"object": "list", "data": list}))
}

// openAIUsage is the usage object of chat and completions.
func openAIUsage(u Usage) obj {
	return obj{
		"prompt_tokens": u.Input, "completion_tokens": u.Output, "total_tokens": u.Input + u.Output,
		"prompt_tokens_details": obj{"cached_tokens": u.Cached, "audio_tokens": 0},
		"completion_tokens_details": obj{
			"reasoning_tokens": u.Reasoning, "audio_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
		},
	}
}

// chat is what a chat completion consists of.
type chat struct {
	id      string
	usage   Usage
	choices [][]string
	reason  string
}

// chatOf decides the answer. Each of n choices has the same text with its own hash; output
// counts them all.
func (c *call) chatOf(input int64, prefix string) chat {
	limit := max(c.body.Get("max_completion_tokens").Int(), c.body.Get("max_tokens").Int())
	u, cut := c.decide(input, limit)
	a := chat{id: prefix + strings.TrimPrefix(c.record.ID, "req_"), usage: u, reason: "stop"}
	if cut {
		a.reason = "length"
	}
	n := min(max(1, c.body.Get("n").Int()), 16)
	for i := range n {
		a.choices = append(a.choices, text(mix(c.hash, uint64(i)), u.Output-u.Reasoning))
	}
	a.usage.Output *= n
	a.usage.Reasoning *= n
	return a
}

func (c *call) chatInput() int64 {
	messages := c.body.Get("messages")
	return countTokens(messages) + 3*messages.Get("#").Int() + 3 + countTokens(c.body.Get("tools"))
}

func (c *call) serveChat() {
	if !c.body.Get("messages").IsArray() {
		c.fail(http.StatusBadRequest, "Missing required parameter: 'messages'.")
		return
	}
	a := c.chatOf(c.chatInput(), "chatcmpl-")
	if c.record.Stream {
		c.streamChat(a, "chat.completion.chunk", chatChoice)
		return
	}
	choices := []obj{}
	for i, t := range a.choices {
		choices = append(choices, obj{
			"index": i, "finish_reason": a.reason, "logprobs": nil,
			"message": obj{"role": "assistant", "content": strings.Join(t, ""), "refusal": nil, "annotations": []any{}},
		})
	}
	c.reply(a.usage, c.withUsage(a.usage, obj{
		"id": a.id, "object": "chat.completion", "created": c.record.ReceivedAt.Unix(), "model": c.model,
		"choices": choices, "service_tier": "default", "system_fingerprint": "fp_mock",
	}))
}

// withUsage adds the usage unless the call is to come without.
func (c *call) withUsage(u Usage, body obj) obj {
	if c.fault.kind != faultNoUsage {
		body["usage"] = openAIUsage(u)
	}
	return body
}

// choiceWriter appends the choice object of a chunk: the text (already quoted) or the end.
type choiceWriter func(b []byte, index int, quoted []byte, reason string) []byte

func chatChoice(b []byte, index int, quoted []byte, reason string) []byte {
	if reason != "" {
		return fmt.Appendf(b, `{"index":%d,"delta":{},"logprobs":null,"finish_reason":%q}`, index, reason)
	}
	return fmt.Appendf(b, `{"index":%d,"delta":{"content":%s},"logprobs":null,"finish_reason":null}`, index, quoted)
}

func completionChoice(b []byte, index int, quoted []byte, reason string) []byte {
	if reason != "" {
		return fmt.Appendf(b, `{"text":"","index":%d,"logprobs":null,"finish_reason":%q}`, index, reason)
	}
	return fmt.Appendf(b, `{"text":%s,"index":%d,"logprobs":null,"finish_reason":null}`, quoted, index)
}

// streamChat streams a chat or a legacy completion. Chunks carry "usage": null and a last one
// the usage, with no choices, only when the request asks for it.
func (c *call) streamChat(a chat, object string, choice choiceWriter) {
	asked := c.body.Get("stream_options.include_usage").Bool()
	head := encode(obj{"id": a.id, "object": object, "created": c.record.ReceivedAt.Unix(), "model": c.model, "service_tier": "default", "system_fingerprint": "fp_mock"})
	head = append(head[:len(head)-1], `,"choices":[`...)
	tail := []byte("]}")
	if asked && c.fault.kind != faultNoUsage {
		tail = []byte(`],"usage":null}`)
	}
	chunk := func(body []byte) []byte {
		b := make([]byte, 0, len(head)+len(body)+len(tail)+8)
		return sse("", append(append(append(b, head...), body...), tail...))
	}
	var events []event
	for i, t := range a.choices {
		if object == "chat.completion.chunk" {
			events = append(events, event{data: chunk(fmt.Appendf(nil,
				`{"index":%d,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}`, i))})
		}
		for piece := range chunks(t, c.pace.chunk()) {
			events = append(events, event{data: chunk(choice(nil, i, encode(strings.Join(piece, "")), "")), tokens: int64(len(piece))})
		}
		events = append(events, event{data: chunk(choice(nil, i, nil, a.reason)), last: true})
	}
	if asked && c.fault.kind != faultNoUsage {
		b := append([]byte{}, head...)
		b = append(append(b, `],"usage":`...), encode(openAIUsage(a.usage))...)
		events = append(events, event{data: sse("", append(b, '}')), usage: true, last: true})
	}
	events = append(events, event{data: sse("", []byte("[DONE]")), last: true})
	c.stream("text/event-stream; charset=utf-8", a.usage, events)
}

// chunks cuts tokens into pieces of n.
func chunks(tokens []string, n int) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		for len(tokens) > 0 {
			k := min(n, len(tokens))
			if !yield(tokens[:k]) {
				return
			}
			tokens = tokens[k:]
		}
	}
}

func (c *call) serveCompletions() {
	a := c.chatOf(countTokens(c.body.Get("prompt")), "cmpl-")
	if c.record.Stream {
		c.streamChat(a, "text_completion", completionChoice)
		return
	}
	choices := []obj{}
	for i, t := range a.choices {
		choices = append(choices, obj{"text": strings.Join(t, ""), "index": i, "logprobs": nil, "finish_reason": a.reason})
	}
	c.reply(a.usage, c.withUsage(a.usage, obj{
		"id": a.id, "object": "text_completion", "created": c.record.ReceivedAt.Unix(), "model": c.model, "choices": choices,
	}))
}

func (c *call) serveEmbeddings() {
	input := c.body.Get("input")
	texts := []gjson.Result{input}
	if input.IsArray() && (len(input.Array()) == 0 || input.Array()[0].Type != gjson.Number) {
		texts = input.Array()
	}
	dimensions := min(max(8, c.body.Get("dimensions").Int()), 3072)
	data := []obj{}
	var total int64
	for i, t := range texts {
		n := countTokens(t)
		if t.IsArray() { // tokens instead of text
			n = t.Get("#").Int()
		}
		total += n
		vector := make([]float64, dimensions)
		for k := range vector {
			vector[k] = float64(mix(c.hash, uint64(k)+uint64(i)<<16)%2000)/1000 - 1
		}
		data = append(data, obj{"object": "embedding", "index": i, "embedding": embedding(vector, c.body.Get("encoding_format").String())})
	}
	u := Usage{Input: total}
	c.override(&u)
	u.Output = 0
	body := obj{"object": "list", "data": data, "model": c.model}
	if c.fault.kind != faultNoUsage {
		body["usage"] = obj{"prompt_tokens": u.Input, "total_tokens": u.Input}
	}
	c.reply(u, body)
}
