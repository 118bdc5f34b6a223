package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// figures are the medians of one target over all rounds.
type figures struct {
	Target string `json:"target"`
	// Closed loop.
	RequestsPerSecond float64 `json:"requests_per_second"`
	CPUMicroseconds   float64 `json:"cpu_us_per_request"`
	// CPURatio is the median, over the short turns, of the processor time against that of the floor in the same turn.
	CPURatio float64 `json:"cpu_ratio"`
	// Closed loop of streams.
	StreamCPUMicroseconds float64 `json:"stream_cpu_us_per_request"`
	// Open loop, from the instant a request was due.
	P50 time.Duration `json:"p50_ns"`
	P99 time.Duration `json:"p99_ns"`
	// Open loop of streams, to the first byte of the body.
	FirstByteP50 time.Duration `json:"stream_first_byte_p50_ns"`
	FirstByteP99 time.Duration `json:"stream_first_byte_p99_ns"`
	// Of Redis, in the closed loop; 0 for targets without limits. The bare script is the same script, sent by a bare client at the same rate.
	RedisCPUMicroseconds      float64 `json:"redis_cpu_us_per_request,omitempty"`
	RedisCalls                float64 `json:"redis_calls_per_request,omitempty"`
	BareScriptCPUMicroseconds float64 `json:"bare_script_redis_cpu_us,omitempty"`
	// Streams that ended without their end mark.
	StreamsCut int `json:"streams_cut"`
	Streams    int `json:"streams"`
	// Largest resident size.
	PeakMemory int64 `json:"peak_memory_bytes"`
}

func measure(ctx context.Context, s settings) error {
	dir, err := os.MkdirTemp("", "rateguard-load-")
	if err != nil {
		return fmt.Errorf("making a folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	st, err := open(ctx, dir, s.bin)
	if err != nil {
		return errors.Join(err, logs(dir))
	}
	defer st.close()
	all := make([]figures, len(st.targets))
	for i, t := range st.targets {
		all[i].Target = t.name
		if err := serves(ctx, t.job(false)); err != nil {
			return fmt.Errorf("%s: %w", t.name, errors.Join(err, logs(dir)))
		}
	}
	short, long := make(samples, len(st.targets)), make(samples, len(st.targets))
	turns := func(of samples, turn func(target, settings) (figures, error)) error {
		for i, t := range st.targets {
			if err := ctx.Err(); err != nil {
				return err
			}
			st.rest()
			_, _ = fmt.Fprintf(os.Stderr, "\r%-30s", t.name)
			f, err := turn(t, s)
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, errors.Join(err, logs(dir)))
			}
			of[i] = append(of[i], f)
		}
		return nil
	}
	var fsync disk
	for round := range s.rounds {
		_, _ = fmt.Fprintf(os.Stderr, "\r%30sround %d of %d", "", round+1, s.rounds)
		st.rest()
		if err := fsync.measure(dir); err != nil {
			return err
		}
		for range s.turns {
			if err := turns(short, target.short); err != nil {
				return err
			}
		}
		if err := turns(long, target.long); err != nil {
			return err
		}
	}
	for i, t := range st.targets {
		all[i].short(short[i], short[floorIndex])
		all[i].long(long[i])
		r, err := closedLoop(t.job(true), s.connections, time.Minute, s.streams)
		if err != nil && r.cut == 0 {
			return fmt.Errorf("%s: %w", t.name, err)
		}
		all[i].StreamsCut, all[i].Streams = r.cut, r.requests
		all[i].PeakMemory = t.process.peakMemory(t.whole)
	}
	_, _ = fmt.Fprintf(os.Stderr, "\r%50s\r", "")
	return report(s, all, &fsync)
}

func (t target) job(stream bool) job {
	body := completed
	if stream {
		body = streamed
	}
	return job{address: t.address, request: prepare(t.address, "/v1/chat/completions", t.key, body), stream: stream}
}

