package proof

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/projections/problem"
	"github.com/rateguard/rateguard/schemas/budget"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/money"
	"github.com/rateguard/rateguard/topics"
)

// Question says what has to be proved.
type Question struct {
	Workspace, Budget string
	// Balance is the key, route or model of a budget that divides; empty for one that does not.
	Balance string
	At      time.Time
	// Most is how many reservations are listed, the largest first; 0: all.
	Most int
	// Refusal is the decision that has to be explained; nil: none.
	Refusal *Decision
}

// Proof is what a budget was at an instant, by the log alone.
type Proof struct {
	Workspace string    `json:"workspace"`
	Budget    Budget    `json:"budget"`
	Balance   string    `json:"balance"`
	At        time.Time `json:"at"`
	// PeriodStart and PeriodEnd are nil for a budget without periods.
	PeriodStart *time.Time `json:"period_start"`
	PeriodEnd   *time.Time `json:"period_end"`
	Sums        Sums       `json:"sums"`
	// Data are reservations of the period, those that count for most first; Omitted is how many are not shown.
	Data    []*Reservation `json:"data"`
	Omitted int            `json:"omitted"`
	Log     Extent         `json:"log"`
	// FoldAgrees: the fold of the processors, run over the same records, showed the same sums after each of them.
	FoldAgrees bool `json:"fold_agrees"`
	// Compared is how often; Uncounted is how many records came after the fold had dropped the period for its age.
	Compared  int      `json:"compared"`
	Uncounted int      `json:"uncounted"`
	Refusal   *Refusal `json:"refusal"`
	// Verdict says all of it in sentences.
	Verdict []string `json:"verdict"`
}

// Budget is a budget as the policy had it.
type Budget struct {
	Name          string     `json:"name"`
	Scope         string     `json:"scope"`
	Limit         money.Nano `json:"usd"`
	Period        string     `json:"period"`
	Timezone      string     `json:"timezone"`
	Enforcement   string     `json:"enforcement"`
	Generation    uint64     `json:"generation"`
	PolicyVersion uint64     `json:"policy_version"`
	PublishedAt   time.Time  `json:"policy_published_at"`
}

// Sums are those of the records that had happened at the instant, by their own times.
type Sums struct {
	Limit     money.Nano `json:"limit_usd"`
	Posted    money.Nano `json:"posted_usd"`
	Reserved  money.Nano `json:"reserved_usd"`
	Available money.Nano `json:"available_usd"`
	Opened    int64      `json:"opened"`
	Ended     int64      `json:"ended"`
	Corrected int64      `json:"corrected"`
}

// Prove reads the log and answers. Errors are problems.
func (l *Log) Prove(ctx context.Context, q Question) (*Proof, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	partition, err := l.partitionOf(ctx, q.Workspace)
	if err != nil {
		return nil, unavailable(err)
	}
	policy, published, err := l.policyAt(ctx, q.Workspace, partition, q.At)
	if err != nil {
		return nil, unavailable(err)
	}
	b := find(policy, q.Budget)
	if b == nil {
		return nil, problem.New(http.StatusNotFound, problem.NotFound,
			"by the log the workspace had no budget %.100q at %s: policy version %d was in force", q.Budget, q.At.Format(time.RFC3339Nano), policy.GetVersion())
	}
	if err := checkBalance(b, q.Balance); err != nil {
		return nil, err
	}
	p := &Proof{Workspace: q.Workspace, Balance: q.Balance, At: q.At, Budget: Budget{
		Name: b.GetId(), Scope: b.GetScope(), Limit: money.Nano(b.GetLimitNanoUsd()), Period: b.GetPeriod(), Timezone: b.GetTimezone(),
		Enforcement: b.GetEnforcement(), Generation: b.GetGeneration(), PolicyVersion: policy.GetVersion(), PublishedAt: published,
	}}
	start, end, err := periodAt(b, q.At)
	if err != nil {
		return nil, problem.Hidden(fmt.Errorf("finding the period: %w", err))
	}
	account := &rateguardv1.Hold{BudgetId: b.GetId(), BudgetGeneration: b.GetGeneration(), Balance: q.Balance}
	if !start.IsZero() {
		p.PeriodStart, p.PeriodEnd = &start, &end
		account.PeriodStartUnixUs = start.UnixMicro()
	}
	book, extent, err := l.book(ctx, q, account, partition)
	if err != nil {
		return nil, err
	}
	p.Log = extent
	p.fill(book, q)
	return p, nil
}

func checkBalance(b *rateguardv1.Budget, balance string) error {
	switch divided := budget.Divided(b); {
	case divided && balance == "":
		return problem.InvalidField("balance", "is required: the budget had a balance for each %s", b.GetScope())
	case !divided && balance != "":
		return problem.InvalidField("balance", "must be left out: the budget had one balance")
	}
	return nil
}

// book reads all that the log has of the workspace.
func (l *Log) book(ctx context.Context, q Question, account *rateguardv1.Hold, partition int32) (*Book, Extent, error) {
	book := NewBook(account, q.At)
	extents, err := l.read(ctx, topics.Costs, partition, func(rec *kgo.Record) {
		if string(rec.Key) != q.Workspace {
			return
		}
		if e, err := envelope.Decode(rec.Value); err == nil { // else a dead letter for everybody
			book.Apply(e, rec.Offset)
		}
	})
	if err != nil {
		return nil, Extent{}, unavailable(err)
	}
	if len(extents) != 1 {
		return nil, Extent{}, unavailable(fmt.Errorf("reading %s: it has no partition %d", topics.Costs.Name, partition))
	}
	return book, extents[0], nil
}

// fill writes down what the book shows.
func (p *Proof) fill(b *Book, q Question) {
	p.Sums = Sums{
		Limit: p.Budget.Limit, Posted: b.then.posted, Reserved: b.then.reserved, Available: max(0, p.Budget.Limit-b.then.posted-b.then.reserved),
		Opened: b.then.opened, Ended: b.then.ended, Corrected: b.then.corrected,
	}
	p.Data = []*Reservation{}
	for _, r := range b.listed {
		if then := r.until(q.At); then != nil {
			p.Data = append(p.Data, then)
		}
	}
	slices.SortFunc(p.Data, func(x, y *Reservation) int {
		return cmp.Or(-cmp.Compare(x.weight(), y.weight()), cmp.Compare(x.ID, y.ID))
	})
	p.FoldAgrees, p.Compared, p.Uncounted = b.differs == nil, b.checked, b.uncounted
	if q.Refusal != nil {
		p.Refusal = explain(*q.Refusal, b, p.Sums)
	}
	p.Verdict = verdict(p, b) // of all that is listed
	p.Omitted = b.unlisted
	if q.Most > 0 && len(p.Data) > q.Most {
		p.Omitted += len(p.Data) - q.Most
		p.Data = p.Data[:q.Most]
	}
}
