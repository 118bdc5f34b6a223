package intake

import (
	"bytes"
	"fmt"
	"math"
	"mime"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/rateguard/rateguard/proxy/call"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/price"
)

// maxDepth is how deep a JSON body may nest; the validator recurses, and its stack is not to be the client's to size.
const maxDepth = 1000

// toolPrompt is what providers put in front of a call that has tools, in tokens.
const toolPrompt = 2048

// framing is what a provider adds to each message, in tokens, as a multiple of the body's bytes is already far above it.
const framing = 64

// scan reads what the gateway has to know from the body.
func scan(c *call.Call) error {
	a := &c.Asked
	a.Declared = price.Declared{InputTokens: int64(len(c.Body)) + framing, N: 1}
	if a.API == call.Free {
		return nil
	}
	known := a.API != call.Other
	if known && (a.API == call.OpenAIAudio || a.API == call.OpenAIImages) {
		if model, ok := multipartModel(c.Request.Header.Get("Content-Type"), c.Body); ok {
			a.Model = clip(model, maxModel)
			a.Declared.HiddenInput = true
			return nil
		}
	}
	body := bytes.TrimLeft(c.Body, " \t\r\n")
	if !known && (len(body) == 0 || body[0] != '{') {
		return nil
	}
	if len(body) == 0 || body[0] != '{' || tooDeep(body) || !gjson.ValidBytes(body) {
		if !known {
			return nil
		}
		return &call.Error{Code: call.InvalidRequest, Message: "The request body is not a valid JSON object."}
	}
	a.JSON = true
	if c.Dialect != call.HTTP {
		if err := topLevel(c, body); err != nil {
			return err
		}
		declare(c, body)
	} else {
		a.Model = clip(gjson.GetBytes(body, "model").String(), maxModel)
	}
	c.Context.Stream = a.Stream
	return nil
}

// watched are the keys that decide about cost and routing, in canonical form: lower case without underscores. A body
// that has one of them twice, in whatever spelling, is refused: providers differ in which one they obey.
var watched = map[string]int{
	"model": 0, "stream": 1, "streamoptions": 2, "maxtokens": 3, "maxcompletiontokens": 4, "maxoutputtokens": 5,
	"maxtokenstosample": 6, "n": 7, "bestof": 8, "background": 9, "generationconfig": 10, "user": 11, "metadata": 12,
	"tools": 13, "prompt": 14, "previousresponseid": 15, "conversation": 16, "cachedcontent": 17, "servicetier": 18,
	"requests": 19, "candidatecount": 20, "modalities": 21, "responsemodalities": 22,
}

// canonical returns the index of a watched key, -1 for all others.
func canonical(key string) int {
	if len(key) > 24 {
		return -1
	}
	var b [24]byte
	n := 0
	for i := range len(key) {
		ch := key[i]
		if ch == '_' || ch == '-' {
			continue
		}
		if ch >= 'A' && ch <= 'Z' {
			ch += 'a' - 'A'
		}
		b[n] = ch
		n++
	}
	if i, ok := watched[string(b[:n])]; ok {
		return i
	}
	return -1
}

// reader collects what an object's keys say.
type reader struct {
	c    *call.Call
	seen uint64
	err  *call.Error
}

// topLevel reads the watched keys of the body.
func topLevel(c *call.Call, body []byte) error {
	r := reader{c: c}
	gjson.ParseBytes(body).ForEach(func(k, v gjson.Result) bool {
		r.key(k.String(), v)
		return r.err == nil
	})
	if r.err != nil {
		return r.err
	}
	if c.Asked.Model == "" && c.Asked.API != call.OpenAIImages && c.Asked.API != call.OpenAIAudio && c.Asked.API != call.Other {
		return &call.Error{Code: call.InvalidRequest, Message: "The request names no model.", Param: "model"}
	}
	return nil
}

// once notes a watched key; the second time it is an error.
func (r *reader) once(name string, i int) bool {
	if r.seen&(1<<i) != 0 {
		r.err = &call.Error{Code: call.InvalidRequest, Message: fmt.Sprintf("The field %q is given twice.", clip(name, 64)), Param: clip(name, 64)}
		return false
	}
	r.seen |= 1 << i
	return true
}

