package emit

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/spool"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

const (
	// floodWindow is what rows are limited over, and how often counts leave.
	floodWindow = time.Second
	// floodRows is how many rows a flood writes in each window. A client that waits as it is told does not come near it; one
	// that does not still leaves enough rows to see who it is and what it sends.
	floodRows = 20
	// maxFloods bounds the memory, to about a megabyte. While that many are open a denial of another one gets its row: this
	// loses nothing, and so many at floodRows write more rows than the rest will.
	maxFloods = 4096
	// floodFrame is how many events share a frame, so that a log that syncs each frame syncs a few.
	floodFrame = 64
	// floodTries and floodPause are how often, and with what pause, counts are offered at the end to a log that refuses them.
	floodTries = 20
	floodPause = 100 * time.Millisecond
)

// floodKey is what denials are counted by. The status belongs to the code and changes only with a workspace's settings.
type floodKey struct {
	workspace, key, limit string
	code                  call.Code
	status                int
}

// floodOf returns what a refused request is counted by; false where its kind of refusal always gets a row.
func floodOf(c *call.Call) (floodKey, bool) {
	switch c.Result.ErrorCode {
	case call.RateLimitExceeded, call.BudgetExceeded, call.BudgetContention, call.StoreUnavailable:
	default:
		return floodKey{}, false
	}
	k := floodKey{workspace: c.Workspace.ID, key: c.Key.ID, code: c.Result.ErrorCode, status: c.Result.Status}
	for _, check := range c.Checks {
		if check.GetDenied() {
			k.limit = check.GetId()
			break
		}
	}
	return k, true
}

// tally is a count of denials from the start of its first window to the end of its last.
type tally struct {
	count       int64
	first, last int64
	// start is the first window's, by the wall clock.
	start time.Time
}

// add puts an older tally and a newer one together.
func (t *tally) add(o tally) {
	if o.count == 0 {
		return
	}
	if t.count == 0 {
		*t = o
		return
	}
	if o.first < t.first {
		t.first, t.start = o.first, o.start
	}
	t.count += o.count
	t.last = max(t.last, o.last)
}

// flood is the state of one floodKey: the rows of the newest window, and what is counted and not in the log yet.
type flood struct {
	window int64
	rows   int
	tally
}

// floods decides which denials get a row, and counts the others. It does so only while Run is there to bring them into the log.
type floods struct {
	mu sync.Mutex // guards what follows
	// running is set while Run runs, and began is when it did: windows are numbered from there by the monotonic clock.
	running bool
	began   time.Time
	open    map[floodKey]*flood
}

// take counts a denial that is above the rate, and returns whether it did: the others get a row.
func (f *floods) take(k floodKey, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl := f.at(k, now)
	if fl == nil {
		return false
	}
	if fl.rows < floodRows {
		fl.rows++
		return false
	}
	fl.add(f.one(fl.window, now))
	return true
}

// count counts a denial whose row the log refused, and returns whether it did.
func (f *floods) count(k floodKey, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl := f.at(k, now)
	if fl == nil {
		return false
	}
	fl.add(f.one(fl.window, now))
	return true
}

// at returns the flood, brought to the window of now; nil where it cannot be kept. The caller holds mu.
func (f *floods) at(k floodKey, now time.Time) *flood {
	if !f.running {
		return nil
	}
	fl := f.open[k]
	if fl == nil {
		if len(f.open) >= maxFloods {
			return nil
		}
		k.limit = strings.Clone(k.limit) // it may point into a larger buffer, which the map would keep alive
		fl = new(flood)
		f.open[k] = fl
	}
	// Of two goroutines the one with the older now may come later: its denial counts for the newer window.
	if w := f.window(now); w > fl.window {
		fl.window, fl.rows = w, 0
	}
	return fl
}

func (f *floods) window(now time.Time) int64 { return int64(now.Sub(f.began) / floodWindow) }

