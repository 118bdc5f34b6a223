package redis

import (
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// tick is how often the stand-in's clock moves.
const tick = time.Second

// standIn is the in-process server. Its keys expire only when its clock is moved by hand.
type standIn struct {
	server *miniredis.Miniredis
	stop   chan struct{}
	done   chan struct{}
}

func startStandIn(log *slog.Logger) (*Server, error) {
	m := miniredis.NewMiniRedis()
	if err := m.StartAddr("127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("starting the in-process Redis: %w", err)
	}
	_, port, err := net.SplitHostPort(m.Addr())
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("reading its address: %w", err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("reading its port: %w", err)
	}
	log.Warn("no Redis installed: using an in-process stand-in that keeps nothing over a restart")
	s := &standIn{server: m, stop: make(chan struct{}), done: make(chan struct{})}
	go s.run()
	return &Server{standIn: s, port: n}, nil
}

func (s *standIn) run() {
	defer close(s.done)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-s.stop:
			return
		case now := <-ticker.C:
			s.server.FastForward(now.Sub(last))
			last = now
		}
	}
}

func (s *standIn) close() {
	close(s.stop)
	<-s.done
	s.server.Close()
}
