package faults

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/rateguard/rateguard/schemas/envelope"
)

// refusals are what a broker does not take.
type refusals struct {
	// mu guards what follows. kind is the type of records that are refused above a number of bytes; empty: none.
	mu    sync.Mutex
	kind  string
	above int
	n     int
}

// follow does what was ordered.
func (r *refusals) follow(word, order string) (answer string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch word {
	case "refused":
		return strconv.Itoa(r.n)
	case "refuse":
		if _, err := fmt.Sscanf(order, "%s %d", &r.kind, &r.above); err != nil {
			return err.Error()
		}
	default:
		r.kind = ""
	}
	return strings.TrimSpace(word + " " + order)
}

// refuses reports whether anything is to be refused.
func (r *refusals) refuses() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kind != ""
}

// control refuses a whole request for one record of it, as a broker refuses a whole batch.
func (r *refusals) control(produce *kmsg.ProduceRequest, records []*kgo.Record) (answer kmsg.Response, refused bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	response, ok := produce.ResponseKind().(*kmsg.ProduceResponse)
	if !ok || !slices.ContainsFunc(records, r.is) {
		return nil, false
	}
	r.n++
	for _, t := range produce.Topics {
		topic := kmsg.NewProduceResponseTopic()
		topic.Topic, topic.TopicID = t.Topic, t.TopicID
		for _, p := range t.Partitions {
			partition := kmsg.NewProduceResponseTopicPartition()
			partition.Partition, partition.ErrorCode = p.Partition, kerr.MessageTooLarge.Code
			topic.Partitions = append(topic.Partitions, partition)
		}
		response.Topics = append(response.Topics, topic)
	}
	return response, true
}

func (r *refusals) is(record *kgo.Record) bool {
	return r.kind != "" && len(record.Value) > r.above && slices.ContainsFunc(record.Headers, func(h kgo.RecordHeader) bool {
		return h.Key == envelope.HeaderType && string(h.Value) == r.kind
	})
}
