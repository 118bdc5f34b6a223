package mockprovider

import (
	"strings"
)

// response is an answer of OpenAI's Responses API.
type response struct {
	id, item string
	usage    Usage
	tokens   []string
	cut      bool
	created  int64
	model    string
	noUsage  bool
}

func (c *call) serveResponses() {
	input := countTokens(c.body.Get("input")) + countTokens(c.body.Get("instructions")) + countTokens(c.body.Get("tools")) + 6
	u, cut := c.decide(input, c.body.Get("max_output_tokens").Int())
	id := strings.TrimPrefix(c.record.ID, "req_")
	a := response{
		id: "resp_" + id, item: "msg_" + id, usage: u, tokens: text(c.hash, u.Output-u.Reasoning), cut: cut,
		created: c.record.ReceivedAt.Unix(), model: c.model, noUsage: c.fault.kind == faultNoUsage,
	}
	if c.record.Stream {
		c.stream("text/event-stream; charset=utf-8", u, a.events(c.pace.chunk()))
		return
	}
	c.reply(u, a.whole())
}

// status of the finished answer.
func (a response) status() string {
	if a.cut {
		return "incomplete"
	}
	return "completed"
}

func (a response) part(s string) obj {
	return obj{"type": "output_text", "text": s, "annotations": []any{}, "logprobs": []any{}}
}

func (a response) message(status string, content []obj) obj {
	return obj{"id": a.item, "type": "message", "status": status, "role": "assistant", "content": content}
}

// body returns the response object in a state, without output or usage.
func (a response) body(status string) obj {
	return obj{
		"id": a.id, "object": "response", "created_at": a.created, "status": status, "model": a.model, "output": []obj{},
		"error": nil, "incomplete_details": nil, "instructions": nil, "metadata": obj{}, "parallel_tool_calls": true, "temperature": 1.0,
		"tool_choice": "auto", "tools": []obj{}, "top_p": 1.0, "background": false, "max_output_tokens": nil, "previous_response_id": nil,
		"service_tier": "default", "store": true, "text": obj{"format": obj{"type": "text"}}, "truncation": "disabled", "usage": nil,
	}
}

// whole returns the finished response object.
func (a response) whole() obj {
	b := a.body(a.status())
	b["output"] = []obj{a.message(a.status(), []obj{a.part(strings.Join(a.tokens, ""))})}
	if a.cut {
		b["incomplete_details"] = obj{"reason": "max_output_tokens"}
	}
	if !a.noUsage {
		b["usage"] = obj{
			"input_tokens": a.usage.Input, "input_tokens_details": obj{"cached_tokens": a.usage.Cached},
			"output_tokens": a.usage.Output, "output_tokens_details": obj{"reasoning_tokens": a.usage.Reasoning},
			"total_tokens": a.usage.Input + a.usage.Output,
		}
	}
	return b
}

// events returns the stream in OpenAI's order.
func (a response) events(chunk int) []event {
	var out []event
	add := func(kind string, e event, fields obj) {
		fields["type"], fields["sequence_number"] = kind, len(out)
		e.data = sse(kind, encode(fields))
		out = append(out, e)
	}
	whole := strings.Join(a.tokens, "")
	place := func(more obj) obj {
		more["item_id"], more["output_index"], more["content_index"] = a.item, 0, 0
		return more
	}
	add("response.created", event{}, obj{"response": a.body("in_progress")})
	add("response.in_progress", event{}, obj{"response": a.body("in_progress")})
	add("response.output_item.added", event{}, obj{"output_index": 0, "item": a.message("in_progress", []obj{})})
	add("response.content_part.added", event{}, place(obj{"part": a.part("")}))
	for piece := range chunks(a.tokens, chunk) {
		add("response.output_text.delta", event{tokens: int64(len(piece))}, place(obj{"delta": strings.Join(piece, ""), "logprobs": []any{}}))
	}
	add("response.output_text.done", event{}, place(obj{"text": whole, "logprobs": []any{}}))
	add("response.content_part.done", event{}, place(obj{"part": a.part(whole)}))
	add("response.output_item.done", event{}, obj{"output_index": 0, "item": a.message(a.status(), []obj{a.part(whole)})})
	add("response."+a.status(), event{usage: !a.noUsage, last: true}, obj{"response": a.whole()})
	return out
}
