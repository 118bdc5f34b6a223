package schedules_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rateguard/rateguard/tests/harness"
)

// tagged returns the request with as many and as long tags as events keep: 16 of 256 bytes.
func (r request) tagged() request {
	var tags []string
	for i := range 16 {
		tags = append(tags, fmt.Sprintf("t%d=%s", i, strings.Repeat("x", 256)))
	}
	r.tags = strings.Join(tags, ",")
	return r
}

// Schedule (q): the broker refuses openings that are too large for it. What they hold stands in the log all the same, without what their clients said about themselves: through the loss of Redis while one
// is open, and after its end.
func TestOpeningsThatAreTooLargeForTheBrokerHold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.proxy()
	g := w.gate()
	w.setBudget(8)
	w.serve(p.URL, 1, call)
	w.broker.Refuse("reservation_opened", 2000)
	w.serve(p.URL, 2, call.tagged())
	open := w.send(p.URL, gated.tagged())
	g.AwaitWaiting(1)
	w.serve(p.URL, 1, call)
	w.awaitOpened(len(w.system.Mock.Served()) + 1)
	if w.broker.Refused() == 0 {
		t.Error("the broker has refused nothing")
	}
	w.redis.Wipe()
	w.fillUntil(http.StatusTooManyRequests)
	g.Open()
	open.want(http.StatusOK)
	w.fill()
	w.redis.Wipe()
	w.fill()
	w.check(books{full: true})
}

// Schedule (q): the broker refuses an end for good. Its number is named as skipped, and the rest goes on. The request stays open, through the loss of Redis, until its process has ended; who closes that ends it,
// and knows what it cost.
func TestAnEndIsRefusedForGood(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.proxy()
	g := w.gate()
	w.setBudget(6)
	open := w.send(p.URL, gated)
	g.AwaitWaiting(1)
	w.broker.Refuse("cost_settled", 0)
	g.Open()
	open.want(http.StatusOK)
	w.awaitQuarantined(p, "cost_settled")
	w.broker.Take()
	w.serve(p.URL, 2, call)
	w.redis.Wipe()
	w.fillUntil(http.StatusTooManyRequests)
	p.Kill()
	p.Start()
	p.AwaitReady()
	w.awaitClosed(p)
	w.fill()
	w.check(books{full: true})
}

// awaitQuarantined waits until the proxy has put a record of a type aside.
func (w *world) awaitQuarantined(p *proxy, kind string) {
	w.t.Helper()
	header := `"rg-type":"` + base64.StdEncoding.EncodeToString([]byte(kind)) + `"`
	harness.Eventually(w.t, 20*time.Second, func() error {
		text, err := os.ReadFile(filepath.Join(p.Dir, "spool", "quarantine.jsonl"))
		if err == nil && !strings.Contains(string(text), header) {
			err = errors.New("it has no such record")
		}
		return err
	})
}
