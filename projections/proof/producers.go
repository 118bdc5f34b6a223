package proof

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// Producers returns the last word about each producer that the log knows, by start. A producer that was closed once stays closed, whatever
// is written behind. Errors are problems.
func (l *Log) Producers(ctx context.Context) ([]*rateguardv1.ProducerStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	last := make(map[string]*rateguardv1.ProducerStatus)
	_, err := l.read(ctx, topics.Producers, all, func(rec *kgo.Record) {
		e, err := envelope.Decode(rec.Value)
		if err != nil || e.GetProducerStatus() == nil {
			return // a tombstone, or a round
		}
		s := e.GetProducerStatus()
		if before := last[s.GetProducerId()]; s.GetClosedAtUnixUs() == 0 && before.GetClosedAtUnixUs() != 0 {
			return
		}
		last[s.GetProducerId()] = s
	})
	if err != nil {
		return nil, unavailable(err)
	}
	return slices.SortedFunc(maps.Values(last), func(a, b *rateguardv1.ProducerStatus) int {
		return cmp.Or(cmp.Compare(a.GetStartedAtUnixUs(), b.GetStartedAtUnixUs()), cmp.Compare(a.GetProducerId(), b.GetProducerId()))
	}), nil
}