func (r *reader) key(name string, v gjson.Result) {
	i := canonical(name)
	if i < 0 || !r.once(name, i) {
		return
	}
	a, d := &r.c.Asked, &r.c.Asked.Declared
	switch i {
	case watched["model"]:
		r.model(v)
	case watched["stream"]:
		if v.Type != gjson.True && v.Type != gjson.False && v.Type != gjson.Null {
			r.bad(name, "must be a boolean")
			return
		}
		a.Stream = a.Stream || v.Type == gjson.True
	case watched["streamoptions"]:
		a.StreamOptions = true
		a.IncludeUsage = v.Get("include_usage").Bool()
	case watched["maxtokens"], watched["maxcompletiontokens"], watched["maxoutputtokens"], watched["maxtokenstosample"]:
		// Several of them at once: the largest bounds the answer whichever the provider obeys.
		d.MaxOutputTokens = max(d.MaxOutputTokens, r.count(name, v))
	case watched["n"], watched["bestof"], watched["candidatecount"]:
		d.N = max(d.N, r.count(name, v))
	case watched["background"]:
		a.Unbounded = a.Unbounded || v.Type != gjson.False && v.Type != gjson.Null
	case watched["generationconfig"]:
		nested := reader{c: r.c}
		v.ForEach(func(k, v gjson.Result) bool {
			nested.key(k.String(), v)
			return nested.err == nil
		})
		r.err = nested.err
	case watched["user"]:
		if v.Type == gjson.String {
			tag(r.c.Context, "user", v.Str)
		}
	case watched["metadata"]:
		metadata(r.c.Context, v)
	case watched["prompt"], watched["conversation"]:
		d.HiddenInput = d.HiddenInput || v.IsObject() || name != "prompt" && v.Type != gjson.Null
	case watched["previousresponseid"], watched["cachedcontent"]:
		d.HiddenInput = d.HiddenInput || v.Type != gjson.Null
	case watched["tools"]:
		d.InputTokens += toolPrompt
	}
}

func (r *reader) model(v gjson.Result) {
	a := &r.c.Asked
	if v.Type != gjson.String {
		r.bad("model", "must be a string")
		return
	}
	if len(v.Str) > maxModel {
		r.bad("model", "is too long")
		return
	}
	if r.c.Dialect == call.Gemini && a.Model != "" {
		return // the path names it; generateContent bodies may repeat it as "models/<name>"
	}
	a.Model = clip(v.Str, maxModel)
}

// count reads a number of tokens or choices; null is 0.
func (r *reader) count(name string, v gjson.Result) int64 {
	if v.Type == gjson.Null {
		return 0
	}
	if v.Type != gjson.Number || v.Num < 0 || v.Num != math.Trunc(v.Num) || v.Num > 1e12 {
		r.bad(name, "must be a whole number that is not negative")
		return 0
	}
	return int64(v.Num)
}

func (r *reader) bad(name, what string) {
	name = clip(name, 64)
	r.err = &call.Error{Code: call.InvalidRequest, Message: fmt.Sprintf("The field %q %s.", name, what), Param: name}
}

func metadata(x *rateguardv1.RequestContext, v gjson.Result) {
	v.ForEach(func(k, v gjson.Result) bool {
		if v.Type == gjson.String {
			tag(x, k.String(), v.Str)
		}
		return len(x.Tags) < maxTags
	})
}

// tooDeep counts nesting only where there are brackets enough for it.
func tooDeep(b []byte) bool {
	if bytes.Count(b, []byte{'['})+bytes.Count(b, []byte{'{'}) <= maxDepth {
		return false
	}
	depth, inString := 0, false
	for i := 0; i < len(b); i++ {
		switch ch := b[i]; {
		case inString && ch == '\\':
			i++
		case ch == '"':
			inString = !inString
		case inString:
		case ch == '[' || ch == '{':
			if depth++; depth > maxDepth {
				return true
			}
		case ch == ']' || ch == '}':
			depth--
		}
	}
	return false
}

// multipartModel reads the form field "model" of a multipart body; ok is false for other bodies. Only parts that
// stand before the first 64 KiB are looked at: SDKs put the fields there or behind the file, and the file is not searched.
func multipartModel(contentType string, body []byte) (model string, ok bool) {
	mediaType, params, err := mime.ParseMediaType(contentType)
	if err != nil || !strings.HasPrefix(mediaType, "multipart/") || params["boundary"] == "" {
		return "", false
	}
	const near = 64 << 10
	head, tail := body, []byte(nil)
	if len(body) > 2*near {
		head, tail = body[:near], body[len(body)-near:]
	}
	for _, part := range [][]byte{head, tail} {
		if m, found := formField(part, params["boundary"], "model"); found {
			return m, true
		}
	}
	return "", true
}

func formField(b []byte, boundary, name string) (string, bool) {
	for {
		i := bytes.Index(b, []byte(`name="`+name+`"`))
		if i < 0 {
			return "", false
		}
		b = b[i:]
		_, value, ok := bytes.Cut(b, []byte("\r\n\r\n"))
		if !ok {
			return "", false
		}
		if v, _, ok := bytes.Cut(value, []byte("\r\n--"+boundary)); ok {
			return string(v), true
		}
		b = value
	}
}
