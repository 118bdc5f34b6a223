package forward

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/forward/upstream"
)

var heads = sync.Pool{New: func() any { b := make([]byte, 0, 2<<10); return &b }}

// kept out of the upstream's request: hop-by-hop headers (RFC 9110, 7.6.1), the client's credentials, and what is set anew.
var dropped = map[string]bool{
	"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Proxy-Authenticate": true, "Proxy-Authorization": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true, "Expect": true, "Content-Length": true, "Host": true,
	"Authorization": true, "X-Api-Key": true, "Api-Key": true, "X-Goog-Api-Key": true,
	// A cookie is a credential too, of whichever side made it.
	"Cookie": true,
	// A method that is not the one that was judged.
	"X-Http-Method-Override": true, "X-Http-Method": true, "X-Method-Override": true,
	"Accept-Encoding": true, "X-Forwarded-For": true, "X-Forwarded-Host": true, "X-Forwarded-Proto": true,
}

// request makes the upstream's request; strip says that a usage chunk was asked for that the client must not see.
func (f *Forward) request(c *call.Call, buf *[]byte) (req *upstream.Request, strip bool, err error) {
	base, r := c.Route.BaseURL, c.Request
	req = &upstream.Request{
		TLS: base.Scheme == "https", Address: address(base.Host, base.Scheme == "https"), Method: r.Method,
		FirstByte: c.Route.Timeout, Idle: c.Route.IdleTimeout, Body: c.Body,
	}
	req.Target = strings.TrimRight(base.EscapedPath(), "/") + c.Path
	if q := query(c); q != "" {
		req.Target += "?" + q
	}
	*buf = appendHead((*buf)[:0], c)
	req.Head = *buf
	a := &c.Asked
	if a.Cap > 0 {
		if req.Body, err = capOutput(c, req.Body); err != nil {
			return nil, false, fmt.Errorf("capping the output: %w", err)
		}
	}
	if a.Stream && !a.IncludeUsage && a.JSON && (a.API == call.OpenAIChat || a.API == call.OpenAICompletions) {
		if req.Body, err = includeUsage(req.Body, a.StreamOptions); err != nil {
			return nil, false, fmt.Errorf("asking for the usage of a stream: %w", err)
		}
		strip = true
	}
	return req, strip, nil
}

func address(host string, secure bool) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	port := "80"
	if secure {
		port = "443"
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port)
}

// query returns the client's query without its API key.
func query(c *call.Call) string {
	q := c.Request.URL.RawQuery
	if q == "" || !strings.Contains(q, "key") && !strings.Contains(q, keyPrefix) && strings.IndexByte(q, '%') < 0 {
		return q
	}
	kept := ""
	for pair := range strings.SplitSeq(q, "&") {
		if isKey(c, pair) {
			continue
		}
		if kept != "" {
			kept += "&"
		}
		kept += pair
	}
	return kept
}

// keyPrefix begins each of our API keys.
const keyPrefix = "rg_"

// isKey reports whether a pair of the query is a client's key, or one that would stand in for the route's.
func isKey(c *call.Call, pair string) bool {
	name, value, _ := strings.Cut(pair, "=")
	if u, err := url.QueryUnescape(name); err == nil {
		name = u
	}
	if u, err := url.QueryUnescape(value); err == nil {
		value = u
	}
	return name == "key" && (c.KeyInQuery || c.Dialect == call.Gemini) || strings.HasPrefix(value, keyPrefix)
}

// appendHead writes the header block of the upstream's request.
func appendHead(b []byte, c *call.Call) []byte {
	r := c.Request
	b = field(b, "Host", c.Route.BaseURL.Host)
	named := r.Header["Connection"]
	for name, values := range r.Header {
		if dropped[name] || strings.HasPrefix(name, "X-Rateguard-") || len(named) > 0 && inConnection(named, name) {
			continue
		}
		for _, v := range values {
			b = field(b, name, v)
		}
	}
	b = field(b, "Accept-Encoding", encoding(c))
	if cred := c.Route.Credential; cred != "" {
		switch c.Route.Dialect {
		case call.Anthropic:
			b = field(b, "X-Api-Key", cred)
		case call.Gemini:
			b = field(b, "X-Goog-Api-Key", cred)
		case call.OpenAI, call.HTTP:
			b = append(b, "Authorization: Bearer "...)
			b = append(b, cred...)
			b = append(b, '\r', '\n')
		}
	}
	return forwarded(b, r)
}

func forwarded(b []byte, r *http.Request) []byte {
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		b = append(b, "X-Forwarded-For: "...)
		for _, v := range r.Header["X-Forwarded-For"] {
			b = append(b, v...)
			b = append(b, ", "...)
		}
		b = append(b, host...)
		b = append(b, '\r', '\n')
	}
	b = field(b, "X-Forwarded-Host", r.Host)
	if r.TLS != nil {
		return field(b, "X-Forwarded-Proto", "https")
	}
	return field(b, "X-Forwarded-Proto", "http")
}

func field(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, '\r', '\n')
}

func inConnection(values []string, name string) bool {
	for _, v := range values {
		for token := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(token), name) {
				return true
			}
		}
	}
	return false
}

// encoding asks for what we can read. A stream is asked for plain: its end has to be recognised before it is passed on.
func encoding(c *call.Call) string {
	if c.Asked.Stream {
		return "identity"
	}
	for _, v := range c.Request.Header["Accept-Encoding"] {
		for token := range strings.SplitSeq(v, ",") {
			name, params, _ := strings.Cut(strings.TrimSpace(token), ";")
			name, params = strings.TrimSpace(name), strings.ReplaceAll(params, " ", "")
			if (strings.EqualFold(name, "gzip") || name == "*") && params != "q=0" && params != "q=0.0" && params != "q=0.00" && params != "q=0.000" {
				return "gzip"
			}
		}
	}
	return "identity"
}

// includeUsage adds stream_options.include_usage. The rest of the body keeps its bytes.
func includeUsage(body []byte, present bool) ([]byte, error) {
	const option = `"stream_options":{"include_usage":true}`
	if !present {
		i := bytes.IndexByte(body, '{') + 1
		out := make([]byte, 0, len(body)+len(option)+1)
		out = append(out, body[:i]...)
		out = append(out, option...)
		out = append(out, ',') // the body names a model, so that it is not empty
		return append(out, body[i:]...), nil
	}
	if gjson.GetBytes(body, "stream_options").IsObject() {
		return sjson.SetBytes(body, "stream_options.include_usage", true)
	}
	return sjson.SetRawBytes(body, "stream_options", []byte(`{"include_usage":true}`))
}
