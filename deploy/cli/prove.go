package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/rateguard/rateguard/deploy/adminclient"
)

var provedColumns = []column[adminclient.ProvedReservation]{
	{"reservation", func(r adminclient.ProvedReservation) string { return r.ID }},
	{"opened", func(r adminclient.ProvedReservation) string {
		if r.Opened == nil {
			return "not in the log"
		}
		return stamp(r.Opened.At)
	}},
	{"amount", opening(func(r adminclient.ProvedReservation) string { return r.Opened.AmountUSD })},
	{"held", func(r adminclient.ProvedReservation) string {
		if len(r.Ends) > 0 {
			return ""
		}
		return r.HeldUSD
	}},
	{"lease", func(r adminclient.ProvedReservation) string {
		switch {
		case r.Lease:
			return "is one"
		case r.Opened == nil:
			return ""
		}
		return r.Opened.LeaseID
	}},
	{"epoch/op", opening(func(r adminclient.ProvedReservation) string {
		if r.Opened.LeaseID != "" {
			return count(r.Opened.Epoch) + "/lease"
		}
		return count(r.Opened.Epoch) + "/" + count(r.Opened.Op)
	})},
	{"policy", opening(func(r adminclient.ProvedReservation) string { return count(r.Opened.PolicyVersion) })},
	{"prices", opening(func(r adminclient.ProvedReservation) string { return r.Opened.PriceVersion })},
	{"grant saw posted", opening(func(r adminclient.ProvedReservation) string { return r.Opened.PostedUSD })},
	{"reserved", opening(func(r adminclient.ProvedReservation) string { return r.Opened.ReservedUSD })},
	{"limit", opening(func(r adminclient.ProvedReservation) string { return r.Opened.LimitUSD })},
	{"end", func(r adminclient.ProvedReservation) string {
		if len(r.Ends) == 0 {
			return "open"
		}
		e := r.Ends[len(r.Ends)-1]
		return fmt.Sprintf("%s by %s", e.Kind, e.By)
	}},
	{"revision", func(r adminclient.ProvedReservation) string {
		if len(r.Ends) == 0 {
			return ""
		}
		return strconv.Itoa(r.Ends[len(r.Ends)-1].Revision)
	}},
	{"cost", func(r adminclient.ProvedReservation) string {
		if len(r.Ends) == 0 {
			return ""
		}
		e := r.Ends[len(r.Ends)-1]
		text := usdText(e.CostUSD, "unknown")
		if e.Estimated {
			text += " (estimated)"
		}
		return text
	}},
}

// opening shows a part of an opening, where there is one.
func opening(text func(adminclient.ProvedReservation) string) func(adminclient.ProvedReservation) string {
	return func(r adminclient.ProvedReservation) string {
		if r.Opened == nil {
			return ""
		}
		return text(r)
	}
}

func (a *app) proveBudget() *cobra.Command {
	var q adminclient.ProofQuery
	var at string
	cmd := a.command("prove BUDGET", "Prove from the log what a budget was at a time, and why a request was refused", 1, func(ctx context.Context, args []string) error {
		var err error
		if q.At, err = instant(at, time.Now()); err != nil {
			return usagef("--at: %w", err)
		}
		q.All = a.output != "table"
		c, ws, err := a.in(ctx)
		if err != nil {
			return err
		}
		doc, err := c.ProveBudget(ctx, ws, args[0], q)
		if err != nil {
			return err
		}
		if a.output != "table" {
			return a.document(doc)
		}
		var p adminclient.Proof
		if err := json.Unmarshal(doc, &p); err != nil {
			return fmt.Errorf("reading the proof: %w", err)
		}
		return a.proved(p)
	})
	f := cmd.Flags()
	f.StringVar(&at, "at", "", "the instant: RFC 3339, or how long ago such as 2h (default now, or when the request was decided)")
	f.StringVar(&q.Balance, "balance", "", "key id, route or model, of a budget that divides")
	f.StringVar(&q.Request, "request", "", "id of a request whose decision is compared with the log")
	return cmd
}

// proved prints the sentences, then the largest reservations.
func (a *app) proved(p adminclient.Proof) error {
	if err := a.sentences(p.Verdict); err != nil {
		return err
	}
	if len(p.Data) == 0 {
		return nil
	}
	if err := a.below(); err != nil {
		return err
	}
	if err := many(a, p.Data, provedColumns); err != nil {
		return err
	}
	if p.Omitted > 0 {
		return a.sentences([]string{fmt.Sprintf("%d smaller ones are not shown; -o json shows all.", p.Omitted)})
	}
	return nil
}

// sentences prints lines that people read.
func (a *app) sentences(lines []string) error {
	for _, s := range lines {
		if _, err := fmt.Fprintln(a.env.Stdout, printable(s)); err != nil {
			return fmt.Errorf("writing the answer: %w", err)
		}
	}
	return nil
}
