package ratelimit

import (
	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/lua"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/schemas/limit"
	"github.com/rateguard/rateguard/schemas/price"
)

// rule is one limit of a workspace, prepared for its requests.
type rule struct {
	id, scope, unit string
	// leased: units are held before they are needed, see Leases.
	tokens, closed, leased bool
	// one says that the limit has a single bucket, whoever calls.
	one   bool
	where call.Scope
	// most is the largest amount that can ever fit.
	most   int64
	script lua.Limit
	policy *rateguardv1.Limit
	// buckets are those of its subjects, and bucket is the single one's key.
	buckets keyspace.LimitBuckets
	bucket  string
	// quota is the limit's item of RateLimit-Policy.
	quota string
}

// rules are the limits of a workspace at one version of its policy.
type rules struct {
	workspace *call.Workspace
	list      []rule
	weights   map[string]weights
}

// newRules prepares the limits of a policy. What is not valid is left out and reported: control refuses it, so that another program wrote it.
func newRules(w *call.Workspace) (*rules, []string) {
	out := &rules{workspace: w, weights: map[string]weights{}}
	var bad []string
	for _, l := range w.Document.GetLimits() {
		l = limit.WithDefaults(l)
		if problems := limit.Check(l); len(problems) > 0 {
			bad = append(bad, l.GetId()+": "+problems[0].Field+" "+problems[0].Message)
			continue
		}
		out.list = append(out.list, newRule(w.ID, l))
	}
	for _, r := range w.Document.GetRoutes() {
		if len(r.GetWeights()) > 0 {
			out.weights[r.GetId()] = newWeights(r.GetWeights())
		}
	}
	return out, bad
}

func newRule(workspace string, l *rateguardv1.Limit) rule {
	r := rule{
		id: l.GetId(), scope: l.GetScope(), unit: l.GetUnit(), tokens: l.GetUnit() == limit.UnitTokens,
		closed: l.GetOnStoreFailure() == limit.FailClosed, policy: l, most: l.GetLimit(),
		leased: l.GetMode() == limit.ModeLeased, where: call.NewScope(l.GetScope(), l.GetMatch()),
	}
	var scale limit.Scale
	switch l.GetAlgorithm() {
	case limit.TokenBucket, limit.LeakyBucket:
		scale, _ = limit.NewScale(l.GetLimit(), l.GetWindowUs(), l.GetBurst()) // Check has tried it
		r.most = l.GetBurst()
		if l.GetAlgorithm() == limit.LeakyBucket {
			r.most = limit.MaxWeight // its burst is a queue: one that is empty takes any request
		}
	}
	r.script = lua.NewLimit(l, scale)
	r.quota, r.buckets = quota(l), keyspace.Buckets(workspace, r.id)
	if r.one = r.where.One(); r.one {
		r.bucket = r.buckets.Of("")
	}
	return r
}

// weights give a request of a model a cost above one.
type weights struct {
	patterns []call.Patterns
	values   []int64
}

// newWeights orders patterns so that the most telling comes first: without a wildcard, then the longest.
func newWeights(all map[string]int64) weights {
	var w weights
	for _, p := range sortedPatterns(all) {
		w.patterns = append(w.patterns, call.Patterns{p})
		w.values = append(w.values, all[p])
	}
	return w
}

func (w weights) of(model string) int64 {
	for i, p := range w.patterns {
		if p.Match(model) {
			return w.values[i]
		}
	}
	return 1
}

// amount returns what the call takes from the limit; declared says that the request itself named all of it, so that one
// that is too large can never be admitted.
func (r *rules) amount(l *rule, c *call.Call) (n int64, declared bool) {
	if !l.tokens {
		return r.weights[c.RouteID].of(c.Asked.Model), true
	}
	if c.Asked.API == call.Free {
		return 0, true
	}
	answers := c.Asked.API != call.OpenAIEmbeddings && c.Asked.API != call.GeminiEmbed
	bound, known := price.TokenBound(c.Quote.Price, c.Asked.Declared, answers)
	declared = !c.Asked.Declared.HiddenInput && (!answers || c.Asked.Declared.MaxOutputTokens > 0)
	if !known || bound > l.most && !declared {
		return l.most, false
	}
	return bound, declared
}
