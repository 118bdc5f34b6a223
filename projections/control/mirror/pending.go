package mirror

import (
	"sync"
	"time"
)

// maxPending bounds what waits for Redis, in policies and keys. Above it all is dropped and read again from the source.
const maxPending = 10_000

// pending is what Redis has not acknowledged yet.
type pending struct {
	mu       sync.Mutex // guards what follows
	policies map[string]Policy
	revoked  map[Revoked]bool
	// overflown: something was dropped, so that everything has to be written.
	overflown bool
	// since is when the oldest of it came; zero: nothing waits.
	since time.Time
}

// batch is what one pass writes.
type batch struct {
	Contents
	since time.Time
}

func (p *pending) add(c Contents, now time.Time) {
	if len(c.Policies)+len(c.Revoked) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.policies == nil {
		p.policies, p.revoked = map[string]Policy{}, map[Revoked]bool{}
	}
	for _, d := range c.Policies {
		if d.Version > p.policies[d.Workspace].Version {
			p.policies[d.Workspace] = d
		}
	}
	for _, k := range c.Revoked {
		p.revoked[k] = true
	}
	if p.since.IsZero() || now.Before(p.since) {
		p.since = now
	}
	if len(p.policies)+len(p.revoked) > maxPending {
		p.policies, p.revoked, p.overflown = nil, nil, true
	}
}

// take empties it. What was not written goes back by add.
func (p *pending) take() (b batch, overflown bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.policies {
		b.Policies = append(b.Policies, d)
	}
	for k := range p.revoked {
		b.Revoked = append(b.Revoked, k)
	}
	b.since, overflown = p.since, p.overflown
	p.policies, p.revoked, p.overflown, p.since = nil, nil, false, time.Time{}
	return b, overflown
}

func (p *pending) size() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return float64(len(p.policies) + len(p.revoked))
}

// age returns for how many seconds the oldest has waited.
func (p *pending) age() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.since.IsZero() {
		return 0
	}
	return time.Since(p.since).Seconds()
}
