package proof

import (
	"fmt"
	"time"

	"github.com/rateguard/rateguard/schemas/money"
)

// verdict says a proof in sentences.
func verdict(p *Proof, b *Book) []string {
	period := "it has no periods"
	if p.PeriodStart != nil {
		period = "the period from " + stamp(*p.PeriodStart) + " to " + stamp(*p.PeriodEnd)
	}
	out := []string{
		fmt.Sprintf("At %s policy version %d was in force: %s budget of %s, generation %d; %s.", stamp(p.At), p.Budget.PolicyVersion,
			p.Budget.Enforcement, usd(p.Budget.Limit), p.Budget.Generation, period),
		fmt.Sprintf("By the records that had happened until then, %s were posted by %s and %s were reserved by %d open reservations.",
			usd(p.Sums.Posted), count(p.Sums.Ended, "end"), usd(p.Sums.Reserved), p.Sums.Opened-p.Sums.Ended),
		within(p),
	}
	if n, held := openLeases(p.Data); n > 0 {
		out = append(out, fmt.Sprintf("%s of what was reserved was held by %s: for requests to come, or for some whose records had not been shipped.", usd(held), count(n, "open lease")))
	}
	if p.Log.From > 0 {
		out = append(out, fmt.Sprintf("The log begins at offset %d: what stood before it is in no sum here.", p.Log.From))
	}
	switch {
	case b.differs != nil:
		out = append(out, "The fold of the processors does not agree with this list: "+b.differs.Error()+".")
	case p.Compared > 0:
		out = append(out, fmt.Sprintf("The fold of the processors showed the same sums after each of %s.", count(int64(p.Compared), "record")))
	}
	if p.Uncounted > 0 {
		out = append(out, count(int64(p.Uncounted), "record")+" came when the fold had dropped the period for its age, and could not be compared.")
	}
	if p.Refusal != nil {
		out = append(out, p.Refusal.words()...)
	}
	return out
}

// openLeases returns how many leases are open, and what no reservation has taken of them.
func openLeases(list []*Reservation) (n int64, held money.Nano) {
	for _, r := range list {
		if r.Lease && r.open() {
			n++
			held += r.Held
		}
	}
	return n, held
}

func within(p *Proof) string {
	over := p.Sums.Posted + p.Sums.Reserved - p.Sums.Limit
	if over <= 0 {
		return fmt.Sprintf("That is within the limit; %s were available.", usd(p.Sums.Available))
	}
	text := fmt.Sprintf("That is %s above the limit.", usd(over))
	if p.Budget.Enforcement == "hard" {
		text += " No grant may take a hard budget there: the limit was lowered, a price was corrected or a provider billed beyond a bound; the audit of the budgets names it."
	}
	return text
}

func (r *Refusal) words() []string {
	seen := fmt.Sprintf("For request %s Redis showed %s posted and %s reserved of %s at %s, and it needed %s", r.Request, usd(r.Posted), usd(r.Reserved), usd(r.Limit), stamp(r.At), usd(r.Needed))
	if !r.Denied {
		return []string{seen + ": this budget did not refuse it. The reserved amount holds the request's own."}
	}
	out := []string{seen + "."}
	switch r.ExplainedBy {
	case ByLog:
		out = append(out, fmt.Sprintf("The refusal is proved: by the log %s were posted and %s reserved at that time, and %s more do not fit into %s.",
			usd(r.LogPosted), usd(r.LogReserved), usd(r.Needed), usd(r.Limit)))
	case ByClocks:
		out = append(out, fmt.Sprintf("The refusal is proved: by the log posted and reserved were %s together at %s, %s from Redis' time, and %s more do not fit into %s. Records have the time of their proxy, decisions that of Redis.",
			usd(r.Peak), stamp(r.PeakAt), r.PeakAt.Sub(r.At).Abs().Round(time.Microsecond), usd(r.Needed), usd(r.Limit)))
	default:
		out = append(out, fmt.Sprintf("The log does not show it: at most %s were posted and reserved within %s of that time. Redis held grants that were taken back before they were opened, or whose records no proxy has shipped yet.",
			usd(r.Peak), nearby))
	}
	if d := r.Posted + r.Reserved - r.LogPosted - r.LogReserved; d != 0 && r.ExplainedBy == ByLog {
		out = append(out, fmt.Sprintf("Redis and the log differ by %s: grants and ends that were on their way from one to the other.", usd(max(d, -d))))
	}
	return out
}

func usd(n money.Nano) string { return "$" + n.String() }

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.999999") }

func count(n int64, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}
