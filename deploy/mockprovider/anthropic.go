package mockprovider

import (
	"net/http"
	"strings"
)

func (c *call) serveAnthropic() {
	switch {
	case c.r.Method != http.MethodPost:
		c.fail(http.StatusNotFound, "Not found")
	case c.r.Header.Get("Anthropic-Version") == "":
		c.fail(http.StatusBadRequest, "anthropic-version: header is required")
	case c.model == "":
		c.fail(http.StatusBadRequest, "model: Field required")
	case !c.body.Get("messages").IsArray():
		c.fail(http.StatusBadRequest, "messages: Field required")
	case strings.HasPrefix(c.model, "no-such"):
		c.fail(http.StatusNotFound, "model: "+c.model)
	case c.path == "/v1/messages/count_tokens":
		c.finish(http.StatusOK, "application/json", encode(obj{"input_tokens": c.anthropicInput()}))
	case c.path != "/v1/messages":
		c.fail(http.StatusNotFound, "Not found")
	case c.body.Get("max_tokens").Int() < 1:
		c.fail(http.StatusBadRequest, "max_tokens: Field required")
	default:
		c.serveMessages()
	}
}

func (c *call) anthropicInput() int64 {
	messages := c.body.Get("messages")
	return countTokens(messages) + 4*messages.Get("#").Int() + 3 + countTokens(c.body.Get("system")) + countTokens(c.body.Get("tools"))
}

// anthropicUsage is the usage object; input_tokens leaves cached ones out, as Anthropic does.
func anthropicUsage(u Usage) obj {
	return obj{
		"input_tokens": u.Input - u.Cached - u.CacheWrite, "cache_creation_input_tokens": u.CacheWrite, "cache_read_input_tokens": u.Cached,
		"cache_creation": obj{"ephemeral_5m_input_tokens": u.CacheWrite - u.CacheWrite1h, "ephemeral_1h_input_tokens": u.CacheWrite1h},
		"output_tokens":  u.Output, "service_tier": "standard",
	}
}

func (c *call) serveMessages() {
	u, cut := c.decide(c.anthropicInput(), c.body.Get("max_tokens").Int())
	reason := "end_turn"
	if cut {
		reason = "max_tokens"
	}
	tokens := text(c.hash, u.Output)
	message := obj{
		"id": "msg_" + strings.TrimPrefix(c.record.ID, "req_"), "type": "message", "role": "assistant", "model": c.model,
		"content": []obj{{"type": "text", "text": strings.Join(tokens, "")}}, "stop_reason": reason, "stop_sequence": nil,
	}
	if c.record.Stream {
		c.streamMessages(u, message, tokens, reason)
		return
	}
	if c.fault.kind != faultNoUsage {
		message["usage"] = anthropicUsage(u)
	}
	c.reply(u, message)
}

// streamMessages streams a message: message_start has the input, message_delta the output.
func (c *call) streamMessages(u Usage, message obj, tokens []string, reason string) {
	message["content"], message["stop_reason"] = []obj{}, nil
	delta := obj{"type": "message_delta", "delta": obj{"stop_reason": reason, "stop_sequence": nil}}
	reports := c.fault.kind != faultNoUsage
	if reports {
		start := u
		start.Output = min(1, u.Output)
		message["usage"] = anthropicUsage(start)
		delta["usage"] = obj{"output_tokens": u.Output}
	}
	var events []event
	add := func(kind string, e event, body obj) {
		e.data = sse(kind, encode(body))
		events = append(events, e)
	}
	add("message_start", event{}, obj{"type": "message_start", "message": message})
	add("content_block_start", event{}, obj{"type": "content_block_start", "index": 0, "content_block": obj{"type": "text", "text": ""}})
	add("ping", event{}, obj{"type": "ping"})
	for piece := range chunks(tokens, c.pace.chunk()) {
		add("content_block_delta", event{tokens: int64(len(piece))},
			obj{"type": "content_block_delta", "index": 0, "delta": obj{"type": "text_delta", "text": strings.Join(piece, "")}})
	}
	add("content_block_stop", event{last: true}, obj{"type": "content_block_stop", "index": 0})
	add("message_delta", event{usage: reports, last: true}, delta)
	add("message_stop", event{last: true}, obj{"type": "message_stop"})
	c.stream("text/event-stream; charset=utf-8", u, events)
}
