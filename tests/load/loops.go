package main

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// result is what one run of a loop showed.
type result struct {
	requests int
	failed   int
	cut      int
	elapsed  time.Duration
	// sorted latencies: to the end of the answer for plain requests, to the first byte for streams.
	latencies []time.Duration
}

func (r result) rps() float64 { return float64(r.requests) / r.elapsed.Seconds() }

func (r result) quantile(q float64) time.Duration {
	if len(r.latencies) == 0 {
		return 0
	}
	return r.latencies[min(len(r.latencies)-1, int(q*float64(len(r.latencies))))]
}

// job is one load: a prepared request to an address.
type job struct {
	address string
	request []byte
	stream  bool
}

// sample keeps what one worker saw.
type sample struct {
	latencies   []time.Duration
	failed, cut int
	err         error
}

func (s *sample) add(a answer, err error, took time.Duration) {
	switch {
	case err != nil && a.status == 200:
		s.cut++
		s.err = err
	case err != nil || a.status != 200:
		s.failed++
		if s.err = err; err == nil {
			s.err = fmt.Errorf("status %d", a.status)
		}
	}
	s.latencies = append(s.latencies, took)
}

// closedLoop keeps each of the connections busy until count requests are done or the time is over.
func closedLoop(j job, connections int, duration time.Duration, count int64) (result, error) {
	var left atomic.Int64
	left.Store(count)
	stop := time.Now().Add(duration)
	return gather(connections, func(s *sample) error {
		c, err := dial(j.address)
		if err != nil {
			return err
		}
		defer func() { c.close() }()
		for time.Now().Before(stop) && left.Add(-1) >= 0 {
			start := time.Now()
			a, err := c.do(j.request)
			took := time.Since(start)
			if j.stream {
				took = a.firstByte
			}
			s.add(a, err, took)
			if err != nil {
				c.close()
				if c, err = dial(j.address); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// openLoop sends at a fixed rate whatever the answers do, and measures from the instant at
// which each request was due: a stall shows in every request that it delayed.
func openLoop(j job, connections int, rate float64, duration time.Duration) (result, error) {
	start := time.Now().Add(50 * time.Millisecond)
	total := int64(rate * duration.Seconds())
	var next atomic.Int64
	return gather(connections, func(s *sample) error {
		c, err := dial(j.address)
		if err != nil {
			return err
		}
		defer func() { c.close() }()
		for {
			i := next.Add(1) - 1
			if i >= total {
				return nil
			}
			due := start.Add(time.Duration(float64(i) / rate * float64(time.Second)))
			time.Sleep(time.Until(due))
			sent := time.Now()
			a, err := c.do(j.request)
			took := time.Since(due)
			if j.stream {
				took = sent.Sub(due) + a.firstByte
			}
			s.add(a, err, took)
			if err != nil {
				c.close()
				if c, err = dial(j.address); err != nil {
					return err
				}
			}
		}
	})
}

func gather(workers int, work func(*sample) error) (result, error) {
	samples := make([]sample, workers)
	errs := make([]error, workers)
	start := time.Now()
	var wg sync.WaitGroup
	for i := range samples {
		wg.Go(func() { errs[i] = work(&samples[i]) })
	}
	wg.Wait()
	r := result{elapsed: time.Since(start)}
	var last error
	for i, s := range samples {
		if errs[i] != nil {
			return r, errs[i]
		}
		r.failed += s.failed
		r.cut += s.cut
		r.latencies = append(r.latencies, s.latencies...)
		if s.err != nil {
			last = s.err
		}
	}
	r.requests = len(r.latencies)
	slices.Sort(r.latencies)
	if r.failed > 0 || r.cut > 0 {
		return r, fmt.Errorf("%d of %d requests failed, %d were cut; the last: %w", r.failed, r.requests, r.cut, last)
	}
	return r, nil
}
