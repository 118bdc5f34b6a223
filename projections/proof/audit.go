package proof

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/money"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/hash"
)

// mostNamed is how many breaches, overruns and gaps an audit names of one workspace; it counts all.
const mostNamed = 100

// The rules that every opening has to keep.
const (
	// RuleOps: within an epoch numbers of grants are unique and begin at 1.
	RuleOps = "ops"
	// RuleLimit: after its grant posted and reserved of a hard budget are within the limit.
	RuleLimit = "limit"
	// RulePolicy: budget, generation and limit are those of the policy version that admitted.
	RulePolicy = "policy"
	// RuleBound: nothing holds more than its bound, and nothing without a bound holds of a hard budget.
	RuleBound = "bound"
	// RuleLease: what names a lease is within it: of its producer, its epoch and its budget periods, before its end, and all of it together no more than it
	// holds; and its end gives back what was not taken.
	RuleLease = "lease"
	// RuleView: no grant saw less than what the log says it must have seen.
	RuleView = "view"
)

// Audit is what the whole log says of the budgets.
type Audit struct {
	// OK: all of it was read, and no rule is broken.
	OK       bool              `json:"ok"`
	Complete bool              `json:"complete"`
	Data     []*WorkspaceAudit `json:"data"`
	Log      []Extent          `json:"log"`
}

// WorkspaceAudit is what the log says of one workspace. Lists name the first of each kind.
type WorkspaceAudit struct {
	Workspace string `json:"workspace"`
	// Openings are all that counted, Leases those that are leases, and Taken those that were taken from one; Hard are holds of hard budgets that were checked, Unknown those whose policy version the history has not.
	Openings int64        `json:"openings"`
	Leases   int64        `json:"leases"`
	Taken    int64        `json:"taken_from_leases"`
	Hard     int64        `json:"hard"`
	Unknown  int64        `json:"unknown_policy"`
	Epochs   []EpochAudit `json:"epochs"`
	// UnknownLeases counts reservations whose lease the log does not have: it begins behind it, or lacks records of the producer.
	UnknownLeases int64 `json:"unknown_leases"`
	// Broken counts breaches of the rules.
	Broken   int64    `json:"broken"`
	Breaches []Breach `json:"breaches"`
	// Overran counts ends that cost more than was reserved, and OverranBy is by how much together.
	Overran   int64      `json:"overran"`
	OverranBy money.Nano `json:"overran_by_usd"`
	Overruns  []Overrun  `json:"overruns"`
	// LowerViews counts grants that saw less than the log shows at their place, all within what ends on their way explain; the most is LowerBy.
	LowerViews int64      `json:"lower_views"`
	LowerBy    money.Nano `json:"lower_by_usd"`
}

// EpochAudit is one life of the budgets in Redis.
type EpochAudit struct {
	Epoch    uint64 `json:"epoch"`
	Openings int64  `json:"openings"`
	LastOp   uint64 `json:"last_op"`
	// Missing are numbers that were never opened: grants that were taken back before.
	Missing uint64  `json:"missing"`
	Gaps    []Range `json:"gaps"`
}

// Range is a range of numbers, both ends inclusive.
type Range struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// Breach is one broken rule.
type Breach struct {
	Rule        string `json:"rule"`
	Reservation string `json:"reservation"`
	Budget      string `json:"budget"`
	Offset      int64  `json:"offset"`
	Detail      string `json:"detail"`
}

// Overrun is an end that cost more than was reserved.
type Overrun struct {
	Reservation string     `json:"reservation"`
	Offset      int64      `json:"offset"`
	Reserved    money.Nano `json:"reserved_usd"`
	Cost        money.Nano `json:"cost_usd"`
	Cause       string     `json:"cause"`
}

// Audit reads the log of one workspace, or of all where it is empty. Errors are problems; where time runs out the audit says how far it came.
func (l *Log) Audit(ctx context.Context, workspace string) (*Audit, error) {
	reading, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	partition := all
	if workspace != "" {
		var err error
		if partition, err = l.partitionOf(reading, workspace); err != nil {
			return nil, unavailable(err)
		}
	}
	history, err := l.readHistory(reading, workspace, partition)
	if err != nil {
		return nil, unavailable(err)
	}
	books := make(map[string]*auditor)
	extents, err := l.read(reading, topics.Costs, partition, func(rec *kgo.Record) {
		key := string(rec.Key)
		if hash.IsPartitionKey(key) || workspace != "" && key != workspace {
			return
		}
		e, err := envelope.Decode(rec.Value)
		if err != nil {
			return // a dead letter for everybody
		}
		if books[key] == nil {
			books[key] = newAuditor(key, history[key])
		}
		books[key].apply(e, rec.Offset)
	})
	if err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) || len(extents) == 0) {
		return nil, unavailable(err)
	}
	a := &Audit{OK: err == nil, Complete: err == nil, Log: extents, Data: []*WorkspaceAudit{}}
	for _, key := range slices.Sorted(maps.Keys(books)) {
		w := books[key].done()
		a.Data = append(a.Data, w)
		a.OK = a.OK && w.Broken == 0
	}
	return a, nil
}

// admitting is what a policy version says of one budget.
type admitting struct {
	generation uint64
	limit      int64
	hard       bool
}

// history is what each policy version of a workspace says of its budgets.
type history map[uint64]map[string]admitting

func (l *Log) readHistory(ctx context.Context, workspace string, partition int32) (map[string]history, error) {
	found := make(map[string]history)
	_, err := l.read(ctx, topics.PolicyHistory, partition, func(rec *kgo.Record) {
		key := string(rec.Key)
		if workspace != "" && key != workspace {
			return
		}
		e, err := envelope.Decode(rec.Value)
		if err != nil || e.GetWorkspacePolicy() == nil {
			return
		}
		if found[key] == nil {
			found[key] = make(history)
		}
		budgets := make(map[string]admitting)
		for _, b := range e.GetWorkspacePolicy().GetBudgets() {
			budgets[b.GetId()] = newAdmitting(b)
		}
		found[key][e.GetWorkspacePolicy().GetVersion()] = budgets
	})
	return found, err
}

func newAdmitting(b *rateguardv1.Budget) admitting {
	return admitting{generation: b.GetGeneration(), limit: b.GetLimitNanoUsd(), hard: b.GetEnforcement() == "hard"}
}

// done returns the audit of the workspace.
func (a *auditor) done() *WorkspaceAudit {
	for _, epoch := range slices.SortedFunc(maps.Keys(a.epochs), cmp.Compare[uint64]) {
		a.Epochs = append(a.Epochs, a.epochs[epoch].audit(epoch))
	}
	return &a.WorkspaceAudit
}
