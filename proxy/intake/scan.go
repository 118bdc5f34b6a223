package intake

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"github.com/rateguard/rateguard/proxy/call"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/price"
)

// maxDepth is how deep a JSON body may nest; the validator recurses, and its stack is not to be the client's to size.
const maxDepth = 1000

// toolPrompt is what providers put in front of a call that has tools, in tokens. A model of xAI has such a prompt always.
const toolPrompt = 2048

// framing is what a provider adds to each message, in tokens, as a multiple of the body's bytes is already far above it.
const framing = 64

// scan reads what the gateway has to know from the body.
func scan(c *call.Call) error {
	a := &c.Asked
	a.Declared = price.Declared{InputTokens: inputBound(c), N: 1}
	if a.API == call.Free {
		return nil
	}
	known := a.API != call.Other
	if known {
		if err := asItIs(c.Request.Header); err != nil {
			return err
		}
	}
	if known && (a.API == call.OpenAIAudio || a.API == call.OpenAIImages) {
		if boundary, ok := multipartBoundary(c.Request.Header.Get("Content-Type")); ok {
			a.Declared.HiddenInput = true
			return form(c, boundary)
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
		return modelOnly(c, body)
	}
	c.Context.Stream = a.Stream
	return nil
}

// inputBound is what the body can have of tokens. What is no UTF-8 is read as a replacement character for each byte, which has three.
func inputBound(c *call.Call) int64 {
	n := int64(len(c.Body))
	if !utf8.Valid(c.Body) {
		n *= 3
	}
	if c.Route.Provider == "x-ai" {
		n += toolPrompt
	}
	return n + framing
}

// watched are the keys that decide about cost and routing, in canonical form: lower case without underscores. A body
// that has one of them twice, in whatever spelling, is refused: providers differ in which one they obey.
var watched = map[string]int{
	"model": 0, "stream": 1, "streamoptions": 2, "maxtokens": 3, "maxcompletiontokens": 4, "maxoutputtokens": 5,
	"n": 7, "bestof": 8, "background": 9, "generationconfig": 10, "user": 11, "metadata": 12,
	"tools": 13, "prompt": 14, "previousresponseid": 15, "conversation": 16, "cachedcontent": 17, "servicetier": 18,
	"requests": 19, "candidatecount": 20, "modalities": 21, "responsemodalities": 22, "models": 23,
	"speed": 24, "inferencegeo": 25, "deferred": 26, "prediction": 27, "thinking": 28, "contextmanagement": 29, "mcpservers": 30,
	"plugins": 31, "preset": 32, "provider": 33, "fallbacks": 34, "searchparameters": 35, "websearchoptions": 36,
}

// canonical returns the index of a watched key, -1 for all others.
func canonical(key string) int {
	var room [call.MaxCanonical]byte
	if i, ok := watched[string(call.Canonical(key, &room))]; ok {
		return i
	}
	return -1
}

// reader collects what an object's keys say.
type reader struct {
	c    *call.Call
	seen uint64
	err  *call.Error
	// maxima are the fields that the call's maximum of output tokens may stand in, none in this object where it is nil.
	maxima []string
	// prompts is how many of them a completion has, thinking the budget that it has for thoughts.
	prompts, thinking int64
}

// topLevel reads the watched keys of the body.
func topLevel(c *call.Call, body []byte) error {
	r := reader{c: c, prompts: 1}
	if c.Asked.API != call.GeminiGenerate {
		r.maxima = call.Maxima(c.Asked.API, c.Route.Provider)
	}
	gjson.ParseBytes(body).ForEach(func(k, v gjson.Result) bool {
		r.key(k.String(), v)
		return r.err == nil
	})
	if r.err != nil {
		return r.err
	}
	d := &c.Asked.Declared
	d.N *= r.prompts
	if most := d.MaxOutputTokens; most > 0 && r.thinking >= most { // it is then for a turn of several messages, and the maximum does not hold it
		d.ExtraOutputTokens += r.thinking
	} else if r.thinking > 0 {
		c.Asked.LeastOutput = r.thinking + 1
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
	case watched["models"]:
		r.fallbacks(v)
	case watched["stream"]:
		if v.Type != gjson.True && v.Type != gjson.False && v.Type != gjson.Null {
			r.bad(name, "must be a boolean")
			return
		}
		a.Stream = a.Stream || v.Type == gjson.True
	case watched["streamoptions"]:
		if name == "stream_options" {
			a.StreamOptions = true
			r.streamOptions(v)
		}
	case watched["maxtokens"], watched["maxcompletiontokens"], watched["maxoutputtokens"]:
		// Several of them at once: the largest bounds the answer whichever the provider obeys.
		if n := r.count(name, v); slices.Contains(r.maxima, name) {
			d.MaxOutputTokens = max(d.MaxOutputTokens, n)
		}
	case watched["n"], watched["bestof"], watched["candidatecount"]:
		d.N = max(d.N, r.count(name, v))
	case watched["background"]:
		if v.Type != gjson.False && v.Type != gjson.Null {
			a.Unbound(clip(name, 64))
		}
	case watched["generationconfig"]:
		if a.API == call.GeminiGenerate {
			r.config(v)
		}
	case watched["user"]:
		if v.Type == gjson.String {
			tag(r.c.Context, "user", v.Str)
		}
	case watched["metadata"]:
		metadata(r.c.Context, v)
	case watched["prompt"]:
		if a.API == call.OpenAICompletions && v.IsArray() {
			r.prompts = prompts(v)
		}
		if v.IsObject() { // a stored prompt may bring its tools
			d.HiddenInput, a.Stored = true, true
			a.Unbound(clip(name, 64))
		}
	case watched["previousresponseid"], watched["cachedcontent"], watched["conversation"]:
		a.Stored = a.Stored || v.Type != gjson.Null
		d.HiddenInput = d.HiddenInput || a.Stored
	case watched["prediction"]:
		if v.Type != gjson.Null {
			d.ExtraOutputTokens += int64(len(v.Raw))
		}
	case watched["thinking"]:
		if budget := v.Get("budget_tokens"); a.API == call.AnthropicMessages && budget.Exists() {
			r.thinking = r.count("thinking.budget_tokens", budget)
		}
	case watched["tools"]:
		d.InputTokens += toolPrompt
	default:
		if surcharged(r.c, i, v) {
			a.Unbound(clip(name, 64))
		}
		if v.Type != gjson.Null && (i == watched["searchparameters"] || i == watched["websearchoptions"]) {
			d.WebSearches = price.Unknown
		}
	}
}

// config reads Gemini's object of settings.
func (r *reader) config(v gjson.Result) {
	nested := reader{c: r.c, maxima: call.Maxima(call.GeminiGenerate, r.c.Route.Provider)}
	v.ForEach(func(k, v gjson.Result) bool {
		switch canonical(k.String()) {
		case watched["maxoutputtokens"], watched["candidatecount"]:
			nested.key(k.String(), v)
		}
		return nested.err == nil
	})
	r.err = nested.err
}

// streamOptions reads whether the client asked for the usage. Twice would leave it to the provider which one it obeys, and the answer without usage.
func (r *reader) streamOptions(v gjson.Result) {
	given := 0
	v.ForEach(func(k, v gjson.Result) bool {
		if k.String() == "include_usage" {
			given++
			r.c.Asked.IncludeUsage = v.Type == gjson.True
		}
		return true
	})
	if given > 1 {
		r.bad("stream_options.include_usage", "is given twice")
	}
}

// prompts counts those of a completion: each string of the list is one, and each list; a list of numbers is one.
func prompts(v gjson.Result) int64 {
	n := int64(0)
	v.ForEach(func(_, each gjson.Result) bool {
		if each.Type != gjson.Number {
			n++
		}
		return true
	})
	return max(1, n)
}

func (r *reader) model(v gjson.Result) {
	a := &r.c.Asked
	if v.Type != gjson.String {
		r.bad("model", "must be a string")
		return
	}
	name := v.Str
	if err := checkModel(&name); err != nil {
		r.err = call.AsError(err)
		return
	}
	if a.Model != "" {
		return // the path names it, and decides; generateContent bodies may repeat it as "models/<name>"
	}
	a.Model = name
}

// checkModel refuses a name that no event could hold as it is: what is recorded, priced and allowed has to be what the provider reads.
func checkModel(name *string) error {
	if len(*name) <= maxModel && clean(*name) {
		return nil
	}
	what := "is too long"
	if len(*name) <= maxModel {
		what = "has characters that no model's name has"
	}
	*name = clip(*name, maxModel)
	return &call.Error{Code: call.InvalidRequest, Message: "The model's name " + what + ".", Param: "model"}
}

// fallbacks reads a list of models of which some aggregators take whichever they like: each has to be allowed, and no price is certain.
func (r *reader) fallbacks(v gjson.Result) {
	if !v.IsArray() || len(v.Array()) == 0 {
		return
	}
	r.c.Asked.Unbound("models")
	for _, m := range v.Array() {
		if !r.c.Key.AllowsModel(m.String()) {
			r.err = &call.Error{Code: call.ModelNotAllowed, Param: "models"}
			return
		}
	}
}

// modelOnly reads the model of a body whose API is not known, for the row and the key's list.
func modelOnly(c *call.Call, body []byte) error {
	var err error
	given := 0
	gjson.ParseBytes(body).ForEach(func(k, v gjson.Result) bool {
		if canonical(k.String()) != watched["model"] {
			return true
		}
		if given++; given > 1 && len(c.Key.Models) > 0 {
			err = &call.Error{Code: call.InvalidRequest, Message: "The field \"model\" is given twice.", Param: "model"}
			return false
		}
		if given == 1 || k.String() == "model" {
			c.Asked.Model = v.String()
		}
		return true
	})
	if err == nil && len(c.Key.Models) > 0 {
		return checkModel(&c.Asked.Model)
	}
	c.Asked.Model = clip(c.Asked.Model, maxModel)
	return err
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
