package standalone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// Up is `rateguard up`: it starts everything, prints where it is and how to try it, and runs
// until ctx ends. It prints in this order: the URLs, the demo key, a curl that works, how long it took, and `ready` alone on
// its line.
func Up(ctx context.Context, cfg Config, log *slog.Logger, out io.Writer) error {
	begin := time.Now()
	printer := &printer{w: out}
	if cfg.Providers == (Providers{}) {
		cfg.Providers = ProvidersFromEnv()
	}
	s, err := Start(ctx, cfg, log, printer.progress)
	if err != nil {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // told to stop while starting
		}
		return err
	}
	printer.say("%s", s.banner())
	printer.say("started in %s\nready", time.Since(begin).Round(10*time.Millisecond))
	err = s.Run(ctx)
	if err == nil {
		printer.say("stopped")
	}
	return errors.Join(err, printer.err)
}

// banner is what a newcomer needs.
func (s *System) banner() string {
	var b strings.Builder
	line := func(name, value string) { fmt.Fprintf(&b, "%-12s %s\n", name, value) }
	line("proxy", s.ProxyURL())
	line("admin API", s.AdminURL()+"/v1   (token: "+s.tokenPlace()+")")
	line("ops", s.OpsURL()+"/readyz   "+s.OpsURL()+"/metrics")
	if s.MockURL() != "" {
		line("mock", s.MockURL())
	}
	if e := s.Embedded(); len(e) > 0 {
		line("stores", "embedded "+strings.Join(e, ", ")+" in "+s.cfg.DataDir)
	}
	if s.demo.Key == "" {
		return b.String()
	}
	fmt.Fprintln(&b)
	line("demo key", s.demo.Key)
	fmt.Fprintf(&b, `
curl %s/v1/chat/completions \
  -H 'Authorization: Bearer %s' -H 'Content-Type: application/json' \
  -d '{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Say hello."}]}'
`, s.ProxyURL(), s.demo.Key)
	return b.String()
}

// tokenPlace says where the admin token is, never what it is.
func (s *System) tokenPlace() string {
	if s.ownToken {
		return s.cfg.path("admin-token")
	}
	return "RATEGUARD_ADMIN_TOKEN"
}

// printer writes whole lines from several goroutines.
type printer struct {
	mu  sync.Mutex // guards what follows
	w   io.Writer
	err error
}

func (p *printer) progress(line string) { p.say("… %s", line) }

func (p *printer) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := fmt.Fprintf(p.w, format+"\n", args...); err != nil && p.err == nil {
		p.err = fmt.Errorf("printing: %w", err)
	}
}
