// Package plan decides what the keeper of budgets does, from what the log, the roster and Redis show. It does no I/O, so that every order of events can
// be tried on it.
package plan

import (
	"maps"
	"slices"

	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/proxy/rebuild/costs"
	"github.com/rateguard/rateguard/proxy/rebuild/roster"
	"github.com/rateguard/rateguard/schemas/keyspace"
)

// FirstEpoch is the epoch of budgets that begin before the first round of their partition. Rounds count on from it, so that none has its number.
const FirstEpoch = 1

// Latest is the largest round of a partition that anybody was told of.
func Latest(v *costs.View, r *roster.Roster, partition int32) uint64 {
	return max(v.Round.N, r.Rounds()[partition])
}

// Usable reports whether proxies may use budgets that stand there.
func Usable(at lua.Place, latest uint64) bool { return at.Epoch >= max(FirstEpoch, latest) }

// Begin returns the epoch of budgets that begin without a round.
func Begin(latest uint64) uint64 { return max(FirstEpoch, latest) }

// Begun reports whether the log shows that the budgets of a workspace were in Redis before, or are about to be.
func Begun(v *costs.View, workspace string) bool {
	w := v.Workspace(workspace)
	return w != nil && w.State.GetBudgetsEpoch() > 0
}

// Next returns the number of the next round: a log that was lost must not give out a number twice.
func Next(latest uint64, places []lua.Place) uint64 {
	n := max(FirstEpoch, latest) + 1
	for _, at := range places {
		n = max(n, at.Epoch+1)
	}
	return n
}

// Superseded reports whether a round is no more, or never was, the one that counts.
func Superseded(v *costs.View, n uint64, by string) bool {
	return v.Round.N > n || v.Round.N == n && v.Round.By != by
}

// Missing returns the producers whose seal is still to come: those that started before the round and are not closed. The ProducerStarted of one that lives
// for long stands before what is read, and its status says where it started; what the view shows of it could only be a repeat.
func Missing(v *costs.View, r *roster.Roster, partition int32, n uint64) []string {
	started := maps.Clone(v.Started)
	for _, s := range r.Open() {
		if _, seen := started[s.GetProducerId()]; !seen || s.GetGeneration() > 0 {
			started[s.GetProducerId()] = s.GetCostsStarted()[partition] // without one it was always there
		}
	}
	var out []string
	for id, at := range started {
		if at < v.Round.At && v.Sealed[id].N < n && !r.Closed(id) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// Installation is the state of a workspace as the log shows it; fences and the version of the policy are the caller's. Error: the log does not show all
// reservations.
func Installation(v *costs.View, workspace string, n uint64) (*lua.Installation, error) {
	in := &lua.Installation{Cut: lua.Cut{Workspace: workspace, Epoch: n, To: v.Next - 1, Posted: map[string]int64{}}}
	w := v.Workspace(workspace)
	if w == nil {
		return in, nil
	}
	if err := w.Whole(); err != nil {
		return nil, err
	}
	in.Posted = Fields(w.Posted())
	for id := range w.Open {
		if e := entry(w, id); len(e.Amounts) > 0 {
			in.Open = append(in.Open, e)
		}
	}
	return in, nil
}

// entry is an open reservation as Redis has to have it.
func entry(w *costs.Workspace, id string) lua.Entry {
	r := w.Open[id]
	e := lua.Entry{ID: id, Producer: r.Producer, Lease: r.Lease()}
	for _, h := range r.Opened.GetHolds() {
		e.Amounts = append(e.Amounts, lua.Amount{Field: costs.PeriodOf(h).Field(), Nano: r.Amount(h)})
	}
	return e
}

// Standing is what Redis was last told of a workspace.
type Standing struct {
	lua.Place
	// Posted is what it has as confirmed; nil when that is not certain.
	Posted map[string]int64
}

// Behind reports whether a step of the log begins behind what Redis was told, so that nothing but another round brings it on.
func (at *Standing) Behind(s *costs.Step) bool { return at.At < s.From }

// Ahead reports whether a step tells nothing new, or there are no budgets that could be told.
func (at *Standing) Ahead(s *costs.Step) bool { return at.Epoch == 0 || at.At >= s.To }

// Step is what Redis has to be told of a step of the log after which the workspace is w and its sums are those of posted; only sums that changed are told, where
// it is certain what Redis has.
func (at *Standing) Step(s *costs.Step, w *costs.Workspace, posted map[string]int64) *lua.Step {
	changed := posted
	if at.Posted != nil {
		changed = make(map[string]int64)
		for field, nano := range posted {
			if was, ok := at.Posted[field]; !ok || was != nano {
				changed[field] = nano
			}
		}
	}
	var forgotten []string
	for field := range at.Posted {
		if _, known := posted[field]; !known {
			forgotten = append(forgotten, field)
		}
	}
	step := &lua.Step{
		Cut: lua.Cut{Workspace: s.Workspace, Epoch: at.Epoch, To: s.To, Posted: changed}, From: s.From, Ended: s.Ended, Changed: at.Posted != nil, Forgotten: forgotten,
	}
	for _, id := range slices.Concat(s.Leases, s.Taken) {
		if e := entry(w, id); len(e.Amounts) > 0 {
			step.Open = append(step.Open, e)
		}
	}
	return step
}

// Fields names the periods as Redis does.
func Fields(posted map[keyspace.BudgetPeriod]int64) map[string]int64 {
	out := make(map[string]int64, len(posted))
	for period, nano := range posted {
		out[period.Field()] = nano
	}
	return out
}
