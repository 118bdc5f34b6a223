package real_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/tests/harness"
	"github.com/rateguard/rateguard/tests/oracle"
)

// block is an example of the README.
type block struct{ name, language, code string }

var marked = regexp.MustCompile("(?ms)^(?:<!-- test: ([a-z-]+) -->\n)?```(sh|python)\n(.*?)^```$")

// blocks returns the README's examples in order; one that is not marked would never be run.
func blocks(t *testing.T) []block {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var all []block
	for _, m := range marked.FindAllStringSubmatch(string(text), -1) {
		if m[1] == "" {
			t.Errorf("an example of the README has no mark:\n%s", m[3])
		}
		all = append(all, block{name: m[1], language: m[2], code: m[3]})
	}
	return all
}

// calls says which model each example calls, once.
var calls = map[string]string{
	"curl": "gpt-4o-mini", "openai-chat": "gpt-4o-mini", "openai-stream": "gpt-4o-mini",
	"anthropic-message": "claude-haiku-4-5", "anthropic-stream": "claude-haiku-4-5",
}

// TestREADME does what it says, in its order and as it stands, and then looks for what it promises.
func TestREADME(t *testing.T) {
	python := python(t)
	n := startAsNewcomer(t, python)
	called := map[string]int64{}
	if out := n.sh("the printed curl", n.printedCurl()); !strings.Contains(out, `"usage"`) {
		t.Errorf("the printed curl answers %s", out)
	}
	called["gpt-4o-mini"]++

	out := map[string]string{}
	for _, b := range blocks(t) {
		switch {
		case b.name == "make":
			n.targets(b.code)
		case b.language == "python":
			out[b.name] = n.python(b)
		default:
			if b.name == "cli" {
				n.awaitUsage(called)
			}
			out[b.name] = n.sh(b.name, b.code)
		}
		if model := calls[b.name]; model != "" {
			called[model]++
		}
	}
	for name := range calls {
		if out[name] == "" {
			t.Errorf("the README has no example %s, or it prints nothing", name)
		}
	}
	for _, name := range []string{"cli", "usage-api"} {
		for model := range called {
			if !strings.Contains(out[name], model) {
				t.Errorf("example %s does not show %s:\n%s", name, model, out[name])
			}
		}
	}
	if !strings.HasPrefix(out["explain"], "Admitted") {
		t.Errorf("example explain says of a request that was served:\n%s", out["explain"])
	}
	n.checkCosts(called)
	n.checkOwnRoute()
	n.stop()
}

// awaitUsage waits until the command line and the API show what was called.
func (n *newcomer) awaitUsage(called map[string]int64) {
	n.t.Helper()
	harness.Eventually(n.t, harness.VisibleWithin, func() error {
		got, err := n.admin().Usage(n.t.Context(), n.workspace(), adminclient.UsageQuery{GroupBy: []string{"model"}})
		if err != nil {
			return err
		}
		return sameCalls(got, called)
	})
	var shown adminclient.Usage
	if err := json.Unmarshal([]byte(n.sh("usage", "bin/rateguard usage -o json")), &shown); err != nil {
		n.t.Fatalf("reading what rateguard usage prints: %v", err)
	}
	if err := sameCalls(shown, called); err != nil {
		n.t.Errorf("rateguard usage: %v", err)
	}
}

func sameCalls(u adminclient.Usage, want map[string]int64) error {
	got := map[string]int64{}
	for _, r := range u.Data {
		got[r.Model] = r.Requests
	}
	if !maps.Equal(got, want) {
		return fmt.Errorf("got %v requests, want %v", got, want)
	}
	return nil
}

// checkCosts compares each model's cost with the oracle's of its requests.
func (n *newcomer) checkCosts(called map[string]int64) {
	n.t.Helper()
	want := map[string]int64{}
	for r, err := range n.admin().Requests(n.t.Context(), n.workspace(), adminclient.Period{}, nil) {
		if err != nil {
			n.t.Fatalf("listing requests: %v", err)
		}
		nano, err := oracle.Nano(r.Model, oracle.Tokens{Input: r.InputTokens, CacheRead: r.CachedTokens, CacheWrite: r.CacheWriteTokens, Output: r.OutputTokens})
		if err != nil {
			n.t.Error(err)
		}
		if r.Estimated || r.OutputTokens == 0 {
			n.t.Errorf("request %s of %s: %d tokens put out, estimated %t", r.ID, r.Model, r.OutputTokens, r.Estimated)
		}
		want[r.Model] += nano
	}
	u, err := n.admin().Usage(n.t.Context(), n.workspace(), adminclient.UsageQuery{GroupBy: []string{"model"}})
	if err != nil {
		n.t.Fatal(err)
	}
	for _, r := range u.Data {
		if got := harness.Nano(n.t, &r.CostUSD); got != want[r.Model] || got == 0 {
			n.t.Errorf("%s cost %d nano-USD, want %d", r.Model, got, want[r.Model])
		}
	}
	if models := slices.Sorted(maps.Keys(want)); !slices.Equal(models, slices.Sorted(maps.Keys(called))) {
		n.t.Errorf("models %v were called, want those of %v", models, called)
	}
}

// checkOwnRoute calls the route that the README adds, at the price that it sets.
func (n *newcomer) checkOwnRoute() {
	n.t.Helper()
	var id string
	harness.Eventually(n.t, harness.InForceWithin, func() error {
		r, err := http.NewRequestWithContext(n.t.Context(), http.MethodPost, "http://"+n.address("127.0.0.1:8080")+"/echo/anything", strings.NewReader("{}"))
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+n.file("demo-key"))
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		id = response.Header.Get("X-Request-Id")
		if response.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %s", response.Status)
		}
		_ = response.Body.Close()
		return err
	})
	var row adminclient.Request
	harness.Eventually(n.t, harness.VisibleWithin+time.Second, func() (err error) {
		row, err = n.admin().Request(n.t.Context(), n.workspace(), id)
		return err
	})
	if got := harness.Nano(n.t, row.CostUSD); got != harness.HTTPCostNano {
		n.t.Errorf("a request of the route cost %d nano-USD, want %d", got, harness.HTTPCostNano)
	}
}
