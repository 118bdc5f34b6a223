package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// floorIndex is the place of the bare reverse proxy among the targets.
const floorIndex = 1

func report(s settings, all []figures, fsync *disk) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "target\trps\tCPU µs\t× floor\tstream CPU µs\t× floor\tp50\tp99\tadded\tSSE first byte p50\tp99\tstreams cut\tpeak MB\t")
	for _, f := range all {
		_, _ = fmt.Fprintf(w, "%s\t%.0f\t%.1f\t%.2f\t%.1f\t%.2f\t%s\t%s\t%s\t%s\t%s\t%d of %d\t%d\t\n", f.Target, f.RequestsPerSecond,
			f.CPUMicroseconds, f.CPURatio,
			f.StreamCPUMicroseconds, f.StreamCPUMicroseconds/all[floorIndex].StreamCPUMicroseconds,
			short(f.P50), short(f.P99), short(f.P99-all[floorIndex].P99), short(f.FirstByteP50), short(f.FirstByteP99), f.StreamsCut, f.Streams, f.PeakMemory>>20)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("printing the table: %w", err)
	}
	limited := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(limited, "\ntarget\tRedis calls a request\tRedis CPU µs a request\tthe bare script\tratio\t")
	for _, f := range all {
		if f.RedisCalls > 0 {
			_, _ = fmt.Fprintf(limited, "%s\t%.4f\t%.2f\t%.2f\t%.2f\t\n", f.Target, f.RedisCalls, f.RedisCPUMicroseconds,
				f.BareScriptCPUMicroseconds, f.RedisCPUMicroseconds/f.BareScriptCPUMicroseconds)
		}
	}
	if err := limited.Flush(); err != nil {
		return fmt.Errorf("printing the table: %w", err)
	}
	_, _ = fmt.Printf("\nmedians of %d rounds, targets in turns; closed loop with %d connections for %s, in %d short turns, CPU × floor the median of their ratios; open loop at %.0f requests/s and %.0f streams/s,\nmeasured from the instant a request was due; %s, %d processors. The floor is the bare ReverseProxy.\n",
		s.rounds, s.connections, s.duration, s.turns, s.rate, s.streamRate, runtime.Version(), runtime.NumCPU())
	_, _ = fmt.Printf("added is a p99 less that of the floor; an fsync of %d bytes on the same disk took p50 %s, p99 %s.\n",
		syncBytes, short(fsync.quantile(0.5)), short(fsync.quantile(0.99)))
	if s.out == "" {
		return nil
	}
	b, err := json.MarshalIndent(map[string]any{
		"targets": all, "fsync_p50_ns": fsync.quantile(0.5), "fsync_p99_ns": fsync.quantile(0.99),
		"time": time.Now().UTC(), "build": fingerprint(filepath.Join(s.bin, "rateguard-proxy")),
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the figures: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(s.out), 0o750); err != nil {
		return fmt.Errorf("making the folder of the figures: %w", err)
	}
	if err := os.WriteFile(s.out, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("writing the figures: %w", err)
	}
	return nil
}

func short(d time.Duration) string { return d.Round(10 * time.Microsecond).String() }

// logs returns the ends of the children's outputs: what one needs to see when a target fails.
func logs(dir string) error {
	var errs []error
	files, _ := filepath.Glob(filepath.Join(dir, "*.out"))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		if text := strings.TrimSpace(string(b[max(0, len(b)-2000):])); text != "" {
			errs = append(errs, fmt.Errorf("--- %s\n%s", filepath.Base(f), text))
		}
	}
	return errors.Join(errs...)
}
