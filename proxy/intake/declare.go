package intake

import (
	"bytes"
	"strings"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/schemas/price"
)

// Marks in a body that hide input or add to it. They are looked for as text: one that stands in a prompt makes the bound
// larger, never smaller.
var (
	mediaMarks = [][]byte{
		[]byte(`"image`), []byte(`"input_`), []byte(`"inline`), []byte(`"audio`), []byte(`"video`), []byte(`"document`),
		[]byte(`"file`), []byte(`"source`), []byte(`"url`),
	}
	toolMarks = [][]byte{
		[]byte(`"web_`), []byte(`_search`), []byte(`"mcp`), []byte(`"code_`), []byte(`"codeExecution`), []byte(`"computer`),
		[]byte(`"container"`), []byte(`"googleSearch`), []byte(`"urlContext`), []byte(`"url_context`), []byte(`"tool_search`),
	}
	searchMarks   = [][]byte{[]byte(`web_search`), []byte(`google`), []byte(`"web_`), []byte(`file_search`)}
	modalityMarks = [][]byte{[]byte(`odalities`), []byte(`image_generation`)}
	cacheControl  = []byte(`cache_control`)
	oneHour       = []byte(`"1h"`)
)

// declare notes what bounds the cost.
func declare(c *call.Call, body []byte) {
	a, d := &c.Asked, &c.Asked.Declared
	escaped := escapedLetters(body)
	media := escaped || containsAny(body, mediaMarks)
	// "input_text" is plain text; it is what every Responses call has.
	if media && !escaped && a.API == call.OpenAIResponses {
		media = containsAny(bytes.ReplaceAll(body, []byte(`"input_text"`), nil), mediaMarks)
	}
	d.HiddenInput = d.HiddenInput || media || containsAny(body, toolMarks)
	d.TextOnlyInput = !media && !d.HiddenInput
	// Models that search by themselves need no tool for it.
	if escaped || containsAny(body, searchMarks) || strings.Contains(a.Model, "search") || strings.Contains(a.Model, "sonar") {
		d.WebSearches, d.StorageSearches = price.Unknown, price.Unknown
	}
	switch a.API {
	case call.OpenAIChat, call.OpenAICompletions, call.OpenAIResponses, call.AnthropicMessages:
		d.TextOnlyOutput = !escaped && !containsAny(body, modalityMarks)
	case call.Other:
		// Batches, fine-tuning and whatever else is not known: the call's body says nothing of its cost.
		a.Unbounded = true
	}
	cached := escaped || bytes.Contains(body, cacheControl)
	d.NoCacheWrite = !cached
	d.NoCacheWrite1h = !cached || !escaped && !bytes.Contains(body, oneHour)
}

func containsAny(b []byte, marks [][]byte) bool {
	for _, m := range marks {
		if bytes.Contains(b, m) {
			return true
		}
	}
	return false
}

// escapedLetters reports whether the body writes ASCII letters as \u00xx, which no serializer does: it could hide a mark.
func escapedLetters(b []byte) bool {
	for {
		i := bytes.Index(b, []byte(`\u00`))
		if i < 0 || i+4 >= len(b) {
			return false
		}
		if ch := b[i+4]; ch >= '4' && ch <= '7' && !bytes.HasPrefix(b[i+4:], []byte("7f")) {
			return true
		}
		b = b[i+4:]
	}
}