// one is a denial in a window. The wall clock is that of now, so that it follows when the clock is set.
func (f *floods) one(window int64, now time.Time) tally {
	into := now.Sub(f.began) - time.Duration(window)*floodWindow
	return tally{count: 1, first: window, last: window, start: now.Add(-into)}
}

// due is a tally on its way into the log.
type due struct {
	key   floodKey
	flood *flood
	tally
}

// collect takes all tallies and forgets floods that have ended.
func (f *floods) collect(now time.Time) []due {
	f.mu.Lock()
	defer f.mu.Unlock()
	window := f.window(now)
	var out []due
	for k, fl := range f.open {
		switch {
		case fl.count == 0 && fl.window < window:
			delete(f.open, k)
		case fl.count > 0:
			out = append(out, due{k, fl, fl.tally})
			fl.tally = tally{}
		}
	}
	return out
}

// putBack returns what the log did not take. The floods are still open: only collect forgets them, and only Run collects.
func (f *floods) putBack(list []due) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range list {
		d.flood.add(d.tally)
	}
}

func (f *floods) run(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running, f.began = true, now
}

// stop ends the counting: denials that come now get a row.
func (f *floods) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running = false
}

// Run appends the counts of floods, each second and, when ctx ends, what is left. End ctx after the last request and before the
// log is closed. Run it once; before and after, every denial gets its row.
func (e *Emitter) Run(ctx context.Context) {
	tick := time.NewTicker(floodWindow)
	defer tick.Stop()
	e.floods.run(time.Now())
	for {
		select {
		case <-tick.C:
			if _, err := e.flush(time.Now()); err != nil {
				e.slog.Warn("counts of denied requests wait for the event log", slog.Any("error", err))
			}
		case <-ctx.Done():
			e.floods.stop()
			e.flushAll()
			return
		}
	}
}

// flushAll offers what is left until the log has taken it, a few times.
func (e *Emitter) flushAll() {
	pause := time.NewTicker(floodPause)
	defer pause.Stop()
	for try := 1; ; try++ {
		left, err := e.flush(time.Now())
		if err == nil {
			return
		}
		if try == floodTries || errors.Is(err, spool.ErrClosed) {
			e.slog.Error("denied requests are not recorded", slog.Int64("count", left), slog.Any("error", err))
			return
		}
		<-pause.C
	}
}

// flush appends all tallies. What the log does not take stays for the next time: left is their count, the error the first.
func (e *Emitter) flush(now time.Time) (left int64, err error) {
	for list := range slices.Chunk(e.floods.collect(now), floodFrame) {
		appendErr := e.appendDenials(list)
		if appendErr == nil || errors.Is(appendErr, spool.ErrUnsynced) { // it stands in the log
			continue
		}
		e.floods.putBack(list)
		for _, d := range list {
			left += d.count
		}
		if err == nil {
			err = appendErr
		}
	}
	return left, err
}

func (e *Emitter) appendDenials(list []due) error {
	records := make([]spool.Record, 0, len(list))
	for _, d := range list {
		value, err := envelope.Encode(d.event())
		if err != nil {
			return err
		}
		records = append(records, spool.Record{Topic: topics.Requests, Key: d.key.workspace, Value: value, Headers: headersDenials})
	}
	return e.log.Append(records...)
}

func (d due) event() *rateguardv1.Event {
	start := d.start.UnixMicro()
	return &rateguardv1.Event{
		Id: call.NewID(d.start), WorkspaceId: d.key.workspace, OccurredAtUnixUs: start,
		Body: &rateguardv1.Event_DenialsAggregated{DenialsAggregated: &rateguardv1.DenialsAggregated{
			KeyId: d.key.key, LimitId: d.key.limit, ErrorCode: string(d.key.code), Status: uint32(d.key.status), //nolint:gosec // HTTP statuses
			WindowStartUnixUs: start, WindowUs: (time.Duration(d.last-d.first+1) * floodWindow).Microseconds(), Count: d.count,
		}},
	}
}
