package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// defaultDatabase is the one of a session that named none.
const defaultDatabase = "default"

// errClosed says that the engine is going down.
var errClosed = errors.New("the engine is stopping")

// pool hands sessions to requests. Settings and the database belong to a session, so whoever
// takes one gets it with exactly the settings that it names.
type pool struct {
	engine *engine
	args   []string
	// base are the settings that hold where a request does not name them.
	base map[string]string
	// keeper is never handed out: closing the last session would stop the engine.
	keeper *session
	// slots bounds the sessions; a request waits for a free one.
	slots chan struct{}

	mu     sync.Mutex // guards what follows
	idle   []*pooled
	closed bool
}

// pooled is a session and the settings that were made on it.
type pooled struct {
	*session
	settings map[string]string
	database string
	spoiled  bool
}

func newPool(e *engine, args []string, base map[string]string, size int) (*pool, error) {
	keeper, err := e.connect(args)
	if err != nil {
		return nil, err
	}
	return &pool{engine: e, args: args, base: base, keeper: keeper, slots: make(chan struct{}, size)}, nil
}

// take returns a session with the settings and the database.
func (p *pool) take(ctx context.Context, settings map[string]string, database string) (*pooled, error) {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for a session: %w", ctx.Err())
	}
	s, err := p.pick(settings, database)
	if err != nil {
		<-p.slots
		return nil, err
	}
	if err := s.prepare(p.base, settings, database); err != nil {
		s.spoiled = true
		p.give(s)
		return nil, err
	}
	return s, nil
}

// pick prefers an idle session that needs no change.
func (p *pool) pick(settings map[string]string, database string) (*pooled, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed
	}
	if n := len(p.idle); n > 0 {
		i := slices.IndexFunc(p.idle, func(s *pooled) bool { return s.database == database && maps.Equal(s.settings, settings) })
		if i < 0 {
			i = n - 1
		}
		s := p.idle[i]
		p.idle = slices.Delete(p.idle, i, i+1)
		return s, nil
	}
	s, err := p.engine.connect(p.args)
	if err != nil {
		return nil, err
	}
	return &pooled{session: s, settings: map[string]string{}, database: ""}, nil
}

// give returns a session; a spoiled one is closed.
func (p *pool) give(s *pooled) {
	p.mu.Lock()
	keep := !s.spoiled && !p.closed
	if keep {
		p.idle = append(p.idle, s)
	}
	p.mu.Unlock()
	if !keep {
		s.close()
	}
	<-p.slots
}

// close waits for the running statements and stops the engine.
func (p *pool) close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, s := range idle {
		s.close()
	}
	for range cap(p.slots) {
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return fmt.Errorf("waiting for running statements: %w", ctx.Err())
		}
	}
	p.keeper.close()
	return nil
}

// prepare changes what differs, in one statement.
func (s *pooled) prepare(base, settings map[string]string, database string) error {
	var changes []string
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		if have, ok := s.settings[name]; !ok || have != settings[name] {
			changes = append(changes, quoteName(name)+" = "+quote(settings[name]))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.settings)) {
		if _, ok := settings[name]; ok {
			continue
		}
		if v, ok := base[name]; ok {
			changes = append(changes, quoteName(name)+" = "+quote(v))
		} else {
			changes = append(changes, quoteName(name)+" = DEFAULT")
		}
	}
	if s.settings == nil || s.database == "" {
		// A fresh session: the base has not been set yet.
		for _, name := range slices.Sorted(maps.Keys(base)) {
			if _, ok := settings[name]; !ok {
				changes = append(changes, quoteName(name)+" = "+quote(base[name]))
			}
		}
	}
	if len(changes) > 0 {
		if _, err := s.run("SET "+strings.Join(changes, ", "), "Null", nil, nil); err != nil {
			return err
		}
	}
	if s.database != database {
		if _, err := s.run("USE "+quoteName(database), "Null", nil, nil); err != nil {
			return err
		}
	}
	s.settings, s.database = settings, database
	return nil
}

var (
	valueEscapes = strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	nameEscapes  = strings.NewReplacer(`\`, `\\`, "`", "\\`")
)

func quote(s string) string { return "'" + valueEscapes.Replace(s) + "'" }

func quoteName(s string) string { return "`" + nameEscapes.Replace(s) + "`" }
