package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/schemas/money"
)

var checkColumns = []column[adminclient.Check]{
	{"check", func(k adminclient.Check) string { return k.ID }},
	{"scope", func(k adminclient.Check) string { return strings.TrimSpace(k.Scope + " " + k.Subject) }},
	{"unit", func(k adminclient.Check) string {
		if k.Kind == "budget" {
			return "USD"
		}
		return k.Unit
	}},
	{"limit", func(k adminclient.Check) string { return amount(k, k.Limit) }},
	{"window", func(k adminclient.Check) string { return micros(k.WindowUS) }},
	{"used", func(k adminclient.Check) string { return amount(k, k.Used) }},
	{"reserved", func(k adminclient.Check) string {
		if k.Kind == "budget" {
			return amount(k, k.Reserved)
		}
		return ""
	}},
	{"remaining", func(k adminclient.Check) string { return amount(k, k.Remaining) }},
	{"cost", func(k adminclient.Check) string { return amount(k, k.Cost) }},
	{"reset", func(k adminclient.Check) string { return micros(k.ResetAfterUS) }},
	{"retry", func(k adminclient.Check) string { return micros(k.RetryAfterUS) }},
	{"decided by", func(k adminclient.Check) string { return k.DecidedBy }},
	{"result", func(k adminclient.Check) string {
		if k.Denied {
			return "refused"
		}
		return "admitted"
	}},
}

// amount shows a number of a check in its unit; a budget's are nano-USD.
func amount(k adminclient.Check, n int64) string {
	if k.Kind == "budget" {
		return money.Nano(n).String()
	}
	return count(n)
}

// end is one line of the ledger: a revision of a reservation's end, or a reservation that has none yet.
type end struct {
	reservation adminclient.Reservation
	outcome     adminclient.ReservationOutcome
}

var endColumns = []column[end]{
	{"reservation", func(e end) string { return e.reservation.ID }},
	{"opened", func(e end) string { return stampAt(e.reservation.OpenedAt) }},
	{"bound usd", func(e end) string { return e.known(usdText(e.reservation.BoundUSD, "none")) }},
	{"revision", func(e end) string { return e.known(strconv.Itoa(e.outcome.Revision)) }},
	{"end", func(e end) string {
		if e.outcome.Kind == "" {
			return "not in the ledger yet"
		}
		return e.outcome.Kind
	}},
	{"cost usd", func(e end) string { return e.known(usdText(e.outcome.CostUSD, "unknown")) }},
	{"reason", func(e end) string { return e.outcome.Reason }},
}

// known is text where the ledger has an end.
func (e end) known(text string) string {
	if e.outcome.Kind == "" {
		return ""
	}
	return text
}

func usdText(usd *string, absent string) string {
	if usd == nil {
		return absent
	}
	return *usd
}

// micros shows a time in µs, nothing for none.
func micros(us int64) string {
	if us == 0 {
		return ""
	}
	return (time.Duration(us) * time.Microsecond).String()
}

func (a *app) explainRequest() *cobra.Command {
	return a.command("explain ID", "Say why a request was let through or refused, and what it cost", 1, func(ctx context.Context, args []string) error {
		c, ws, err := a.in(ctx)
		if err != nil {
			return err
		}
		doc, err := c.Explain(ctx, ws, args[0])
		if err != nil {
			return err
		}
		if a.output != "table" {
			return a.document(doc)
		}
		var e adminclient.Explanation
		if err := json.Unmarshal(doc, &e); err != nil {
			return fmt.Errorf("reading the explanation: %w", err)
		}
		return a.explain(e)
	})
}

// explain prints the sentences, then what stands behind them.
func (a *app) explain(e adminclient.Explanation) error {
	if err := a.sentences(e.Why); err != nil {
		return err
	}
	if len(e.Checks) > 0 {
		if err := a.below(); err != nil {
			return err
		}
		if err := many(a, e.Checks, checkColumns); err != nil {
			return err
		}
	}
	var ends []end
	for _, r := range e.Reservations {
		if len(r.Outcomes) == 0 {
			ends = append(ends, end{reservation: r})
		}
		for _, o := range r.Outcomes {
			ends = append(ends, end{r, o})
		}
	}
	if len(ends) == 0 {
		return nil
	}
	if err := a.below(); err != nil {
		return err
	}
	return many(a, ends, endColumns)
}

// below sets what follows apart from what stands above.
func (a *app) below() error {
	if _, err := fmt.Fprintln(a.env.Stdout); err != nil {
		return fmt.Errorf("writing the explanation: %w", err)
	}
	return nil
}
