package arch

import (
	"fmt"
	"slices"
	"strings"
)

// Client is a library that only some places may use.
type Client struct {
	// Prefix of its import paths.
	Prefix string
	// Places are the folders that may import it, with the ones below them; "x!" is x alone.
	Places []string
	// TestsToo also forbids it in tests elsewhere.
	TestsToo bool
	Why      string
}

// Clients of stores and brokers and where they belong.
var Clients = []Client{
	{Prefix: "github.com/lovoo/goka", Places: []string{"processors", "tests"}, TestsToo: true, Why: "only processors fold with goka"},
	{Prefix: "github.com/IBM/sarama", Places: []string{"processors/gokakit", "processors/internal", "tests"}, Why: "only gokakit configures goka and sarama"},
	{Prefix: "github.com/jackc/pgx", Places: []string{"projections", "deploy/standalone", "tests"}, Why: "only projections own databases"},
	{Prefix: "github.com/ClickHouse/", Places: []string{"projections", "deploy/standalone", "tests"}, Why: "only projections own databases"},
	{Prefix: "database/sql", Places: []string{"projections", "deploy/standalone", "tests"}, Why: "only projections own databases"},
	{Prefix: "github.com/redis/go-redis", Places: []string{"proxy/lua", "proxy/rebuild", "proxy/internal/redistest", "projections/control", "deploy/standalone", "tests"}, Why: "on the request path only proxy/lua talks to Redis; rebuild hands its client on; control brings revocations and policies"},
	{Prefix: "github.com/spf13/cobra", Places: []string{"deploy/cli"}, Why: "roles take flags, only the operator's command line has commands"},
}

// Siblings are the edges between packages of one module that are allowed, each with its reason
// in the module's DESIGN.md or here. "x/*" stands for every package below x. What is not used is an error too.
var Siblings = map[string]string{
	"schemas/envelope schemas/gen/rateguard/v1":   "everything speaks the generated events",
	"schemas/limit schemas/gen/rateguard/v1":      "everything speaks the generated events",
	"schemas/fold schemas/gen/rateguard/v1":       "everything speaks the generated events",
	"schemas/spend schemas/gen/rateguard/v1":      "everything speaks the generated events",
	"schemas/spend schemas/fold":                  "a fold leaves notes",
	"schemas/budget schemas/gen/rateguard/v1":     "everything speaks the generated events",
	"schemas/budget schemas/money":                "a budget is an amount of money",
	"schemas/budget schemas/limit":                "budgets are leased by the modes of limits",
	"proxy/ratelimit proxy/lua":                   "limits are decided by scripts",
	"proxy/ratelimit proxy/budget":                "limits and budgets are decided by one call",
	"proxy/budget proxy/epoch":                    "nothing is taken from a lease of an epoch that was given up",
	"proxy/budget proxy/internal/demand":          "leases of budgets and of limits have one size",
	"proxy/ratelimit proxy/internal/demand":       "leases of budgets and of limits have one size",
	"proxy/budget proxy/lua":                      "budgets are reserved by the same script",
	"proxy/epoch proxy/lua":                       "where budgets stand is said by a script",
	"schemas/price schemas/gen/rateguard/v1":      "everything speaks the generated events",
	"schemas/price schemas/money":                 "a price makes money",
	"proxy/* proxy/call":                          "the state of a request is one type",
	"proxy/emit proxy/spool":                      "events of the request path leave by the spool",
	"proxy/rebuild proxy/spool":                   "closing a producer ships its tail",
	"proxy/rebuild proxy/lua":                     "closing a producer fences it in Redis",
	"processors/* processors/group":               "what a group is, is one type",
	"projections/* projections/runner":            "a projection is run by the runner",
	"projections/* projections/postgres":          "progress and rows commit in one transaction",
	"projections/* projections/clickhouse":        "tables of ClickHouse are opened in one place",
	"projections/* projections/outcome":           "ledger and balances read the same outcomes",
	"projections/* projections/problem":           "control and query answer with one kind of error",
	"projections/control projections/query":       "the admin server mounts the analytics API",
	"projections/control projections/proof":       "the admin server answers what is proved from the log",
	"deploy/cli deploy/*":                         "the command line is the top of deploy",
	"deploy/standalone deploy/mockprovider":       "the demo workspace points at the mock",
	"deploy/standalone deploy/adminclient":        "the demo is seeded through the admin API",
	"deploy/standalone/* deploy/standalone/child": "engines are children of the process",
	"deploy/standalone/* deploy/standalone/fetch": "engines are fetched when they are missing",
}

