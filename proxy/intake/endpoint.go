package intake

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/rateguard/rateguard/proxy/call"
)

// plainPath returns the path as an upstream understands it, for recognition only: what is sent keeps the client's bytes.
func plainPath(escaped string) string {
	p := escaped
	if strings.IndexByte(p, '%') >= 0 {
		if u, err := url.PathUnescape(p); err == nil {
			p = u
		}
	}
	for strings.Contains(p, "//") {
		p = strings.ReplaceAll(p, "//", "/")
	}
	if len(p) > 1 {
		p = strings.TrimRight(p, "/")
	}
	return p
}

// hasDots reports whether a path, once unescaped, has . or .. segments: they would leave the route's base URL.
func hasDots(escaped string) bool {
	if strings.IndexByte(escaped, '.') < 0 && strings.IndexByte(escaped, '%') < 0 {
		return false
	}
	// Some servers unescape twice, some leave parameters (..;x) out.
	for range 3 {
		plain := plainPath(escaped)
		for s := range strings.FieldsFuncSeq(plain, func(r rune) bool { return r == '/' || r == '\\' }) {
			if s, _, _ = strings.Cut(s, ";"); s == "." || s == ".." {
				return true
			}
		}
		if plain == escaped {
			return false
		}
		escaped = plain
	}
	return strings.IndexByte(escaped, '%') >= 0 // nobody escapes that often without a reason
}

// classify says which API a path is, the model where the path names it, and for Gemini whether it streams.
func classify(d call.Dialect, method, path string) (api call.API, model string, stream bool) {
	if d == call.HTTP {
		return call.Other, "", false
	}
	if method == http.MethodGet || method == http.MethodHead || method == http.MethodDelete || method == http.MethodOptions {
		return call.Free, "", false
	}
	has := func(suffix string) bool { return strings.HasSuffix(path, suffix) }
	switch d {
	case call.OpenAI:
		model = deployment(path)
		switch {
		case has("/chat/completions"):
			return call.OpenAIChat, model, false
		case has("/completions"):
			return call.OpenAICompletions, model, false
		case has("/responses/input_tokens"):
			return call.Free, model, false
		case has("/responses"):
			return call.OpenAIResponses, model, false
		case has("/embeddings"):
			return call.OpenAIEmbeddings, model, false
		case has("/images/generations"), has("/images/edits"), has("/images/variations"):
			return call.OpenAIImages, model, false
		case has("/audio/speech"), has("/audio/transcriptions"), has("/audio/translations"):
			return call.OpenAIAudio, model, false
		}
	case call.Anthropic:
		switch {
		case has("/messages"):
			return call.AnthropicMessages, "", false
		case has("/count_tokens"):
			return call.Free, "", false
		}
	case call.Gemini:
		_, last, ok := strings.Cut(path, "/models/")
		if !ok {
			break
		}
		// The last of each decides, as it does for the provider.
		last = last[strings.LastIndexByte(last, '/')+1:]
		model, action := last, ""
		if i := strings.LastIndexByte(last, ':'); i >= 0 {
			model, action = last[:i], last[i+1:]
		}
		switch action {
		case "generateContent":
			return call.GeminiGenerate, model, false
		case "streamGenerateContent":
			return call.GeminiGenerate, model, true
		case "embedContent", "batchEmbedContents":
			return call.GeminiEmbed, model, false
		case "countTokens":
			return call.Free, model, false
		}
		return call.Other, model, false
	case call.HTTP:
	}
	return call.Other, "", false
}

// deployment returns the model that an OpenAI path names, as Azure's do; what such a body says of its model counts for nothing there.
func deployment(path string) string {
	for _, mark := range [...]string{"/deployments/", "/engines/"} {
		if _, name, ok := strings.Cut(path, mark); ok {
			name, _, _ = strings.Cut(name, "/")
			return name
		}
	}
	return ""
}

// endpointsPerRoute bounds the templates of one route; what comes after them is "/*".
const endpointsPerRoute = 200

// endpoints turns paths into templates and keeps their number bounded, because they become labels, groups and rows.
type endpoints struct {
	seen   sync.Map // workspace, route and template → struct{}
	counts sync.Map // workspace and route → *atomic.Int64
}

type templateKey struct{ workspace, route, template string }

// familiar are templates that always keep their name.
var familiar = map[string]bool{
	"/v1/chat/completions": true, "/v1/completions": true, "/v1/responses": true, "/v1/embeddings": true, "/v1/messages": true,
	"/v1beta/models/{model}:generateContent": true, "/v1beta/models/{model}:streamGenerateContent": true,
}

func (e *endpoints) template(workspace, route, path string) string {
	if familiar[path] {
		return path
	}
	t := template(path)
	if familiar[t] {
		return t
	}
	k := templateKey{workspace, route, t}
	if _, ok := e.seen.Load(k); ok {
		return t
	}
	n, _ := e.counts.LoadOrStore(templateKey{workspace: workspace, route: route}, new(atomic.Int64))
	count, ok := n.(*atomic.Int64)
	if !ok || count.Add(1) > endpointsPerRoute {
		return "/*"
	}
	e.seen.Store(k, struct{}{})
	return t
}

// template replaces what looks like an identifier.
func template(path string) string {
	var b strings.Builder
	previous := ""
	segments := 0
	for s := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if segments++; segments > 8 {
			b.WriteString("/*")
			break
		}
		b.WriteByte('/')
		name, action, hasAction := strings.Cut(s, ":")
		switch {
		case previous == "models" || previous == "tunedModels" || previous == "deployments":
			b.WriteString("{model}")
		case looksLikeID(name):
			b.WriteString("{id}")
		default:
			b.WriteString(name)
		}
		if hasAction && !looksLikeID(action) {
			b.WriteByte(':')
			b.WriteString(action)
		}
		previous = s
	}
	return b.String()
}

// looksLikeID reports whether a segment is no word of an API: longer than one, with several digits or strange characters.
func looksLikeID(s string) bool {
	if len(s) > 40 {
		return true
	}
	digits := 0
	for i := range len(s) {
		switch ch := s[i]; {
		case ch >= '0' && ch <= '9':
			digits++
		case ch >= 'a' && ch <= 'z', ch >= 'A' && ch <= 'Z', ch == '_', ch == '-', ch == '.':
		default:
			return true
		}
	}
	return digits > 0 && digits == len(s) || digits >= 3 || digits > 0 && len(s) >= 16
}
