package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/rateguard/rateguard/deploy/adminclient"
)

var auditColumns = []column[adminclient.WorkspaceAudit]{
	{"workspace", func(w adminclient.WorkspaceAudit) string { return w.Workspace }},
	{"openings", func(w adminclient.WorkspaceAudit) string { return count(w.Openings) }},
	{"leases", func(w adminclient.WorkspaceAudit) string { return count(w.Leases) }},
	{"taken from leases", func(w adminclient.WorkspaceAudit) string { return count(w.TakenFromLeases) }},
	{"hard holds", func(w adminclient.WorkspaceAudit) string { return count(w.Hard) }},
	{"unknown policy", func(w adminclient.WorkspaceAudit) string { return count(w.UnknownPolicy) }},
	{"unknown leases", func(w adminclient.WorkspaceAudit) string { return count(w.UnknownLeases) }},
	{"epochs", func(w adminclient.WorkspaceAudit) string { return strconv.Itoa(len(w.Epochs)) }},
	{"grants taken back", func(w adminclient.WorkspaceAudit) string {
		missing := int64(0)
		for _, e := range w.Epochs {
			missing += e.Missing
		}
		return count(missing)
	}},
	{"overruns", func(w adminclient.WorkspaceAudit) string {
		if w.Overran == 0 {
			return "0"
		}
		return fmt.Sprintf("%d by $%s", w.Overran, w.OverranByUSD)
	}},
	{"lower views", func(w adminclient.WorkspaceAudit) string { return count(w.LowerViews) }},
	{"broken rules", func(w adminclient.WorkspaceAudit) string { return count(w.Broken) }},
}

func (a *app) auditBudgets() *cobra.Command {
	return a.command("audit", "Hold every grant in the log against the rules of budgets; all workspaces without --workspace", 0, func(ctx context.Context, _ []string) error {
		var c *adminclient.Client
		var ws string
		var err error
		if a.settings.workspace == "" {
			c, err = a.client()
		} else {
			c, ws, err = a.in(ctx)
		}
		if err != nil {
			return err
		}
		doc, err := c.AuditBudgets(ctx, ws)
		if err != nil {
			return err
		}
		var audit adminclient.BudgetAudit
		if err := json.Unmarshal(doc, &audit); err != nil {
			return fmt.Errorf("reading the audit: %w", err)
		}
		if a.output != "table" {
			err = a.document(doc)
		} else {
			err = a.audited(audit)
		}
		return errors.Join(err, unfit(audit))
	})
}

// unfit is the error of an audit that found something, or was not finished.
func unfit(audit adminclient.BudgetAudit) error {
	broken := int64(0)
	for _, w := range audit.Data {
		broken += w.Broken
	}
	switch {
	case broken > 0:
		return fmt.Errorf("rules of budgets are broken %d times", broken)
	case !audit.Complete:
		return errors.New("the log was not read to its end: it is too long for one audit; name a --workspace")
	}
	return nil
}

// audited prints a line for each workspace, then what was found.
func (a *app) audited(audit adminclient.BudgetAudit) error {
	if err := many(a, audit.Data, auditColumns); err != nil {
		return err
	}
	var lines []string
	for _, w := range audit.Data {
		for _, b := range w.Breaches {
			lines = append(lines, fmt.Sprintf("%s: rule %s: reservation %s at offset %d %s %s", w.Workspace, b.Rule, b.Reservation, b.Offset, b.Budget, b.Detail))
		}
		for _, o := range w.Overruns {
			lines = append(lines, fmt.Sprintf("%s: overrun: reservation %s at offset %d cost $%s of $%s reserved: %s", w.Workspace, o.Reservation, o.Offset, o.CostUSD, o.ReservedUSD, o.Cause))
		}
		for _, e := range w.Epochs {
			for _, g := range e.Gaps {
				lines = append(lines, fmt.Sprintf("%s: grants %d to %d of epoch %d were taken back before they were opened", w.Workspace, g.From, g.To, e.Epoch))
			}
		}
	}
	if len(lines) == 0 {
		return nil
	}
	if err := a.below(); err != nil {
		return err
	}
	return a.sentences(lines)
}