// CheckModules returns the imports between modules that are not allowed, in tests too.
func CheckModules(all []Package) []string {
	var bad []string
	for _, p := range all {
		from := module(p.Path())
		for _, i := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			rest, ours := strings.CutPrefix(i, Module)
			if to := module(rest); ours && to != from && !slices.Contains(Modules[from], to) {
				bad = append(bad, fmt.Sprintf("%s imports %s: %s may import %v", p.Path(), rest, from, Modules[from]))
			}
		}
	}
	return bad
}

// CheckClients returns the uses of clients where they do not belong.
func CheckClients(all []Package, clients []Client) []string {
	var bad []string
	for _, p := range all {
		for _, c := range clients {
			if slices.ContainsFunc(c.Places, func(place string) bool { return below(p.Path(), place) }) {
				continue
			}
			imports := p.Imports
			if c.TestsToo {
				imports = slices.Concat(p.Imports, p.TestImports, p.XTestImports)
			}
			for _, i := range imports {
				if strings.HasPrefix(i, c.Prefix) {
					bad = append(bad, fmt.Sprintf("%s imports %s: %s", p.Path(), i, c.Why))
				}
			}
		}
	}
	return bad
}

// CheckSiblings returns the edges inside modules that go neither cmd → root → leaf nor stand in
// the list, and the entries of the list that nothing needs. Packages below a leaf are its own
// business; tests may import what they test with.
func CheckSiblings(all []Package, allowed map[string]string) []string {
	var bad []string
	used := map[string]bool{}
	for _, p := range all {
		from := p.Path()
		if module(from) == "tests" {
			continue
		}
		for _, i := range p.Imports {
			to, ours := strings.CutPrefix(i, Module)
			if !ours || module(to) != module(from) || downwards(from, to) {
				continue
			}
			rule := match(from, to, allowed)
			if rule == "" {
				bad = append(bad, fmt.Sprintf("%s imports its sibling %s", from, to))
			}
			used[rule] = true
		}
	}
	for rule := range allowed {
		if !used[rule] {
			bad = append(bad, fmt.Sprintf("the allowed edge %q is not used", rule))
		}
	}
	slices.Sort(bad)
	return bad
}

// downwards reports whether an edge goes from a command to anything, from a package to one
// below it, or stays inside one leaf.
func downwards(from, to string) bool {
	m := module(from)
	switch {
	case strings.HasPrefix(from, m+"/cmd/"):
		return true
	case to == m:
		return m == "topics" // the table is the module's root, and the leaves serve it
	case below(to, from):
		return true
	}
	return leaf(from) == leaf(to) && leaf(from) != m+"/standalone"
}

func match(from, to string, allowed map[string]string) string {
	for _, f := range []string{from, parent(from) + "/*", parent(leaf(from)) + "/*", leaf(from)} {
		for _, t := range []string{to, parent(to) + "/*", leaf(to)} {
			if _, ok := allowed[f+" "+t]; ok {
				return f + " " + t
			}
		}
	}
	return ""
}

// module is the first part of a path, leaf the first two.
func module(path string) string { m, _, _ := strings.Cut(path, "/"); return m }

func leaf(path string) string {
	parts := strings.SplitN(path, "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}

func parent(path string) string { return path[:max(0, strings.LastIndex(path, "/"))] }

func below(path, folder string) bool {
	if alone, ok := strings.CutSuffix(folder, "!"); ok {
		return path == alone
	}
	return path == folder || strings.HasPrefix(path, folder+"/")
}
