package roster_test

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/proxy/rebuild/roster"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics/broker"
)

// What an operator has declared lost stays so, also where the next status was written by somebody who had not heard of it, until it is closed.
func TestALostProducerStaysLostUntilItIsClosed(t *testing.T) {
	t.Parallel()
	r := roster.New(broker.Config{}, nil)
	for i, test := range []struct {
		status *rateguardv1.ProducerStatus
		lostAt int64
		closed bool
	}{
		{status: &rateguardv1.ProducerStatus{}},
		{status: &rateguardv1.ProducerStatus{DeclaredLostAtUnixUs: 7}, lostAt: 7},
		{status: &rateguardv1.ProducerStatus{ClosingAtUnixUs: 8}, lostAt: 7},
		{status: &rateguardv1.ProducerStatus{ClosingAtUnixUs: 8, ClosedAtUnixUs: 9}, closed: true},
	} {
		test.status.ProducerId = "p"
		value, err := envelope.Encode(&rateguardv1.Event{Id: "e", Body: &rateguardv1.Event_ProducerStatus{ProducerStatus: test.status}})
		if err != nil {
			t.Fatal(err)
		}
		r.Apply(&kgo.Record{Key: []byte("p"), Value: value, Offset: int64(i)})
		if lost, closed := r.LostAt("p"), r.Closed("p"); lost != test.lostAt || closed != test.closed {
			t.Errorf("after status %d: lost at %d, closed %t; want %d, %t", i, lost, closed, test.lostAt, test.closed)
		}
	}
}
