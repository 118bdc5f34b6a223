package cli

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/rateguard/rateguard/deploy/traffic"
)

// maxRate keeps a typing mistake from taking the machine down.
const maxRate = 5000

// demo drives traffic through the demo workspace.
func (a *app) demo() *cobra.Command {
	c := traffic.Config{}
	var every time.Duration
	cmd := a.command("demo", "Drive realistic traffic through the demo workspace and show what comes of it", 0, func(ctx context.Context, _ []string) error {
		if c.Rate <= 0 || c.Rate > maxRate {
			return usagef("--rps %g is not between 0 and %d", c.Rate, maxRate)
		}
		if c.Key == "" {
			var err error
			if c.Key, err = a.fromDataDir("demo-key"); err != nil {
				return err
			}
		}
		if c.Key == "" {
			return usagef("no key: set RATEGUARD_KEY, or --data-dir to where `rateguard up` runs")
		}
		t := traffic.New(c)
		done := make(chan struct{})
		go func() {
			defer close(done)
			t.Run(ctx)
		}()
		if err := a.watch(t, done, every); err != nil {
			return err
		}
		return a.report(t.Summary())
	})
	f := cmd.Flags()
	f.StringVar(&c.URL, "proxy-url", cmp.Or(a.env.Getenv("RATEGUARD_PROXY_URL"), "http://127.0.0.1:8080"), "address of the proxy (RATEGUARD_PROXY_URL)")
	c.Key = a.env.Getenv("RATEGUARD_KEY")
	f.Float64Var(&c.Rate, "rps", 20, "requests a second")
	f.DurationVar(&c.Duration, "duration", 30*time.Second, "how long; 0 means until interrupted")
	f.Uint64Var(&c.Seed, "seed", 1, "another seed sends other requests")
	f.DurationVar(&every, "every", time.Second, "how often the summary is shown")
	return cmd
}

// watch shows the summary until the traffic ends: in one place on a terminal, else line by line.
func (a *app) watch(t *traffic.Traffic, done <-chan struct{}, every time.Duration) error {
	end, out := "\n", a.env.Stderr
	if isTerminal(out) {
		end = "\x1b[K\r"
	}
	tick := time.NewTicker(max(every, 100*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-done:
			return nil
		case <-tick.C:
		}
		s := t.Summary()
		if _, err := fmt.Fprintf(out, "%6s  sent %d  ok %d  failed %d  running %d  p50 %s  p95 %s  cost %s USD%s", s.Elapsed.Round(time.Second), s.Sent, s.OK, s.Failed,
			s.Running, s.P50.Round(time.Millisecond), s.P95.Round(time.Millisecond), s.Cost, end); err != nil {
			return err
		}
	}
}

var trafficColumns = []column[traffic.Row]{
	{"call", func(r traffic.Row) string { return r.Name }},
	{"sent", func(r traffic.Row) string { return count(r.Sent) }},
	{"ok", func(r traffic.Row) string { return count(r.OK) }},
	{"refused", func(r traffic.Row) string { return count(r.Refused) }},
	{"failed", func(r traffic.Row) string { return count(r.Failed) }},
	{"p50", func(r traffic.Row) string { return r.P50.Round(time.Millisecond).String() }},
	{"p95", func(r traffic.Row) string { return r.P95.Round(time.Millisecond).String() }},
	{"cost usd of whole answers", func(r traffic.Row) string { return r.Cost.String() }},
}

// report prints the table at the end. The cost of a stream is known only to the log, so this
// is less than what `rateguard usage` shows.
func (a *app) report(s traffic.Summary) error {
	if err := show(a, s, s.Rows, trafficColumns); err != nil {
		return err
	}
	if s.Skipped > 0 {
		if _, err := fmt.Fprintf(a.env.Stderr, "%d requests were not sent because too many were running\n", s.Skipped); err != nil {
			return err
		}
	}
	if s.OK == 0 && s.Sent > 0 {
		return fmt.Errorf("none of %d requests succeeded; the last: %s", s.Sent, s.LastError)
	}
	return nil
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
