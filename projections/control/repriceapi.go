package control

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/projections/postgres"
	"github.com/rateguard/rateguard/projections/problem"
	"github.com/rateguard/rateguard/schemas/price"
)

const (
	// ledgerProjection is the projection whose table is read.
	ledgerProjection = "ledger"
	// dryRunTimeout bounds a dry run, below the write timeout of the server.
	dryRunTimeout = 75 * time.Second
	// dryRunChunk is how many reservations a dry run reads at a time.
	dryRunChunk = 5000
	// maxReason is the largest number of characters of a reason.
	maxReason = 500
)

// repriceView is a reprice as the API shows it.
type repriceView struct {
	// ID, State and the times are absent in a dry run.
	ID        string    `json:"id,omitempty"`
	DryRun    bool      `json:"dry_run"`
	State     string    `json:"state,omitempty"`
	Error     string    `json:"error,omitempty"`
	From      time.Time `json:"from"`
	To        time.Time `json:"to"`
	Workspace string    `json:"workspace,omitempty"`
	Provider  string    `json:"provider,omitempty"`
	Model     string    `json:"model,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	repriceTotals
	Data []repriceRow `json:"data"`
	// AsOf is how far a dry run saw the ledger follow the log.
	AsOf       *time.Time `json:"as_of,omitempty"`
	CreatedAt  *time.Time `json:"created_at,omitempty"`
	StartedAt  *time.Time `json:"started_at,omitempty"`
	FinishedAt *time.Time `json:"finished_at,omitempty"`
}

func newRepriceView(r reprice, s repriceSums) (repriceView, error) {
	v := repriceView{
		ID: r.ID, DryRun: r.ID == "", State: r.State, Error: r.Error, From: r.scope.from, To: r.scope.to, Workspace: r.scope.workspace,
		Provider: r.scope.provider, Model: r.scope.model, Reason: r.Reason, StartedAt: r.StartedAt, FinishedAt: r.FinishedAt,
	}
	if !v.DryRun {
		v.CreatedAt = &r.CreatedAt
	}
	var err error
	v.Data, v.repriceTotals, err = s.rows()
	return v, err
}

func newProducer() (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("making a producer id: %w", err)
	}
	return id.String(), nil
}

func (s *Server) repriceEndpoints() []endpoint {
	return []endpoint{
		{http.MethodPost, "/v1/reprice", rootOnly, s.postReprice},
		{http.MethodGet, "/v1/reprice/{reprice}", rootOnly, s.getReprice},
	}
}

func (s *Server) postReprice(ctx context.Context, c *call) (answer, error) {
	o, err := readObject(c.http, false)
	if err != nil {
		return answer{}, err
	}
	r, dry := readRepriceSpec(o, s.now())
	if err := o.done(); err != nil {
		return answer{}, err
	}
	r.Actor = c.caller.actor()
	if r.scope.workspace != "" {
		// A deleted workspace has costs still.
		if _, err := readWorkspace(ctx, s.pool, r.scope.workspace, ""); err != nil {
			return answer{}, err
		}
	}
	if dry {
		return s.dryRun(ctx, r)
	}
	if r, err = s.startReprice(ctx, r); err != nil {
		return answer{}, err
	}
	v, err := newRepriceView(r, repriceSums{})
	if err != nil {
		return answer{}, problem.Hidden(err)
	}
	return answer{status: http.StatusAccepted, body: v, location: "/v1/reprice/" + r.ID}, nil
}

// readRepriceSpec reads the body of a POST.
func readRepriceSpec(o *object, now time.Time) (r reprice, dry bool) {
	o.require("from")
	from, ok := o.instant("from")
	r.scope.from, r.scope.to = from, now
	if to, given := o.instant("to"); given {
		r.scope.to = to
	}
	if ok && !o.failed("to") && !r.scope.from.Before(r.scope.to) {
		o.fail("to", "must be after from")
	}
	r.scope.workspace, _ = o.text("workspace", maxName)
	if provider, ok := o.text("provider", maxName); ok {
		r.scope.provider, _ = price.Default().Canonical(provider, "")
	}
	r.scope.model, _ = o.text("model", maxName)
	o.into("dry_run", &dry, "true or false")
	r.Reason, ok = o.text("reason", maxReason)
	if !dry && !ok && !o.failed("reason") {
		o.fail("reason", "is required where costs are corrected")
	}
	return r, dry
}

// dryRun computes what a run would change, from one snapshot of the ledger.
func (s *Server) dryRun(ctx context.Context, r reprice) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, dryRunTimeout)
	defer cancel()
	progress, err := postgres.ReadProgress(ctx, s.pool, ledgerProjection)
	if err != nil {
		return answer{}, storeError("looking at the ledger's progress", err)
	}
	sums := repriceSums{}
	err = pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if r.prices, err = readPrices(ctx, tx); err != nil {
			return err
		}
		catalogue, err := r.catalogue()
		if err != nil {
			return err
		}
		for at := (ledgerCursor{}); ; {
			rows, err := r.scope.next(ctx, tx, &at, dryRunChunk)
			if err != nil || len(rows) == 0 {
				return err
			}
			for i := range rows {
				if err := sums.add(&rows[i], rows[i].change(catalogue)); err != nil {
					return err
				}
			}
		}
	})
	if ctx.Err() != nil {
		return answer{}, problem.New(http.StatusUnprocessableEntity, problem.InvalidRequest, "the range holds more than can be computed in %s; a run without dry_run has no such bound", dryRunTimeout)
	}
	if err != nil {
		return answer{}, storeError("computing costs again", err)
	}
	v, err := newRepriceView(r, sums)
	if err != nil {
		return answer{}, problem.Hidden(err)
	}
	if !progress.AsOf.IsZero() {
		at := progress.AsOf.UTC()
		v.AsOf = &at
	}
	return answer{status: http.StatusOK, body: v}, nil
}

func (s *Server) getReprice(ctx context.Context, c *call) (answer, error) {
	if err := onlyParameters(c.http.URL.Query()); err != nil {
		return answer{}, err
	}
	r, found, err := readReprice(ctx, s.pool, "id = $1", c.vars["reprice"])
	if err != nil {
		return answer{}, storeError("getting a reprice", err)
	}
	if !found {
		return answer{}, problem.Missing("reprice", c.vars["reprice"])
	}
	sums, err := readRepriceSums(ctx, s.pool, r.ID)
	if err != nil {
		return answer{}, storeError("getting a reprice", err)
	}
	v, err := newRepriceView(r, sums)
	if err != nil {
		return answer{}, problem.Hidden(err)
	}
	return answer{status: http.StatusOK, body: v}, nil
}
