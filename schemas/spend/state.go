package spend

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// Horizons of the state, measured in event time against the latest event of the workspace.
const (
	// closedHorizon is how long a closed producer's mark is kept. That of one which is not closed is kept until it is:
	// without it a repeat would count again, and its closing would be ignored.
	closedHorizon = 7 * 24 * time.Hour
	// idleHorizon is the silence after which a mark that was never closed is the first to go where there are too many.
	idleHorizon = 30 * 24 * time.Hour
	// periodHorizon is how long a budget period stays after its successor began, for ends and spools that come late.
	periodHorizon = 48 * time.Hour
	// months is how many months are kept: the retention of the costs topic, rounded up.
	months = 14
	// maxHoles bounds the holes of one producer; maxProducers and maxClosedEnds bound what a workspace holds of all of them.
	maxHoles      = 64
	maxProducers  = 256
	maxClosedEnds = 1536
)

// Decode reads a state as the table holds it; empty is the state of a workspace without events.
func Decode(state []byte) (*rateguardv1.SpendState, error) {
	s := new(rateguardv1.SpendState)
	if err := proto.Unmarshal(state, s); err != nil {
		return nil, fmt.Errorf("decoding spend state: %w", err)
	}
	return s, nil
}

// Encode returns the bytes of a state. Equal states are equal bytes.
func Encode(s *rateguardv1.SpendState) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encoding spend state: %w", err)
	}
	return b, nil
}

// monthOf returns year * 100 + month of an instant in microseconds, UTC.
func monthOf(unixUS int64) int32 {
	t := time.UnixMicro(unixUS).UTC()
	return int32(t.Year()*100 + int(t.Month())) //nolint:gosec // a year has four to six digits
}

// month returns the sums of a month, made when missing.
func month(s *rateguardv1.SpendState, m int32) *rateguardv1.Sums {
	i, found := slices.BinarySearchFunc(s.GetMonths(), m, func(e *rateguardv1.MonthSums, m int32) int { return cmp.Compare(e.GetMonth(), m) })
	if !found {
		s.Months = slices.Insert(s.Months, i, &rateguardv1.MonthSums{Month: m, Sums: new(rateguardv1.Sums)})
	}
	return s.Months[i].Sums
}

// period returns a hold's budget period, made when missing; nil when it was dropped already.
func period(s *rateguardv1.SpendState, h *rateguardv1.Hold) *rateguardv1.PeriodSums {
	i, found := findBudget(s, h)
	if !found {
		s.Budgets = slices.Insert(s.Budgets, i, &rateguardv1.BudgetSums{BudgetId: h.GetBudgetId(), Generation: h.GetBudgetGeneration()})
	}
	b := s.Budgets[i]
	j, found := slices.BinarySearchFunc(b.GetBalances(), h.GetBalance(), func(e *rateguardv1.BalanceSums, name string) int { return cmp.Compare(e.GetBalance(), name) })
	if !found {
		b.Balances = slices.Insert(b.Balances, j, &rateguardv1.BalanceSums{Balance: h.GetBalance()})
	}
	return balancePeriod(b.Balances[j], h.GetPeriodStartUnixUs())
}

func balancePeriod(b *rateguardv1.BalanceSums, start int64) *rateguardv1.PeriodSums {
	i, found := slices.BinarySearchFunc(b.GetPeriods(), start, func(e *rateguardv1.PeriodSums, start int64) int { return cmp.Compare(e.GetStartUnixUs(), start) })
	if found {
		return b.Periods[i]
	}
	if b.GetDroppedUntilUnixUs() != 0 && start <= b.GetDroppedUntilUnixUs() {
		return nil
	}
	b.Periods = slices.Insert(b.Periods, i, &rateguardv1.PeriodSums{StartUnixUs: start, Sums: new(rateguardv1.Sums)})
	return b.Periods[i]
}

// prune drops what lies beyond the horizons. Periods that hold an open reservation stay.
func prune(s *rateguardv1.SpendState) {
	latest := s.GetLatestUnixUs()
	if n := len(s.GetMonths()); n > months {
		s.Months = slices.Delete(s.Months, 0, n-months)
	}
	for _, b := range s.GetBudgets() {
		for _, balance := range b.GetBalances() {
			prunePeriods(balance, latest)
		}
	}
	s.Producers = slices.DeleteFunc(s.Producers, func(p *rateguardv1.ProducerMark) bool {
		return p.GetClosedAtUnixUs() != 0 && latest-max(p.GetClosedAtUnixUs(), p.GetLastSeenUnixUs()) > closedHorizon.Microseconds()
	})
	for len(s.GetProducers()) > maxProducers {
		least := slices.MinFunc(s.GetProducers(), func(a, b *rateguardv1.ProducerMark) int {
			return cmp.Or(cmp.Compare(keeping(a, latest), keeping(b, latest)), cmp.Compare(lastWord(a), lastWord(b)), cmp.Compare(a.GetProducerId(), b.GetProducerId()))
		})
		i, _ := findProducer(s, least.GetProducerId())
		s.Producers = slices.Delete(s.Producers, i, i+1)
	}
}

// keeping says how much the mark of a producer is needed: one that is silent for long and was never closed, then a
// closed one, then a living one.
func keeping(p *rateguardv1.ProducerMark, latest int64) int {
	switch {
	case p.GetClosedAtUnixUs() != 0:
		return 1
	case latest-p.GetLastSeenUnixUs() > idleHorizon.Microseconds():
		return 0
	}
	return 2
}

func lastWord(p *rateguardv1.ProducerMark) int64 {
	return max(p.GetClosedAtUnixUs(), p.GetLastSeenUnixUs())
}

// cutClosedEnds makes room for n ends that a closing brings: those of the producers that were closed first go.
func cutClosedEnds(s *rateguardv1.SpendState, n int) {
	held := 0
	byTime := slices.SortedStableFunc(slices.Values(s.GetProducers()), func(a, b *rateguardv1.ProducerMark) int {
		return cmp.Compare(a.GetClosedAtUnixUs(), b.GetClosedAtUnixUs())
	})
	for _, p := range byTime {
		held += len(p.GetClosedEnds())
	}
	for _, p := range byTime {
		if held+n <= maxClosedEnds {
			return
		}
		if c := len(p.GetClosedEnds()); c > 0 {
			held -= c
			p.ClosedEnds, p.ClosedEndsCut = nil, true
		}
	}
}

func prunePeriods(b *rateguardv1.BalanceSums, latest int64) {
	kept := b.GetPeriods()[:0]
	for i, p := range b.GetPeriods() {
		last := i == len(b.GetPeriods())-1
		if last || p.GetSums().GetOpened() > p.GetSums().GetEnded() || latest-b.GetPeriods()[i+1].GetStartUnixUs() <= periodHorizon.Microseconds() {
			kept = append(kept, p)
			continue
		}
		b.DroppedUntilUnixUs = max(b.GetDroppedUntilUnixUs(), p.GetStartUnixUs())
	}
	clear(b.Periods[len(kept):])
	b.Periods = kept
}
