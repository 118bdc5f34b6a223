package spend_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/rateguard/rateguard/processors/group"
	"github.com/rateguard/rateguard/processors/spend"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	state "github.com/rateguard/rateguard/schemas/spend"
	"github.com/rateguard/rateguard/topics/hash"
)

func TestStateOfAWorkspaceIsItsSums(t *testing.T) {
	var held []byte
	for seq := range uint64(2) {
		held = spend.Graph().Fold(held, group.Input{Key: "ws_1", Event: &rateguardv1.Event{
			ProducerId: "p", Sequence: 1 + seq, Body: &rateguardv1.Event_ReservationOpened{ReservationOpened: &rateguardv1.ReservationOpened{
				ReservationId: "r", BoundNanoUsd: proto.Int64(100), Subject: &rateguardv1.Subject{OpenedAtUnixUs: 1},
			}},
		}}).State
	}
	s, err := state.Decode(held)
	if want := (&rateguardv1.Sums{ReservedNanoUsd: 200, Opened: 2}); err != nil || !proto.Equal(s.GetTotal(), want) {
		t.Errorf("got %v, %v; want %v", s.GetTotal(), err, want)
	}
}

func TestStateOfAPartitionIsItsLatestRound(t *testing.T) {
	round := func(producer string, n uint64) *rateguardv1.Event {
		return &rateguardv1.Event{ProducerId: producer, Body: &rateguardv1.Event_Round{Round: &rateguardv1.Round{N: n}}}
	}
	var held []byte
	for i, step := range []struct {
		event  *rateguardv1.Event
		n      uint64
		byWhom string
	}{
		{&rateguardv1.Event{ProducerId: "p", Body: &rateguardv1.Event_ProducerStarted{ProducerStarted: &rateguardv1.ProducerStarted{ProducerId: "p"}}}, 0, ""},
		{round("p", 1), 1, "p"},
		{round("q", 1), 1, "p"},
		{round("q", 3), 3, "q"},
		{round("p", 2), 3, "q"},
		{&rateguardv1.Event{ProducerId: "p", Body: &rateguardv1.Event_Seal{Seal: &rateguardv1.Seal{N: 9, ProducerId: "p"}}}, 3, "q"},
	} {
		did := spend.Graph().Fold(held, group.Input{Key: hash.PartitionKey(0, 8), Event: step.event})
		held = did.State
		if len(did.Notes) != 0 {
			t.Errorf("step %d: notes %v", i, did.Notes)
		}
		if step.n == 0 {
			if len(held) != 0 {
				t.Errorf("step %d: state %x before the first round", i, held)
			}
			continue
		}
		e, err := envelope.Decode(held)
		if err != nil || e.GetRound().GetN() != step.n || e.GetProducerId() != step.byWhom {
			t.Errorf("step %d: round %v, %v; want %d by %s", i, e, err, step.n, step.byWhom)
		}
	}
}
