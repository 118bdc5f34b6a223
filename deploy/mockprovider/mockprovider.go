// Package mockprovider is an LLM provider that costs nothing: it answers as OpenAI, Anthropic,
// Gemini or any HTTP API would, with latency, streaming, usage, limit headers and failures,
// and remembers exactly what it served. The demo workspace points at it, and tests use its
// memory as the oracle of what a provider would bill. It is separate from every role because
// it stands for the other side: it imports nothing of the product.
package mockprovider

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config says how the provider behaves.
type Config struct {
	// Credential that requests must carry in their dialect's header; empty: any credential
	// is taken, but there must be one.
	Credential string
	// Seed changes the answers; the same seed and request give the same answer and usage.
	Seed uint64
	// Pace of the answers; the zero value answers at once.
	Pace Pace
	// Keep is how many served requests are remembered: 0 means DefaultKeep, -1 all.
	Keep int
	// Journal also writes them to a file, so that they outlive the process; may be nil.
	Journal *Journal
	// Log gets failures of the journal; may be nil.
	Log *slog.Logger
}

// DefaultKeep is how many served requests are remembered unless Config says otherwise.
const DefaultKeep = 10_000

// maxBody is the largest request body that is read.
const maxBody = 128 << 20

// Provider is the mock provider.
type Provider struct {
	config Config
	log    *slog.Logger
	ledger *ledger
	calls  atomic.Uint64
	minute minute
	// stop is closed when the server shuts down, so that hanging answers end.
	stop     chan struct{}
	stopOnce sync.Once
}

var _ http.Handler = (*Provider)(nil)

// New returns a provider that is ready to serve.
func New(c Config) *Provider {
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if c.Keep == 0 {
		c.Keep = DefaultKeep
	}
	return &Provider{config: c, log: log, ledger: newLedger(c.Keep, c.Journal, log), stop: make(chan struct{})}
}

// Serve answers on the listener until ctx ends, then lets running answers finish for at most five seconds.
func (p *Provider) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)}
	stopped := make(chan error, 1)
	go func() { stopped <- server.Serve(l) }()
	select {
	case err := <-stopped:
		return fmt.Errorf("serving the mock provider: %w", err)
	case <-ctx.Done():
	}
	p.stopOnce.Do(func() { close(p.stop) })
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := server.Shutdown(closing)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	if served := <-stopped; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// Served returns what was served so far, oldest first; a running request is in it with Finished false.
func (p *Provider) Served() []Record { return p.ledger.all() }

// ServeHTTP answers one request.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if rest, ok := strings.CutPrefix(r.URL.Path, "/__mock/"); ok {
		p.serveControl(w, r, rest)
		return
	}
	// Without it the server closes the request body at the first flush, and a stream that is
	// answered at once is cut now and then.
	_ = http.NewResponseController(w).EnableFullDuplex()
	c, err := p.newCall(w, r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	// Deferred, because an answer that is cut on purpose leaves by a panic of net/http's own.
	defer func() { p.ledger.end(c.record) }()
	c.serve()
}

// dialects by the prefix that forces one; without a prefix the path decides.
var prefixes = map[string]dialect{"/openai": openAI, "/anthropic": anthropic, "/gemini": gemini, "/http": generic}

// route splits a path into its dialect and the provider's own path.
func route(path string) (dialect, string) {
	for prefix, d := range prefixes {
		if rest, ok := strings.CutPrefix(path, prefix); ok && strings.HasPrefix(rest, "/") {
			return d, rest
		}
	}
	switch {
	case strings.HasPrefix(path, "/v1/messages"):
		return anthropic, path
	case strings.HasPrefix(path, "/v1beta/"), strings.HasPrefix(path, "/v1/models/") && strings.Contains(path, ":"):
		return gemini, path
	case strings.HasPrefix(path, "/v1/"):
		return openAI, path
	default:
		return generic, path
	}
}
