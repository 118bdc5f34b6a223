package intake

import (
	"bytes"
	"net/http"
	"strings"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/schemas/price"
)

// Marks of a body that hides input or has more than text for output, as they begin a key or a type. They are looked for as text, quote included,
// and where one is found the body is walked through, as texts may speak of them.
var (
	mediaMarks    = []string{`"image`, `"input_`, `"inline`, `"audio`, `"video`, `"document`, `"file`, `"source`, `"url`, `"cached`, `"computer`}
	modalityMarks = []string{`"modalities`, `"response_modalities`}
	toolsMark     = []byte(`tools"`)
	cacheControl  = []byte(`cache_control`)
	oneHour       = []byte(`"1h"`)
)

// declare notes what bounds the cost.
func declare(c *call.Call, body []byte) {
	a, d := &c.Asked, &c.Asked.Declared
	escaped := escapedASCII(body)
	w := walk{c: c, b: body}
	if escaped || bytes.Contains(body, toolsMark) || containsAny(body, mediaMarks) || containsAny(body, modalityMarks) {
		w.run()
	}
	d.HiddenInput = d.HiddenInput || w.media
	d.TextOnlyInput = !d.HiddenInput
	// Models that search by themselves need no tool for it.
	for _, mark := range [...]string{"search", "sonar", "online", "deep-research"} {
		if strings.Contains(strings.ToLower(a.Model), mark) {
			d.WebSearches = price.Unknown
		}
	}
	switch a.API {
	case call.OpenAIChat, call.OpenAICompletions, call.OpenAIResponses, call.AnthropicMessages:
		d.TextOnlyOutput = !w.modalities
	case call.Other:
		// Batches, fine-tuning and whatever else is not known: the call's body says nothing of its cost.
		a.Unbounded = true
	}
	cached := escaped || bytes.Contains(body, cacheControl)
	d.NoCacheWrite = !cached && a.API == call.AnthropicMessages // others write without being told to
	d.NoCacheWrite1h = !cached || !escaped && !bytes.Contains(body, oneHour)
	if d.HiddenInput && widened(c.Request.Header, body) {
		a.Unbound("anthropic-beta")
	}
}

// widened reports whether the call asks for a larger context window than the one in the price list, which then bounds nothing.
func widened(h http.Header, body []byte) bool {
	const beta = "context-1m"
	for name, values := range h {
		if strings.HasSuffix(name, "-Beta") && strings.Contains(strings.Join(values, ","), beta) {
			return true
		}
	}
	return bytes.Contains(body, []byte(beta))
}

func begins(word string, marks []string) bool {
	for _, m := range marks {
		if strings.HasPrefix(word, m) {
			return true
		}
	}
	return false
}

func containsAny(b []byte, marks []string) bool {
	for _, m := range marks {
		if bytes.Contains(b, []byte(m)) {
			return true
		}
	}
	return false
}

// escapedASCII reports whether the body writes ASCII letters, digits or _ as \u00xx, which no serializer does: it could hide a mark.
func escapedASCII(b []byte) bool {
	for {
		i := bytes.Index(b, []byte(`\u00`))
		if i < 0 || i+5 >= len(b) {
			return false
		}
		switch ch, low := b[i+4], b[i+5]; {
		case ch == '3' && low >= '0' && low <= '9', ch >= '4' && ch <= '6', ch == '7' && low != 'f' && low != 'F':
			return true
		}
		b = b[i+4:]
	}
}
