package lua

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // Redis names scripts by their SHA-1
	"encoding/hex"
	"sync/atomic"
	"time"
)

// Script is one embedded script: its SHA-1 is made once.
type Script struct {
	source, sha []byte
	// timeout bounds one call, where it is longer than the store's.
	timeout time.Duration
	// patient calls wait for a store that is away, until their timeout.
	patient bool
}

// NewScript returns the script of that source.
func NewScript(source string) *Script {
	sum := sha1.Sum([]byte(source)) //nolint:gosec // Redis names scripts by their SHA-1
	return &Script{source: []byte(source), sha: []byte(hex.EncodeToString(sum[:]))}
}

// within sets how long one call may take.
func (s *Script) within(d time.Duration) *Script {
	s.timeout = d
	return s
}

// patiently sets how long one call may take, the wait for a store that is away included.
func (s *Script) patiently(d time.Duration) *Script {
	s.timeout, s.patient = d, true
	return s
}

// SHA returns the name by which Redis knows the script: 40 hex digits.
func (s *Script) SHA() string { return string(s.sha) }

// Source returns the script's text, as a server runs it.
func (s *Script) Source() string { return string(s.source) }

// wire is an argument that notes when it is written. The client writes a command only once it holds a usable
// connection, so what was never written has never run, whatever error came back.
type wire struct {
	text  []byte
	state atomic.Int32
}

// The states of a wire.
const (
	wireWaits int32 = iota
	wireWritten
	wireAbandoned
)

// nothing is what is written for a call that nobody waits for any more: no script has that name, nor is it a script.
var nothing = bytes.Repeat([]byte("0"), 2*sha1.Size)

// MarshalBinary implements encoding.BinaryMarshaler.
func (w *wire) MarshalBinary() ([]byte, error) {
	if w.state.CompareAndSwap(wireWaits, wireWritten) || w.written() {
		return w.text, nil
	}
	return nothing, nil
}

func (w *wire) written() bool { return w.state.Load() == wireWritten }

// abandon keeps the call from running, if it is not written yet; written says whether it was.
func (w *wire) abandon() (written bool) {
	return !w.state.CompareAndSwap(wireWaits, wireAbandoned) && w.written()
}
