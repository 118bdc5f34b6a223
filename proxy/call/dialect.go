package call

import "strings"

// Dialect is the form of a route's bodies, streams and errors.
type Dialect uint8

// The dialects. HTTP is any other API; its errors are application/problem+json.
const (
	HTTP Dialect = iota
	OpenAI
	Anthropic
	Gemini
)

// ParseDialect returns the dialect of a route's provider field; unknown ones are HTTP.
func ParseDialect(provider string) Dialect {
	switch provider {
	case "openai":
		return OpenAI
	case "anthropic":
		return Anthropic
	case "gemini":
		return Gemini
	}
	return HTTP
}

// String returns the provider field of the dialect.
func (d Dialect) String() string {
	switch d {
	case OpenAI:
		return "openai"
	case Anthropic:
		return "anthropic"
	case Gemini:
		return "gemini"
	case HTTP:
	}
	return "http"
}

// Locate splits an escaped URL path into the route and the path below it, and guesses the dialect for
// errors that come before the route is known. Shortcuts: /v1/messages is route anthropic,
// /v1beta/ is gemini, any other /v1/ is openai; their path is kept whole.
func Locate(path string) (route, below string, d Dialect) {
	switch {
	case under(path, "/v1/messages"):
		return "anthropic", path, Anthropic
	case under(path, "/v1beta"):
		return "gemini", path, Gemini
	case under(path, "/v1"):
		return "openai", path, OpenAI
	}
	route, below, _ = strings.Cut(strings.TrimPrefix(path, "/"), "/")
	below = "/" + below
	if d = ParseDialect(route); d != HTTP {
		return route, below, d
	}
	switch {
	case under(below, "/v1/messages"):
		d = Anthropic
	case under(below, "/v1beta"):
		d = Gemini
	case under(below, "/v1"):
		d = OpenAI
	}
	return route, below, d
}

// under reports whether path is prefix or lies below it.
func under(path, prefix string) bool {
	return strings.HasPrefix(path, prefix) && (len(path) == len(prefix) || path[len(prefix)] == '/')
}
