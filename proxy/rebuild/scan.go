package rebuild

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/proxy/rebuild/closing"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// listTimeout bounds one look at the end offsets; closing tries again after it.
const listTimeout = 30 * time.Second

// errNoGeneration means that the generation which reading was to begin with is not whole in the log any more: it has to begin with the producer.
var errNoGeneration = errors.New("generation is not in the log")

// scanner reads the costs and requests topics once, from the offsets of the producer's generation; each call of toEnd goes
// on to what is the end then.
type scanner struct {
	cl    *kgo.Client
	adm   *kadm.Client
	state *closing.State
	// next is the offset behind what was applied, by topic and partition.
	next map[string]map[int32]int64
	// unknown are trimmed partitions of the requests topic whose oldest record is not read yet.
	unknown map[int32]bool
}

func (r *Rebuilder) newScanner(status *rateguardv1.ProducerStatus, shown *held, complete bool) (*scanner, error) {
	sc := &scanner{
		state: closing.New(status, shown.entries, complete), unknown: make(map[int32]bool),
		next: map[string]map[int32]int64{
			topics.Costs.Name: status.GetCostsOffsets(), topics.Requests.Name: status.GetRequestsOffsets(),
		},
	}
	from := make(map[string]map[int32]kgo.Offset)
	own := make(map[string]map[int32]int64)
	for topic, offsets := range sc.next {
		if topic == topics.Costs.Name && status.GetGeneration() > 0 {
			offsets = withEnds(offsets, status.GetCostsStarted(), shown.from)
		}
		from[topic], own[topic] = make(map[int32]kgo.Offset), make(map[int32]int64)
		for p, o := range offsets {
			from[topic][p], own[topic][p] = kgo.NewOffset().At(o), o
		}
	}
	sc.next = own
	opts, err := r.cfg.Kafka.Options()
	if err != nil {
		return nil, fmt.Errorf("reading Kafka settings: %w", err)
	}
	sc.cl, err = kgo.NewClient(append(opts,
		kgo.ConsumePartitions(from),
		// Where retention has taken the beginning, what is left is read from its start.
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		// Markers of a transaction have offsets too; without them the end would never come.
		kgo.KeepControlRecords(),
		kgo.FetchMaxWait(100*time.Millisecond),
	)...)
	if err != nil {
		return nil, fmt.Errorf("making Kafka client: %w", err)
	}
	sc.adm = kadm.NewClient(sc.cl)
	return sc, nil
}

// withEnds returns the offsets of a generation, or earlier ones where the ends of what Redis shows may stand before it.
func withEnds(offsets, started, ends map[int32]int64) map[int32]int64 {
	out := maps.Clone(offsets)
	for p, end := range ends {
		if at, known := out[p]; known {
			out[p] = min(at, max(end, started[p]))
		}
	}
	return out
}

func (sc *scanner) close() { sc.cl.Close() }

// toEnd applies everything up to the current ends of the partitions.
func (sc *scanner) toEnd(ctx context.Context) error {
	lctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	starts, err := sc.adm.ListStartOffsets(lctx, topics.Costs.Name, topics.Requests.Name)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return fmt.Errorf("listing start offsets: %w", err)
	}
	ends, err := sc.adm.ListEndOffsets(lctx, topics.Costs.Name, topics.Requests.Name)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("listing end offsets: %w", err)
	}
	for topic, parts := range sc.next {
		for p, next := range parts {
			if s, ok := starts.Lookup(topic, p); ok && s.Offset > next {
				parts[p] = s.Offset
				sc.trim(topic, p, ends)
			}
		}
	}
	if sc.state.Generation() > 0 {
		if err := sc.begin(ctx, ends); err != nil {
			return err
		}
	}
	// How old the rows are that are left has to be known before the first end is seen.
	if len(sc.unknown) > 0 {
		sc.cl.PauseFetchTopics(topics.Costs.Name)
		if err := sc.read(ctx, func() bool { return len(sc.unknown) == 0 }); err != nil {
			return err
		}
		sc.cl.ResumeFetchTopics(topics.Costs.Name)
	}
	return sc.read(ctx, func() bool { return sc.reached(ends) })
}

// begin reads the costs topic until the generation has begun in all of its partitions: its marks have to be known before the first record of the
// other topic is seen.
func (sc *scanner) begin(ctx context.Context, ends kadm.ListedOffsets) error {
	if sc.state.Trimmed() {
		return errNoGeneration // what the marks say of rows that retention has taken is not enough
	}
	costs := sc.next[topics.Costs.Name]
	begun := func() bool {
		n, _ := sc.state.Begun()
		return n == len(costs)
	}
	if !begun() {
		sc.cl.PauseFetchTopics(topics.Requests.Name)
		if err := sc.read(ctx, func() bool { return begun() || sc.topicReached(topics.Costs.Name, ends) }); err != nil {
			return err
		}
		sc.cl.ResumeFetchTopics(topics.Requests.Name)
	}
	if _, early := sc.state.Begun(); early || !begun() {
		return errNoGeneration
	}
	return nil
}

// trim notes that retention took records that may be the producer's.
func (sc *scanner) trim(topic string, p int32, ends kadm.ListedOffsets) {
	if topic != topics.Requests.Name {
		return
	}
	sc.state.Trim(p, math.MaxInt64) // nothing is left
	if e, ok := ends.Lookup(topic, p); ok && sc.next[topic][p] < e.Offset {
		sc.unknown[p] = true
	}
}

// read applies what comes until done.
func (sc *scanner) read(ctx context.Context, done func() bool) error {
	for !done() {
		fetches := sc.cl.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("reading the log: %w", context.Cause(ctx))
		}
		for _, fe := range fetches.Errors() {
			return fmt.Errorf("reading %s/%d: %w", fe.Topic, fe.Partition, fe.Err)
		}
		fetches.EachRecord(sc.apply)
	}
	return nil
}

func (sc *scanner) reached(ends kadm.ListedOffsets) bool {
	return sc.topicReached(topics.Costs.Name, ends) && sc.topicReached(topics.Requests.Name, ends)
}

func (sc *scanner) topicReached(topic string, ends kadm.ListedOffsets) bool {
	for p, next := range sc.next[topic] {
		if e, ok := ends.Lookup(topic, p); ok && next < e.Offset {
			return false
		}
	}
	return true
}

func (sc *scanner) apply(rec *kgo.Record) {
	sc.next[rec.Topic][rec.Partition] = rec.Offset + 1
	at := closing.Place{Partition: rec.Partition, AtUS: rec.Timestamp.UnixMicro()}
	if rec.Topic == topics.Requests.Name && sc.unknown[rec.Partition] {
		sc.state.Trim(rec.Partition, at.AtUS)
		delete(sc.unknown, rec.Partition)
	}
	if rec.Attrs.IsControl() || !sc.state.Concerns(rec.Value) {
		return
	}
	e, err := envelope.Decode(rec.Value)
	if err != nil {
		return // its consumers send it to the dead letters; nothing to end can be read from it
	}
	sc.state.Apply(rec.Topic, string(rec.Key), at, e)
}
