package mockprovider

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Pace is how fast answers come.
type Pace struct {
	// FirstToken is the time to the first token, ± Jitter.
	FirstToken, Jitter time.Duration
	// TokensPerSecond after the first; 0 means at once.
	TokensPerSecond float64
	// TokensPerChunk is how many tokens one event of a stream holds; 0 means 1.
	TokensPerChunk int
}

// Realistic is the pace of a hosted model of middle size on a good day.
func Realistic() Pace {
	return Pace{FirstToken: 220 * time.Millisecond, Jitter: 80 * time.Millisecond, TokensPerSecond: 90, TokensPerChunk: 2}
}

// ParsePace reads "instant", "realistic" or settings such as "ttft=100ms,jitter=20ms,tps=50,chunk=4",
// which is also what a request may say in its x-mock-pace header.
func ParsePace(s string) (Pace, error) {
	switch s {
	case "", "instant":
		return Pace{}, nil
	case "realistic":
		return Realistic(), nil
	}
	var p Pace
	for part := range strings.SplitSeq(s, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		var err error
		switch name {
		case "ttft":
			p.FirstToken, err = time.ParseDuration(value)
		case "jitter":
			p.Jitter, err = time.ParseDuration(value)
		case "tps":
			p.TokensPerSecond, err = strconv.ParseFloat(value, 64)
		case "chunk":
			p.TokensPerChunk, err = strconv.Atoi(value)
		default:
			return Pace{}, fmt.Errorf("parsing a pace: unknown setting %q", name)
		}
		if err != nil {
			return Pace{}, fmt.Errorf("parsing a pace: %s: %w", name, err)
		}
	}
	return p, nil
}

// chunk returns how many tokens an event holds.
func (p Pace) chunk() int { return max(1, p.TokensPerChunk) }

// first returns the time to the first token of the request with that hash.
func (p Pace) first(hash uint64) time.Duration {
	if p.Jitter <= 0 {
		return p.FirstToken
	}
	spread := time.Duration(hash%uint64(2*p.Jitter)) - p.Jitter //nolint:gosec // Jitter is positive here
	return max(0, p.FirstToken+spread)
}

// rest returns the time that n further tokens take.
func (p Pace) rest(n int64) time.Duration {
	if p.TokensPerSecond <= 0 {
		return 0
	}
	return time.Duration(float64(n) / p.TokensPerSecond * float64(time.Second))
}
