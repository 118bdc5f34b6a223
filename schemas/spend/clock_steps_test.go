package spend_test

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/spend"
)

// ahead is the clock of a machine that is 40 days fast.
var ahead = noon.Add(40 * 24 * time.Hour)

// A proxy whose clock is far ahead moves the fold's clock for good. The marks of the others are what keeps their
// repeats and closings right, so they have to stay.
func TestOneFastClockForgetsNobodysMark(t *testing.T) {
	fast := opened("fast", 1, "f1", 10)
	fast.OccurredAtUnixUs = ahead.UnixMicro()
	s, notes := fold(
		opened("p", 1, "r1", 100), settled("p", 2, "r1", 100, 70),
		fast,
		settled("p", 2, "r1", 100, 70), // shipped again
		opened("p", 3, "r2", 50),
		opened("q", 1, "q1", 20), // q lives wholly behind the step
		opened("q", 1, "q1", 20),
		closed(0, "p", 3, expired("r2", 50, 50)),
		closed(0, "q", 1, expired("q1", 20, 20)),
		settled("p", 4, "r2", 50, 30), // p was alive after all
		settled("q", 2, "q1", 20, 5),
	)
	want := &rateguardv1.Sums{PostedNanoUsd: 105, ReservedNanoUsd: 10, Opened: 4, Ended: 3, Corrected: 2}
	if !proto.Equal(s.GetTotal(), want) || notes != "" {
		t.Errorf("total %v, notes %q; want %v, none", s.GetTotal(), notes, want)
	}
}

// A proxy that crashes every few seconds makes a producer each time: their marks have to stay few, and those of the
// living have to stay.
func TestManyLivesLeaveAStateOfLimitedSize(t *testing.T) {
	s, _ := fold(opened("alive", 1, "a", 1))
	for i := range 3000 {
		id := fmt.Sprintf("01990000-0000-7000-8000-%012d", i)
		for _, e := range []*rateguardv1.Event{opened(id, 1, id, 1), closed(0, id, 1, expired(id, 1, 1))} {
			spend.Fold(s, e)
		}
	}
	spend.Fold(s, opened("alive", 1, "a", 1))
	if n := s.GetTotal().GetOpened(); n != 3001 {
		t.Errorf("%d opened, want 3001", n)
	}
	if n := proto.Size(s); n > 64<<10 {
		t.Errorf("state of %d bytes", n)
	}
}
