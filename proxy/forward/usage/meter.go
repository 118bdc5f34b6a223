// Package usage reads what a call consumed from a provider's answer, whole or streamed, and counts by itself what
// the provider does not report. It is separate from forwarding because it is pure: bytes in, numbers out.
package usage

import (
	"bytes"

	"github.com/tidwall/gjson"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/schemas/price"
)

// Meter collects the usage of one answer. Its zero value with an API is ready.
type Meter struct {
	API call.API
	// seen is what the provider has reported so far, final whether it is all.
	seen  price.Usage
	some  bool
	final bool
	// unread says that the answer was too long to be read.
	unread bool
	// text is our own count of the tokens produced.
	text int64
	// mould is that of the last chunk of a chat.
	mould mould
}

// Final returns the usage that the provider reported, ok only when it is complete.
func (m *Meter) Final() (u price.Usage, ok bool) { return m.seen, m.final }

// Estimate returns the usage of an answer whose provider did not report all: what it did report, and our own count
// for the rest. inputTokens is our count of the request.
func (m *Meter) Estimate(inputTokens func() int64) price.Usage {
	u := m.seen
	if u.InputTokens == 0 {
		u.InputTokens = inputTokens()
	}
	u.OutputTokens = max(u.OutputTokens, m.text)
	return u
}

// End says that a stream came to its clean end: then the last cumulative numbers are all.
func (m *Meter) End() {
	if m.API == call.GeminiGenerate && m.some {
		m.final = true
	}
}

// Body reads a whole answer.
func (m *Meter) Body(body []byte) {
	if m.API == call.Other || m.API == call.Free || len(body) == 0 {
		return
	}
	if b := bytes.TrimLeft(body, " \t\r\n"); len(b) > 0 && b[0] == '[' { // Gemini streams without SSE: an array of chunks
		gjson.ParseBytes(body).ForEach(func(_, chunk gjson.Result) bool {
			m.chunk(chunk)
			return true
		})
		m.End()
		return
	}
	if u := gjson.GetBytes(body, m.field()); u.IsObject() {
		var output gjson.Result
		if m.API == call.OpenAIResponses {
			output = gjson.GetBytes(body, "output")
		}
		m.report(u, output)
		m.final = true
		return
	}
	m.text += call.CountBody([]byte(m.produced(gjson.ParseBytes(body))))
}

// Tail reads the end of an answer that is too long to be kept. The last usage in it is the answer's own, as providers write it behind what the
// model made.
func (m *Meter) Tail(b []byte) {
	m.unread = true
	mark := []byte(`"` + m.field() + `"`)
	i := bytes.LastIndex(b, mark)
	if i < 0 {
		return
	}
	after, ok := bytes.CutPrefix(bytes.TrimLeft(b[i+len(mark):], " \t\r\n"), []byte(":"))
	if u := gjson.GetBytes(append([]byte("["), after...), "0"); ok && u.IsObject() && gjson.Valid(u.Raw) {
		m.report(u, gjson.Result{})
		m.final, m.unread = true, false
	}
}

// Unread reports whether the answer was too long to be read, so that nobody knows what it used.
func (m *Meter) Unread() bool { return m.unread }

// field is where the usage stands in an answer.
func (m *Meter) field() string {
	if m.API == call.GeminiGenerate || m.API == call.GeminiEmbed {
		return "usageMetadata"
	}
	return "usage"
}

// produced returns the part of an answer that the model made, for our own count.
func (m *Meter) produced(doc gjson.Result) string {
	switch m.API {
	case call.OpenAIChat, call.OpenAICompletions:
		return doc.Get("choices").Raw
	case call.OpenAIResponses:
		return doc.Get("output").Raw
	case call.AnthropicMessages:
		return doc.Get("content").Raw
	case call.GeminiGenerate:
		return doc.Get("candidates").Raw
	case call.OpenAIAudio:
		return doc.Get("text").Raw
	case call.Other, call.Free, call.OpenAIEmbeddings, call.OpenAIImages, call.GeminiEmbed:
	}
	return ""
}

// Marks of lines that are worth parsing for their usage.
var (
	markUsage = []byte(`"usage"`)
	markDone  = []byte("[DONE]")
)

// Data reads the data of one server-sent event. last reports whether a client takes the answer for complete when it
// has seen it.
func (m *Meter) Data(data []byte) (last bool) {
	if len(data) == 0 || data[0] != '{' {
		return bytes.HasPrefix(data, markDone)
	}
	switch m.API {
	case call.OpenAIChat, call.OpenAICompletions:
		m.openAIChunk(data)
	case call.OpenAIResponses, call.OpenAIImages, call.OpenAIAudio:
		return m.openAIEvent(data)
	case call.AnthropicMessages:
		return m.anthropicEvent(data)
	case call.GeminiGenerate:
		m.chunk(gjson.ParseBytes(data))
	case call.Other, call.Free, call.OpenAIEmbeddings, call.GeminiEmbed:
	}
	return false
}

