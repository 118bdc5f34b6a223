package intake

import (
	"bytes"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/rateguard/rateguard/proxy/call"
)

// walk looks once at each key of a valid body and at each type, and at no other text. It goes by the bytes and not by the values in one another, as
// a client decides how deep these are.
type walk struct {
	c     *call.Call
	b     []byte
	i     int
	depth int
	// lists are those of tools that it is in, from the outermost.
	lists []toolList

	media, modalities bool
}

// toolList says at which depth the key of a list of tools stands, and at which the keys of its tools do.
type toolList struct{ key, tool int }

func (w *walk) run() {
	for ; w.i < len(w.b); w.i++ {
		switch w.b[w.i] {
		case '{', '[':
			w.depth++
		case '}', ']':
			w.depth--
			for n := len(w.lists); n > 0 && w.depth <= w.lists[n-1].key; n = len(w.lists) {
				w.lists = w.lists[:n-1]
			}
		case '"':
			raw := w.text()
			if w.next() == ':' {
				w.i++
				w.key(unescaped(raw))
			}
			w.i--
		}
	}
}

// key looks at a key whose value begins next.
func (w *walk) key(key string) {
	var room [call.MaxCanonical]byte
	canonical := string(call.Canonical(key, &room))
	first := w.next()
	value := ""
	if canonical == "type" && first == '"' {
		value = unescaped(w.text())
	}
	if n := len(w.lists); n > 0 && w.depth == w.lists[n-1].tool {
		w.tool(canonical, value)
	}
	if len(w.lists) == 0 { // what the schemas of tools speak of is no input
		w.media = w.media || w.isMedia(key) || w.isMedia(value)
		w.c.Asked.Stored = w.c.Asked.Stored || canonical == "fileid" || canonical == "fileuri"
		w.modalities = w.modalities || begins(`"`+strings.ToLower(key), modalityMarks)
	}
	switch {
	case canonical == "tools" && first == '[':
		w.lists = append(w.lists, toolList{w.depth, w.depth + 2})
	case canonical == "tools" && first == '{' && w.depth == 1: // Gemini takes a single one for a list
		w.lists = append(w.lists, toolList{w.depth, w.depth + 1})
	}
}

// tool looks at a key of a tool.
func (w *walk) tool(key, value string) {
	a := &w.c.Asked
	switch {
	case a.API == call.GeminiGenerate:
		if !slices.Contains(clientKinds, key) {
			a.Unbound("tools")
		}
		w.media = w.media || key == "computeruse"
	case key == "type":
		if !clientRun(value) {
			a.Unbound("tools")
		}
		w.media = w.media || strings.HasPrefix(value, "computer")
	}
}

// isMedia leaves out "input_text", which is plain text, and what every Responses call has.
func (w *walk) isMedia(word string) bool {
	return begins(`"`+strings.ToLower(word), mediaMarks) && (word != "input_text" || w.c.Asked.API != call.OpenAIResponses)
}

// text returns the string that begins here, quotes included, and goes behind it.
func (w *walk) text() []byte {
	start := w.i
	for w.i++; ; {
		n := bytes.IndexByte(w.b[w.i:], '"')
		if n < 0 {
			w.i = len(w.b) // impossible: the body is valid
			return nil
		}
		before := w.b[start+1 : w.i+n]
		w.i += n + 1
		if slashes := len(before) - len(bytes.TrimRight(before, `\`)); slashes%2 == 0 {
			return w.b[start:w.i]
		}
	}
}

// next skips blanks and returns the byte that follows, 0 at the end.
func (w *walk) next() byte {
	for ; w.i < len(w.b); w.i++ {
		switch w.b[w.i] {
		case ' ', '\t', '\r', '\n':
		default:
			return w.b[w.i]
		}
	}
	return 0
}

func unescaped(raw []byte) string {
	if len(raw) < 2 {
		return ""
	}
	if bytes.IndexByte(raw, '\\') >= 0 {
		return gjson.ParseBytes(raw).Str
	}
	return string(raw[1 : len(raw)-1])
}
