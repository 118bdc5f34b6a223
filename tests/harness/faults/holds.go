package faults

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/schemas/envelope"
	"github.com/rateguard/rateguard/tests/harness"
)

// Written names records by what stands in them.
type Written struct {
	// Topic and Key are theirs.
	Topic, Key string
	// Body is the name of the event's body, such as producer_closed; empty: any value.
	Body string
}

// Hold is a write that the broker has received and not yet appended: whoever sent it may be gone by the time that it is.
type Hold struct {
	broker *Broker
	order  string
	once   sync.Once
}

// Hold keeps the next write that has such a record from the log until Release. Writers wait at most some 20 s for an answer.
func (b *Broker) Hold(w Written) *Hold {
	b.tb.Helper()
	order, err := json.Marshal(w)
	if err != nil {
		b.tb.Fatalf("ordering a broker: %v", err)
	}
	h := &Hold{broker: b, order: string(order)}
	b.must("hold " + h.order)
	b.tb.Cleanup(h.Release)
	return h
}

// Await waits until the write is there.
func (h *Hold) Await() {
	h.broker.tb.Helper()
	harness.Eventually(h.broker.tb, 2*time.Minute, func() error {
		if !h.caught() {
			return fmt.Errorf("nobody has written %s", h.order)
		}
		return nil
	})
}

// caught reports whether the write is there.
func (h *Hold) caught() bool {
	h.broker.tb.Helper()
	caught, err := strconv.ParseBool(h.broker.order("caught " + h.order))
	if err != nil {
		h.broker.tb.Fatalf("asking a broker: %v", err)
	}
	return caught
}

// Release lets the write go to the end of the log as it is now, and holds no further one. A second time it does nothing.
func (h *Hold) Release() {
	h.broker.tb.Helper()
	h.once.Do(func() { h.broker.must("release " + h.order) })
}

// holder is the side of the broker.
type holder struct {
	mu    sync.Mutex       // guards waits and what is in them
	waits map[string]*wait // by their order
}

// wait is one Hold.
type wait struct {
	Written
	caught   bool
	released chan struct{}
}

// follow does what was ordered.
func (h *holder) follow(word, order string) (answer string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch word {
	case "hold":
		w := &wait{released: make(chan struct{})}
		if err := json.Unmarshal([]byte(order), &w.Written); err != nil {
			return err.Error()
		}
		h.waits[order] = w
	case "release":
		close(h.waits[order].released)
		delete(h.waits, order)
	case "caught":
		w := h.waits[order]
		return strconv.FormatBool(w != nil && w.caught)
	}
	return strings.TrimSpace(word + " " + order)
}

// holds reports whether anything is to be held.
func (h *holder) holds() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.waits) > 0
}

// match finds the hold that one of the records is for.
func (h *holder) match(records []*kgo.Record) *wait {
	for _, r := range records {
		if w := h.catch(r); w != nil {
			return w
		}
	}
	return nil
}

// catch finds the hold that a record is for.
func (h *holder) catch(r *kgo.Record) *wait {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range h.waits {
		if !w.caught && w.Topic == r.Topic && w.Key == string(r.Key) && (w.Body == "" || w.Body == bodyOf(r.Value)) {
			w.caught = true
			return w
		}
	}
	return nil
}

// bodyOf is the name of the body of an event; empty where the value is none.
func bodyOf(value []byte) string {
	e, err := envelope.Decode(value)
	if err != nil {
		return ""
	}
	m := e.ProtoReflect()
	body := m.WhichOneof(m.Descriptor().Oneofs().ByName("body"))
	if body == nil {
		return ""
	}
	return string(body.Name())
}