// samples are the figures of each target's turns, in their order.
type samples [][]figures

// short loads one target in a closed loop, after a warm-up, and notes the processor time. The turn is short because the machine's speed drifts within seconds.
func (t target) short(s settings) (f figures, err error) {
	length := s.duration / time.Duration(s.turns)
	if _, err := closedLoop(t.job(false), s.connections, length/4, 1<<40); err != nil {
		return f, fmt.Errorf("warming up: %w", err)
	}
	redis, err := t.store.read()
	if err != nil {
		return f, err
	}
	used := t.process.cpu(t.whole)
	r, err := closedLoop(t.job(false), s.connections, length, 1<<40)
	if err != nil {
		return f, fmt.Errorf("closed loop: %w", err)
	}
	f.RequestsPerSecond, f.CPUMicroseconds = r.rps(), perRequest(t.process.cpu(t.whole)-used, r)
	return f, t.store.compare(&f, redis, r, s.connections, length/2)
}

// long loads one target with streams in a closed loop, and in the open loops, whose p99 needs its time.
func (t target) long(s settings) (f figures, err error) {
	used := t.process.cpu(t.whole)
	r, err := closedLoop(t.job(true), s.connections, s.duration/2, 1<<40)
	if err != nil && r.cut == 0 {
		return f, fmt.Errorf("closed loop of streams: %w", err)
	}
	f.StreamCPUMicroseconds = perRequest(t.process.cpu(t.whole)-used, r)
	if r, err = openLoop(t.job(false), 2*s.connections, s.rate, s.duration); err != nil {
		return f, fmt.Errorf("open loop: %w", err)
	}
	f.P50, f.P99 = r.quantile(0.5), r.quantile(0.99)
	if r, err = openLoop(t.job(true), s.connections, s.streamRate, s.duration); err != nil && r.cut == 0 {
		return f, fmt.Errorf("open loop of streams: %w", err)
	}
	f.FirstByteP50, f.FirstByteP99 = r.quantile(0.5), r.quantile(0.99)
	return f, nil
}

func perRequest(cpu time.Duration, r result) float64 {
	return float64(cpu.Microseconds()) / float64(max(1, r.requests))
}

// short takes the medians of the short turns; floor are those of the floor.
func (f *figures) short(all, floor []figures) {
	f.RequestsPerSecond = median(all, func(f figures) float64 { return f.RequestsPerSecond })
	f.CPUMicroseconds = median(all, func(f figures) float64 { return f.CPUMicroseconds })
	f.RedisCPUMicroseconds = median(all, func(f figures) float64 { return f.RedisCPUMicroseconds })
	f.RedisCalls = median(all, func(f figures) float64 { return f.RedisCalls })
	f.BareScriptCPUMicroseconds = median(all, func(f figures) float64 { return f.BareScriptCPUMicroseconds })
	paired := make([]figures, len(all))
	for i := range all {
		paired[i].CPURatio = all[i].CPUMicroseconds / floor[i].CPUMicroseconds
	}
	f.CPURatio = median(paired, func(f figures) float64 { return f.CPURatio })
}

// long takes the medians of the long turns.
func (f *figures) long(all []figures) {
	f.StreamCPUMicroseconds = median(all, func(f figures) float64 { return f.StreamCPUMicroseconds })
	f.P50 = median(all, func(f figures) time.Duration { return f.P50 })
	f.P99 = median(all, func(f figures) time.Duration { return f.P99 })
	f.FirstByteP50 = median(all, func(f figures) time.Duration { return f.FirstByteP50 })
	f.FirstByteP99 = median(all, func(f figures) time.Duration { return f.FirstByteP99 })
}

func median[T float64 | time.Duration](all []figures, of func(figures) T) T {
	values := make([]T, len(all))
	for i, f := range all {
		values[i] = of(f)
	}
	slices.Sort(values)
	return values[len(values)/2]
}
