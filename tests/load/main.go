// Command load measures the proxy: latency in an open loop and throughput in a closed one,
// against the library's bare reverse proxy and the mock provider alone, in turns within one
// run, so that a machine whose speed drifts moves all of them together. It prints a table
// and writes the same figures as JSON.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/rateguard/rateguard/deploy/mockprovider"
	"github.com/rateguard/rateguard/deploy/standalone/child"
)

// settings of a run.
type settings struct {
	bin         string
	out         string
	duration    time.Duration
	rounds      int
	turns       int
	connections int
	rate        float64
	streamRate  float64
	streams     int64
	soak        time.Duration
}

func main() {
	child.Main()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	cancel()
	if err != nil && !errors.Is(err, context.Canceled) {
		_, _ = fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case "upstream":
			return upstream(ctx, os.Args[2])
		case "floor":
			return floor(ctx, os.Args[2], os.Args[3])
		}
	}
	var s settings
	flag.StringVar(&s.bin, "bin", "bin", "folder of the built programs")
	flag.StringVar(&s.out, "out", "", "JSON file of the figures; empty: none")
	flag.DurationVar(&s.duration, "duration", 4*time.Second, "length of one loop on one target")
	flag.IntVar(&s.rounds, "rounds", 5, "how often each target has its turn; the medians are reported")
	flag.IntVar(&s.turns, "turns", 8, "short turns of a target in a round, which share the length of a loop; the processor time is that of the closed loop in them")
	flag.IntVar(&s.connections, "connections", 32, "connections of the closed loop")
	flag.Float64Var(&s.rate, "rate", 1000, "requests a second of the open loop")
	flag.Float64Var(&s.streamRate, "stream-rate", 200, "streams a second of the open loop")
	flag.Int64Var(&s.streams, "streams", 5000, "streams of an instant upstream that none may cut")
	flag.DurationVar(&s.soak, "soak", 0, "instead of all that, watch the proxy role's memory for so long")
	flag.Parse()
	if s.soak > 0 {
		return soak(ctx, s)
	}
	return measure(ctx, s)
}

func upstream(ctx context.Context, address string) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	return mockprovider.New(mockprovider.Config{Keep: 1}).Serve(ctx, l)
}