func (m *Meter) openAIChunk(data []byte) {
	if text, ok := m.mould.fill(data); ok {
		if !m.final {
			m.text += call.CountText(text)
		}
		return
	}
	c := cursor{b: data}
	n, u := c.chatChunk(m.API == call.OpenAICompletions)
	if c.bad {
		m.looseChunk(data)
		return
	}
	if len(u) > 0 && u[0] == '{' {
		m.report(gjson.ParseBytes(u), gjson.Result{})
		m.final = true
	} else if c.texts == 1 {
		m.mould.take(data, c.from, c.to)
	}
	if !m.final {
		m.text += n
	}
}

// looseChunk is openAIChunk for what is not quite JSON, or oddly written.
func (m *Meter) looseChunk(data []byte) {
	if bytes.Contains(data, markUsage) {
		if u := gjson.GetBytes(data, "usage"); u.IsObject() {
			m.report(u, gjson.Result{})
			m.final = true
		}
	}
	if m.final {
		return
	}
	gjson.GetBytes(data, "choices").ForEach(func(_, choice gjson.Result) bool {
		if m.API == call.OpenAICompletions {
			m.text += call.CountText(choice.Get("text").Str)
			return true
		}
		choice.Get("delta").ForEach(func(k, v gjson.Result) bool {
			switch {
			case k.Str == "role":
			case v.Type == gjson.String:
				m.text += call.CountText(v.Str)
			case v.IsArray(): // tool calls
				m.text += call.CountBody([]byte(v.Raw))
			}
			return true
		})
		return true
	})
}

// openAIEvent reads the typed events of the Responses API and of streamed images and audio.
func (m *Meter) openAIEvent(data []byte) (last bool) {
	kind := gjson.GetBytes(data, "type").Str
	switch kind {
	case "response.completed", "response.incomplete", "response.failed":
		response := gjson.GetBytes(data, "response")
		if u := response.Get("usage"); u.IsObject() {
			m.report(u, response.Get("output"))
			m.final = true
		}
		return true
	case "image_generation.completed", "image_edit.completed", "transcript.text.done", "speech.audio.done":
		if u := gjson.GetBytes(data, "usage"); u.IsObject() {
			m.report(u, gjson.Result{})
			m.final = true
		}
		return true
	case "error":
		return true
	}
	if bytes.HasSuffix([]byte(kind), []byte(".delta")) {
		m.text += call.CountText(gjson.GetBytes(data, "delta").Str)
	}
	return false
}

func (m *Meter) anthropicEvent(data []byte) (last bool) {
	switch gjson.GetBytes(data, "type").Str {
	case "message_start":
		m.report(gjson.GetBytes(data, "message.usage"), gjson.Result{})
	case "content_block_delta":
		gjson.GetBytes(data, "delta").ForEach(func(k, v gjson.Result) bool {
			if k.Str != "type" && k.Str != "signature" {
				m.text += call.CountText(v.Str)
			}
			return true
		})
	case "message_delta":
		if u := gjson.GetBytes(data, "usage"); u.IsObject() {
			m.report(u, gjson.Result{})
			m.final = true
		}
	case "message_stop", "error":
		return true
	}
	return false
}

// chunk reads one chunk of a Gemini stream; its numbers are cumulative.
func (m *Meter) chunk(doc gjson.Result) {
	if u := doc.Get("usageMetadata"); u.IsObject() {
		m.report(u, gjson.Result{})
	}
	doc.Get("candidates").ForEach(func(_, candidate gjson.Result) bool {
		candidate.Get("content.parts").ForEach(func(_, part gjson.Result) bool {
			m.text += call.CountText(part.Get("text").Str)
			return true
		})
		return true
	})
}

// report takes over what the provider says, in the form of its API. output are the items of a response, where there are any.
func (m *Meter) report(u, output gjson.Result) {
	if !u.IsObject() {
		return
	}
	m.some = true
	switch m.API {
	case call.AnthropicMessages:
		anthropic(&m.seen, u)
	case call.GeminiGenerate, call.GeminiEmbed:
		gemini(&m.seen, u)
	case call.OpenAIChat, call.OpenAICompletions, call.OpenAIResponses, call.OpenAIEmbeddings, call.OpenAIImages, call.OpenAIAudio:
		openAI(&m.seen, u)
		if m.API == call.OpenAIImages && m.seen.OutputImageTokens == 0 {
			m.seen.OutputImageTokens = m.seen.OutputTokens
		}
		searches(&m.seen, output)
	case call.Other, call.Free:
	}
	sane(&m.seen)
}

// Opaque counts an answer that cannot be read, by its size.
func (m *Meter) Opaque(size int) { m.text += int64(size)/4 + 1 }
