package gokakit

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/google/uuid"

	"github.com/rateguard/rateguard/processors/group"
	"github.com/rateguard/rateguard/schemas/envelope"
	"github.com/rateguard/rateguard/schemas/fold"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// outboxLimit bounds the bytes of a key's outbox, which together with the state has to fit a table record. Only where nothing was
// published for long does it come to this; what is cut still stands in the table's older records, for the compaction lag of its topic.
const outboxLimit = 256 << 10

// outputSpace makes the ids of outputs: the same input gives the same ids, however often it is read.
var outputSpace = uuid.MustParse("f0a35f1c-57f1-4a9f-8f0e-0b8d2d2b7f0a")

// enqueue puts what a fold gave out into the value's outbox.
func enqueue(g group.Graph, v *rateguardv1.TableValue, at position, outputs []group.Output) []fold.Note {
	var notes []fold.Note
	for i, o := range outputs {
		if !g.Emits(o.Topic) {
			notes = append(notes, fold.Note{Kind: "output_undeclared", Detail: o.Topic.Name})
			continue
		}
		position := fmt.Sprintf("%s/%d/%x/%d/%d/%d", g.Name, g.Generation, at.topicID, at.partition, at.offset, i)
		o.Event.Id = uuid.NewSHA1(outputSpace, []byte(position)).String()
		value, err := envelope.Encode(o.Event)
		if err != nil {
			notes = append(notes, fold.Note{Kind: "output_unwritable", Detail: err.Error()})
			continue
		}
		v.Outbox = append(v.Outbox, &rateguardv1.OutboxEntry{Id: o.Event.GetId(), Topic: o.Topic.Name, Event: value})
	}
	size := 0
	for _, e := range v.GetOutbox() {
		size += len(e.GetEvent())
	}
	cut := 0
	for ; size > outboxLimit; cut++ {
		size -= len(v.GetOutbox()[cut].GetEvent())
	}
	if cut > 0 {
		v.Outbox = slices.Delete(v.Outbox, 0, cut)
		notes = append(notes, fold.Note{Kind: "outbox_cut", Detail: fmt.Sprintf("%d entries", cut)})
	}
	return notes
}

// acknowledge takes out of a value what is published.
func acknowledge(v *rateguardv1.TableValue, ids []string) *rateguardv1.TableValue {
	if v == nil {
		return nil
	}
	v.Outbox = slices.DeleteFunc(v.GetOutbox(), func(e *rateguardv1.OutboxEntry) bool { return slices.Contains(ids, e.GetId()) })
	return v
}

// publishOutbox reads the table until ctx ends or something fails, publishes the entries of its records, and tells the group.
func (r *Runner) publishOutbox(ctx context.Context) error {
	o, err := newOutboxReader(r)
	if err != nil {
		return err
	}
	defer o.client.CloseAllowingRebalance()
	for {
		if err := o.poll(ctx); err != nil {
			return fmt.Errorf("publishing the outbox of %s: %w", r.graph.Name, err)
		}
		o.client.AllowRebalance()
	}
}

// warn tells of a record or entry that this release cannot read. A newer one wrote it, and will read it again with the key's next record.
func (o *outboxReader) warn(key string, err error) {
	o.log.Warn("outbox entry not readable", slog.String("workspace", key), slog.Any("error", err))
}
