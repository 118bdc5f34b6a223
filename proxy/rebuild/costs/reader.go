// Package costs reads one partition of the costs topic into a view of what the log shows: sums from the spend table and the
// tail behind it, open reservations, and how far rounds, seals and closings have come. It is separate from the
// closing of producers because it reads on for ever, for all producers, and writes nothing.
package costs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/broker"
)

const (
	// defaultPoll bounds how long Next waits for a record.
	defaultPoll = time.Second
	// listTimeout bounds one question to a broker, endTimeout the one for the end while reading goes on.
	listTimeout = 10 * time.Second
	endTimeout  = time.Second
	// maxRecords bounds what one batch applies, so that its steps come soon.
	maxRecords = 4096
)

// Options says what to read.
type Options struct {
	Kafka     broker.Config
	Partition int32
	// From returns where the reading of entries has to begin. It is called once, by New.
	From func(context.Context) (From, error)
	Log  *slog.Logger
	// Poll bounds how long Next waits for a record, 1 s.
	Poll time.Duration
}

// From is where the reading of entries has to begin.
type From struct {
	// Offset is the smallest costs offset of the partition in the statuses of all producers that are not closed, math.MaxInt64 when all are, -1 for
	// the partition's start.
	Offset int64
	// Generations are those of the statuses, by producer: what was opened before one of them has its end in the log.
	Generations map[string]uint64
}

// Reader reads one partition. It is used by one goroutine.
type Reader struct {
	partition int32
	poll      time.Duration
	client    *kgo.Client
	view      *View
	// err is the error that ended the reading.
	err error
}

// Batch is what one call of Next applied.
type Batch struct {
	// Steps stand in the order of the workspaces' ids, one for each that changed.
	Steps   []Step
	Records int
	// CaughtUp: during this call the view held everything up to the partition's high watermark.
	CaughtUp bool
}

// Step is how far a workspace has come. Its steps are contiguous: each begins where the one before ended.
type Step struct {
	Workspace string
	// From is the offset up to which the ends of this workspace were reported before, at first the one before what is read. To is
	// the offset of the batch's last record. Who holds the workspace at an offset a, From <= a < To, may take the step: the ends
	// of the offsets up to a are then repeats.
	From, To int64
	// Ended are the reservations that got an end in (From, To], also by an accepted ProducerClosed; an id may stand in it more than
	// once, and after a late end of a closed producer in two steps.
	Ended []string
	// Taken are the reservations that were opened from a lease in (From, To], and Leases those leases; each is open at To. Redis
	// hears of the former by the log alone.
	Taken, Leases []string
}

// New reads the spend table and returns a reader that stands before the first record of the tail. Where the table and the
// log together cannot show the sums, it returns an error: processors have to catch up first.
func New(ctx context.Context, o Options) (*Reader, error) {
	if o.Poll == 0 {
		o.Poll = defaultPoll
	}
	connect, err := o.Kafka.Options()
	if err != nil {
		return nil, fmt.Errorf("reading Kafka settings: %w", err)
	}
	connect = slices.Clip(connect) // two clients append to it
	base, err := readBase(ctx, o, connect)
	if err != nil {
		return nil, err
	}
	view, err := newView(o, base)
	if err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(append(connect,
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topics.Costs.Name: {o.Partition: kgo.NewOffset().At(base.start)}}),
		// What retention takes before it is read is an error: a record that is jumped over is an amount that is not counted.
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		// Markers of a transaction have offsets too; without them the end would never come.
		kgo.KeepControlRecords(),
		kgo.FetchMaxWait(o.Poll),
	)...)
	if err != nil {
		return nil, fmt.Errorf("making Kafka client: %w", err)
	}
	return &Reader{partition: o.Partition, poll: o.Poll, client: client, view: view}, nil
}

// Close ends the connection. The view stays as it is.
func (r *Reader) Close() { r.client.Close() }

// View returns what the log shows. It is the caller's between calls of Next, which changes it in place.
func (r *Reader) View() *View { return r.view }

// Next waits for records, for Options.Poll at most, and applies them to the view; without one the batch is empty. While brokers are away
// it takes up to a second more and returns batches that are not CaughtUp. When ctx ends before a record is there it returns ctx's error, and may be called
// again. Every other error is final: the view can no more be trusted, and a new Reader has to begin.
func (r *Reader) Next(ctx context.Context) (*Batch, error) {
	if r.err != nil {
		return nil, r.err
	}
	pctx, cancel := context.WithTimeout(ctx, r.poll)
	fetches := r.client.PollRecords(pctx, maxRecords)
	cancel()
	if fetches.NumRecords() == 0 && ctx.Err() != nil {
		return nil, fmt.Errorf("reading costs/%d: %w", r.partition, context.Cause(ctx))
	}
	b, err := r.apply(fetches)
	if err != nil {
		r.err = fmt.Errorf("reading costs/%d: %w", r.partition, err)
		return nil, r.err
	}
	if b.Records == 0 {
		end, err := r.End(ctx)
		b.CaughtUp = err == nil && r.view.Next >= end // an end that nobody tells is not reached
	}
	return b, nil
}

func (r *Reader) apply(fetches kgo.Fetches) (*Batch, error) {
	b := new(Batch)
	for _, f := range fetches.Errors() {
		if f.Partition == -1 && (errors.Is(f.Err, context.DeadlineExceeded) || errors.Is(f.Err, context.Canceled)) {
			continue // the bound of the poll
		}
		return nil, f.Err
	}
	var failed error
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		for _, rec := range p.Records {
			if failed != nil {
				return
			}
			failed = r.view.Apply(rec)
			b.Records++
		}
		if len(p.Records) > 0 {
			b.CaughtUp = r.view.Next >= p.HighWatermark
		}
	})
	if failed != nil {
		return nil, failed
	}
	b.Steps = r.view.Steps()
	return b, nil
}

// End returns the high watermark of the partition: what stood in it at the call is before it.
func (r *Reader) End(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	return listOffset(ctx, r.client, place{topics.Costs.Name, r.partition}, endOffset)
}

// Times that a broker takes for the two ends of a partition.
const (
	endOffset   = -1
	startOffset = -2
)

type place struct {
	topic     string
	partition int32
}

// listOffset asks a partition's leader for one of its ends. The admin client would ask for the topic first, each time.
func listOffset(ctx context.Context, client *kgo.Client, at place, which int64) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	t, p := kmsg.NewListOffsetsRequestTopic(), kmsg.NewListOffsetsRequestTopicPartition()
	p.Partition, p.Timestamp = at.partition, which
	t.Topic, t.Partitions = at.topic, append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return 0, fmt.Errorf("listing offsets of %s/%d: %w", at.topic, at.partition, err)
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return 0, fmt.Errorf("listing offsets of %s/%d: no answer", at.topic, at.partition)
	}
	answer := resp.Topics[0].Partitions[0]
	if err := kerr.ErrorForCode(answer.ErrorCode); err != nil {
		return 0, fmt.Errorf("listing offsets of %s/%d: %w", at.topic, at.partition, err)
	}
	return answer.Offset, nil
}
