package control

import (
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rateguard/rateguard/schemas/limit"
	"github.com/rateguard/rateguard/schemas/money"
)

// Bounds and defaults of a route.
const (
	maxBaseURL     = 2048
	maxCredential  = 8192
	maxWeights     = 200
	defaultTimeout = 300 * time.Second
	minTimeout     = time.Millisecond
	maxTimeout     = 24 * time.Hour
)

// providers are the dialects of routes.
var providers = []string{"openai", "anthropic", "gemini", "http"}

// shortcut matches the first segments that the data plane routes by itself, as /v1/… and /v1beta/….
var shortcut = regexp.MustCompile(`^v[0-9]+([a-z]+[0-9]*)?$`)

// routeSpec is the body of a PUT.
type routeSpec struct {
	route
	// credential is nil when the body has none: the old one stays.
	credential       *string
	removeCredential bool
}

func readRouteSpec(o *object, id string) routeSpec {
	s := routeSpec{route: route{ID: id, timeout: defaultTimeout, idle: defaultTimeout, Cost: cost{Mode: perToken}, Weights: map[string]int64{}}}
	switch {
	case !validID.MatchString(id):
		o.fail("route", "a route id has 1 to %d letters, digits, dots, dashes or underscores and starts with a letter or digit", maxID)
	case shortcut.MatchString(id):
		o.fail("route", "%q is a shortcut of the data plane and no route", id)
	}
	if p, ok := required(o, "provider", 20); ok {
		if !slices.Contains(providers, p) {
			o.fail("provider", "must be one of %s", strings.Join(providers, ", "))
		}
		s.Provider = p
	}
	if u, ok := required(o, "base_url", maxBaseURL); ok {
		s.BaseURL = readBaseURL(o, u)
	}
	if c, ok := o.text("credential", maxCredential); ok {
		if strings.TrimSpace(c) != c {
			o.fail("credential", "must not start or end with a blank")
		}
		s.credential = &c
	}
	s.removeCredential = o.null("credential")
	if d, ok := o.duration("timeout", minTimeout, maxTimeout); ok {
		s.timeout = d
	}
	if d, ok := o.duration("idle_timeout", minTimeout, maxTimeout); ok {
		s.idle = d
	}
	if c, ok := o.child("cost"); ok {
		s.Cost = readCost(c)
	}
	readWeights(o, s.Weights)
	return s
}

// required reads a text that must be there.
func required(o *object, name string, most int) (string, bool) {
	if !o.require(name) {
		return "", false
	}
	return o.text(name, most)
}

// readBaseURL checks a base URL and returns it without a slash at its end.
func readBaseURL(o *object, s string) string {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		o.fail("base_url", "is no URL")
	case u.Scheme != "http" && u.Scheme != "https":
		o.fail("base_url", "must start with http:// or https://")
	case u.Hostname() == "":
		o.fail("base_url", "must name a host")
	case u.User != nil:
		o.fail("base_url", "must not hold a user or password: use credential")
	case u.RawQuery != "" || u.ForceQuery:
		o.fail("base_url", "must not have a query")
	case u.Fragment != "" || strings.Contains(s, "#"):
		o.fail("base_url", "must not have a fragment")
	case strings.ContainsAny(s, " \\"):
		o.fail("base_url", "must not hold blanks or backslashes")
	case !validPort(u):
		o.fail("base_url", "must have a port from 1 to 65535 or none")
	default:
		return strings.TrimRight(s, "/")
	}
	return ""
}

func validPort(u *url.URL) bool {
	if u.Port() == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	return err == nil && n > 0
}

func readCost(o *object) cost {
	c := cost{Mode: perToken}
	if mode, ok := required(o, "mode", 20); ok {
		c.Mode = mode
	}
	var text string
	given := o.into("usd", &text, `a decimal string of USD, for example "0.002"`)
	switch c.Mode {
	case perToken:
		if o.present("usd") {
			o.fail("usd", "belongs to the mode per_request")
		}
	case perRequest:
		if _, ok := o.take("usd"); !ok {
			o.fail("usd", "is required with the mode per_request")
		}
		usd, err := money.ParseUSD(text)
		switch {
		case given && (err != nil || usd < 0):
			o.fail("usd", `must be a decimal string of USD with at most nine decimals, for example "0.002"`)
		case usd > money.MaxCall: // no store would take what such a call costs
			o.fail("usd", "must be at most %s", money.MaxCall)
		}
		c.USD = &usd
	default:
		o.fail("mode", "must be per_token or per_request")
	}
	o.unknown()
	return c
}

func readWeights(o *object, into map[string]int64) {
	var given map[string]*int64
	if !o.into("weights", &given, "an object of whole numbers") {
		return
	}
	if len(given) > maxWeights {
		o.fail("weights", "must have at most %d entries", maxWeights)
		return
	}
	for _, pattern := range slices.Sorted(maps.Keys(given)) {
		if !o.checkText("weights", pattern, maxModelPattern) {
			continue
		}
		if w := given[pattern]; w == nil || *w < 1 || *w > limit.MaxWeight {
			o.fail("weights."+pattern, "must be a whole number from 1 to %d", limit.MaxWeight)
		} else {
			into[pattern] = *w
		}
	}
}
