package forward

import (
	"net/http"
	"strings"

	"github.com/rateguard/rateguard/proxy/forward/upstream"
)

// fate is what becomes of a header of the answer.
type fate uint8

const (
	pass fate = iota
	drop
	rename
)

// fates of the headers that do not simply pass.
var fates = map[string]fate{
	"Connection": drop, "Proxy-Connection": drop, "Keep-Alive": drop, "Proxy-Authenticate": drop, "Proxy-Authorization": drop,
	"Te": drop, "Trailer": drop, "Transfer-Encoding": drop, "Upgrade": drop, "Content-Length": drop,
	// Cookies are the upstream's session with the route's credential. The others speak to whoever serves this origin, not to a client.
	"Set-Cookie": drop, "Alt-Svc": drop, "X-Accel-Redirect": drop, "X-Sendfile": drop, "X-Lighttpd-Send-File": drop,
	"X-Request-Id": rename,
}

// copyHeaders passes the answer's headers on. The upstream's own limits and request id get a name that does not
// clash with ours; nothing of it can pass for one of ours.
func copyHeaders(h http.Header, r *upstream.Response) {
	values := make([]string, len(r.Fields))
	var named []string
	for i := range r.Fields {
		if r.Fields[i].Name == "Connection" {
			named = append(named, r.Fields[i].Value)
		}
	}
	for i := range r.Fields {
		name := r.Fields[i].Name
		switch what := fates[name]; {
		case what == drop, strings.HasPrefix(name, "X-Rateguard-"), len(named) > 0 && inConnection(named, name):
			continue
		case what == rename:
			name = "X-Upstream-Request-Id"
		case isLimit(name):
			name = "X-Upstream-" + name
		}
		values[i] = r.Fields[i].Value
		if old := h[name]; old != nil {
			h[name] = append(old, values[i])
			continue
		}
		h[name] = values[i : i+1 : i+1]
	}
	if h["Content-Type"] == nil {
		h["Content-Type"] = nil // else the server would guess one
	}
}

func isLimit(name string) bool {
	switch name[0] {
	case 'X':
		return strings.HasPrefix(name, "X-Ratelimit-")
	case 'R':
		return strings.HasPrefix(name, "Ratelimit")
	case 'A':
		return strings.HasPrefix(name, "Anthropic-Ratelimit-") || strings.HasPrefix(name, "Anthropic-Priority-")
	}
	return false
}
