package chaos_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/rateguard/rateguard/deploy/standalone/kafka"
	"github.com/rateguard/rateguard/tests/harness"
)

// brokerDir is set for a child of this program that is a broker: a process of its own can be stopped.
const brokerDir = "RATEGUARD_CHAOS_BROKER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(brokerDir); dir != "" {
		os.Exit(broker(dir))
	}
	harness.Main(m)
}

func broker(dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s, err := kafka.Start(ctx, kafka.Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_, _ = fmt.Println(s.Brokers())
	<-ctx.Done()
	if err := s.Close(); err != nil {
		return 1
	}
	return 0
}
