package mockprovider

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Faults that a request asks for in its x-mock-fault header, or by a model name that ends in
// "-mock-<fault>" (such as gpt-4o-mini-mock-cut), for clients that cannot set headers.
const (
	// faultStatus is an error answer; written as its number, "429".
	faultStatus = "status"
	// faultHang accepts the request and never answers.
	faultHang = "hang"
	// faultReset closes the connection without an answer.
	faultReset = "reset"
	// faultCut closes the connection in the middle of the answer.
	faultCut = "cut"
	// faultStall stops in the middle of the answer and keeps the connection open.
	faultStall = "stall"
	// faultBrokenSSE writes an event that is no JSON in the middle of a stream, then goes on.
	faultBrokenSSE = "broken-sse"
	// faultNoUsage leaves the usage out.
	faultNoUsage = "no-usage"
	// faultNoEnd ends a stream cleanly but without its last event (usage and end mark).
	faultNoEnd = "no-end"
	// faultErrorEvent ends a stream in the middle with the dialect's error event.
	faultErrorEvent = "error-event"
	// faultSlow takes ten times as long to the first token, then ten tokens a second.
	faultSlow = "slow"
	// faultSplit writes a stream in pieces that end anywhere, also inside a character.
	faultSplit = "split"
)

// faultSuffix separates a model's name from the fault that it asks for.
const faultSuffix = "-mock-"

// hangLimit bounds how long a hanging answer keeps its goroutine.
const hangLimit = time.Hour

// Faults lists the names that x-mock-fault takes besides a status number.
func Faults() []string {
	return []string{faultHang, faultReset, faultCut, faultStall, faultBrokenSSE, faultNoUsage, faultNoEnd, faultErrorEvent, faultSlow, faultSplit}
}

type fault struct {
	kind   string
	status int
}

// String returns the name by which the fault is asked for.
func (f fault) String() string {
	if f.kind == faultStatus {
		return strconv.Itoa(f.status)
	}
	return f.kind
}

func (c *call) chooseFault() (fault, error) {
	name := c.r.Header.Get("X-Mock-Fault")
	if name == "" {
		_, name, _ = strings.Cut(c.model, faultSuffix)
	}
	if name == "" || slices.Contains(Faults(), name) {
		return fault{kind: name}, nil
	}
	if status, err := strconv.Atoi(name); err == nil && status >= 400 && status <= 599 {
		return fault{kind: faultStatus, status: status}, nil
	}
	return fault{}, fmt.Errorf("no fault %q: a status or one of %s", name, strings.Join(Faults(), ", "))
}

// abort closes the connection the only way that net/http offers to a handler. What was
// written before goes out first: the rest of a buffered answer would go with the connection. Where nothing was written
// nothing goes out: a flush would send the head of an answer.
func (c *call) abort() {
	if c.record.Status != 0 {
		_ = http.NewResponseController(c.w).Flush()
	}
	panic(http.ErrAbortHandler)
}

// halts reports whether the fault ends an answer in its middle.
func (f fault) halts() bool {
	return f.kind == faultCut || f.kind == faultStall || f.kind == faultErrorEvent
}
