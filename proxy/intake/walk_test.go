package intake

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/rateguard/rateguard/proxy/call"
)

// TestTheWalkSeesWhatAParserSees writes values in every form that JSON has for them, and compares the walk with a parser's tree.
func TestTheWalkSeesWhatAParserSees(t *testing.T) {
	words := []string{"type", "tools", "image_url", "modalities", "content", "file_id", "x", "function", "mcp", `a"b\`, "input_text", "TYPE", "a\\\"type"}
	rapid.Check(t, func(t *rapid.T) {
		text := object(t, words, 0)
		if !json.Valid([]byte(text)) {
			t.Fatalf("not JSON: %s", text)
		}
		got := walk{c: &call.Call{Asked: call.Asked{API: call.OpenAIResponses}}, b: []byte(text)}
		got.run()
		want := tree{}
		d := json.NewDecoder(strings.NewReader(text))
		want.value(t, d, false, 0)
		a := got.c.Asked
		if got.media != want.media || got.modalities != want.modalities || a.Unbounded != want.server || a.Stored != want.stored || len(got.lists) != 0 || got.depth != 0 {
			t.Fatalf("walk %+v %+v, parser %+v: %s", got, a, want, text)
		}
	})
}

// tree is what a parser that goes by values finds.
type tree struct{ media, modalities, server, stored bool }

// value reads one value; inTools says that it lies in a list of tools, tool how many levels its keys are away from those of one of them: 1 is a tool.
func (w *tree) value(t *rapid.T, d *json.Decoder, inTools bool, tool int) {
	token, err := d.Token()
	if err != nil {
		t.Fatal(err)
	}
	switch token {
	case json.Delim('['):
		for d.More() {
			w.value(t, d, inTools, tool-1)
		}
	case json.Delim('{'):
		for d.More() {
			w.member(t, d, inTools, tool == 1)
		}
	default:
		return
	}
	if _, err := d.Token(); err != nil {
		t.Fatal(err)
	}
}

func (w *tree) member(t *rapid.T, d *json.Decoder, inTools, ofTool bool) {
	token, err := d.Token()
	if err != nil {
		t.Fatal(err)
	}
	key, _ := token.(string)
	lower := strings.ToLower(key)
	var raw json.RawMessage
	if err := d.Decode(&raw); err != nil {
		t.Fatal(err)
	}
	var value string
	isText := json.Unmarshal(raw, &value) == nil && raw[0] == '"'
	if !inTools {
		w.media = w.media || key == "image_url" || key == "file_id" || lower == "type" && isText && (value == "image_url" || value == "file_id")
		w.stored = w.stored || key == "file_id"
		w.modalities = w.modalities || key == "modalities"
	}
	if ofTool && lower == "type" {
		w.server = w.server || value != "" && value != "function"
	}
	if isText {
		return
	}
	inner := json.NewDecoder(strings.NewReader(string(raw)))
	if key == "tools" && raw[0] == '[' {
		w.value(t, inner, true, 2)
		return
	}
	w.value(t, inner, inTools, 0)
}

// object writes an object without a single tool in place of a list, which only Gemini takes.
func object(t *rapid.T, words []string, depth int) string {
	var b strings.Builder
	b.WriteString("{")
	for i := range rapid.IntRange(0, 4).Draw(t, "members") {
		if i > 0 {
			b.WriteString(blank(t) + ",")
		}
		key := rapid.SampledFrom(words).Draw(t, "key")
		value := written(t, words, depth+1)
		if key == "tools" && depth == 0 && strings.HasPrefix(strings.TrimSpace(value), "{") {
			value = "null"
		}
		b.WriteString(blank(t) + quote(t, key) + blank(t) + ":" + blank(t) + value)
	}
	return b.String() + blank(t) + "}"
}

func written(t *rapid.T, words []string, depth int) string {
	kind := rapid.IntRange(0, 4).Draw(t, "kind")
	if depth > 4 && kind < 3 {
		kind = 3
	}
	switch kind {
	case 0:
		return object(t, words, depth)
	case 1, 2:
		var list []string
		for range rapid.IntRange(0, 3).Draw(t, "elements") {
			list = append(list, written(t, words, depth+1))
		}
		return "[" + strings.Join(list, ",") + "]"
	case 3:
		return quote(t, rapid.SampledFrom(words).Draw(t, "text"))
	default:
		return rapid.SampledFrom([]string{"null", "true", "-1.5e3"}).Draw(t, "scalar")
	}
}

func blank(t *rapid.T) string {
	return rapid.SampledFrom([]string{"", "", " ", "\n\t"}).Draw(t, "blank")
}

func quote(t *rapid.T, s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	if rapid.Bool().Draw(t, "escape") {
		text = strings.ReplaceAll(strings.ReplaceAll(text, "t", `\u0074`), "_", `\u005F`)
	}
	return text
}
