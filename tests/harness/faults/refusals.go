package faults

import (
	"encoding/binary"
	"fmt"
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

// refusal reads an order to refuse.
func refusal(word string) (kind string, above int, ok bool) {
	n, _ := fmt.Sscanf(word, "refuse %s %d", &kind, &above)
	return kind, above, n == 2
}

func (r *refusals) set(kind string, above int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kind, r.above = kind, above
}

func (r *refusals) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

// control refuses a whole request for one record of it, as a broker refuses a whole batch.
func (r *refusals) control(request kmsg.Request) (answer kmsg.Response, refused bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	produce, ok := request.(*kmsg.ProduceRequest)
	if !ok || r.kind == "" || !r.has(produce) {
		return nil, false
	}
	r.n++
	response, ok := produce.ResponseKind().(*kmsg.ProduceResponse)
	if !ok {
		return nil, false
	}
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

// has reports whether one of the records is to be refused.
func (r *refusals) has(produce *kmsg.ProduceRequest) bool {
	for _, t := range produce.Topics {
		for _, p := range t.Partitions {
			var batch kmsg.RecordBatch
			if err := batch.ReadFrom(p.Records); err != nil {
				continue
			}
			rest := batch.Records
			if codec := kgo.CompressionCodecType(batch.Attributes & 7); codec != 0 {
				var err error
				if rest, err = kgo.DefaultDecompressor().Decompress(rest, codec); err != nil {
					continue
				}
			}
			for range batch.NumRecords {
				size, n := binary.Varint(rest)
				if n <= 0 || int(size) > len(rest)-n {
					break
				}
				var record kmsg.Record
				if err := record.ReadFrom(rest[:n+int(size)]); err != nil {
					break
				}
				rest = rest[n+int(size):]
				if r.is(&record) {
					return true
				}
			}
		}
	}
	return false
}

func (r *refusals) is(record *kmsg.Record) bool {
	if len(record.Value) <= r.above {
		return false
	}
	for _, h := range record.Headers {
		if h.Key == envelope.HeaderType && string(h.Value) == r.kind {
			return true
		}
	}
	return false
}
