package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rateguard/rateguard/tests/harness"
)

// gateProvider tells a gate where it leads to.
const gateProvider = "RATEGUARD_FAULTS_GATE"

// Gate is a provider that keeps requests waiting until it is opened. It is a process of its own: thousands of requests take as many descriptors of it, and of this
// process only those that their clients need.
type Gate struct {
	*Ordered
	// URL is what routes lead to.
	URL string
}

// StartGate starts a gate in front of a provider.
func StartGate(tb testing.TB, provider string) *Gate {
	tb.Helper()
	g := &Gate{Ordered: startOrdered(tb, "gate", filepath.Join(tb.TempDir(), "gate.log"), []string{gateProvider + "=" + provider})}
	g.URL = "http://" + g.answer()
	return g
}

// Waiting is how many requests wait.
func (g *Gate) Waiting() int {
	g.tb.Helper()
	n, err := strconv.Atoi(g.order("waiting"))
	if err != nil {
		g.tb.Fatalf("asking a gate: %v", err)
	}
	return n
}

// AwaitWaiting waits until so many requests do.
func (g *Gate) AwaitWaiting(n int) {
	g.tb.Helper()
	harness.Eventually(g.tb, 30*time.Second, func() error {
		if got := g.Waiting(); got != n {
			return fmt.Errorf("%d requests wait for the provider, want %d", got, n)
		}
		return nil
	})
}

// Open lets those that wait on to the provider, and all that come later.
func (g *Gate) Open() { g.tb.Helper(); g.must("open") }

// Shut lets those wait that come later.
func (g *Gate) Shut() { g.tb.Helper(); g.must("shut") }

// waiting are the requests at a gate.
type waiting struct {
	n    atomic.Int64
	open atomic.Pointer[chan struct{}] // closed once the gate is open
	// to is the provider; transport has few connections to it, however many wait.
	to        string
	transport http.RoundTripper
}

// gate is the child.
func gate() int {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		return 1
	}
	w := &waiting{to: os.Getenv(gateProvider), transport: &http.Transport{MaxConnsPerHost: 64, MaxIdleConnsPerHost: 64}}
	w.shut()
	server := &http.Server{Handler: w, ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	_, _ = fmt.Println(l.Addr())
	obey(func(word string) string {
		switch word {
		case "waiting":
			return strconv.FormatInt(w.n.Load(), 10)
		case "open":
			close(*w.open.Load())
		case "shut":
			w.shut()
		}
		return word
	})
	if err := errors.Join(server.Close(), <-served); !errors.Is(err, http.ErrServerClosed) {
		return 1
	}
	return 0
}

func (w *waiting) shut() { open := make(chan struct{}); w.open.Store(&open) }

// ServeHTTP passes a request on once the gate is open.
func (w *waiting) ServeHTTP(to http.ResponseWriter, r *http.Request) {
	w.n.Add(1)
	defer w.n.Add(-1)
	select {
	case <-*w.open.Load():
	case <-r.Context().Done():
		return
	}
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host, out.RequestURI = "http", w.to, ""
	answer, err := w.transport.RoundTrip(out)
	if err != nil {
		http.Error(to, err.Error(), http.StatusBadGateway)
		return
	}
	defer func() { _ = answer.Body.Close() }()
	for name, values := range answer.Header {
		to.Header()[name] = values
	}
	to.WriteHeader(answer.StatusCode)
	_, _ = io.Copy(to, answer.Body)
}
