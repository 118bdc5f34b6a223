package mirror

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/rateguard/rateguard/schemas/keyspace"
)

// Budgets are the budgets of a workspace as one look at Redis shows them. Amounts are nano-USD.
type Budgets struct {
	Epoch uint64
	// At is the offset in the topic of costs up to which ends are applied.
	At int64
	// Balances by their field's account; Entries are what the reservations that stand there say that they have to be.
	Balances map[keyspace.BudgetPeriod]Held
	Entries  map[keyspace.BudgetPeriod]Held
}

// Held is one balance. Confirmed is the part of posted that the log has shown; of entries it is 0. Lent is the part of reserved that leases hold.
type Held struct{ Posted, Reserved, Confirmed, Lent int64 }

// Budgets returns the budgets of a workspace; live is false where their state is not complete.
func (m *Mirror) Budgets(ctx context.Context, workspace string) (b *Budgets, live bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	fields, err := m.redis.HGetAll(ctx, keyspace.State(workspace)).Result()
	if err != nil {
		return nil, false, fmt.Errorf("reading the budgets of %s in Redis: %w", workspace, err)
	}
	if fields["epoch"] == "" {
		return nil, false, nil
	}
	if b, err = readBudgets(fields); err != nil {
		return nil, false, fmt.Errorf("reading the budgets of %s in Redis: %w", workspace, err)
	}
	return b, true, nil
}

// readBudgets reads the hash that the scripts of the proxies write.
func readBudgets(fields map[string]string) (*Budgets, error) {
	b := &Budgets{Balances: make(map[keyspace.BudgetPeriod]Held), Entries: make(map[keyspace.BudgetPeriod]Held)}
	var err error
	if b.Epoch, err = strconv.ParseUint(fields["epoch"], 10, 64); err != nil {
		return nil, fmt.Errorf("reading the epoch: %w", err)
	}
	if b.At, err = strconv.ParseInt(fields["at"], 10, 64); err != nil {
		return nil, fmt.Errorf("reading the offset: %w", err)
	}
	for field, text := range fields {
		switch {
		case strings.HasPrefix(field, "b"):
			err = b.balance(field, text)
		case strings.HasPrefix(field, "q"):
			err = b.lent(field, text)
		case strings.HasPrefix(field, "e") && field != "epoch":
			err = b.entry(text)
		}
		if err != nil {
			return nil, fmt.Errorf("reading field %q: %w", field, err)
		}
	}
	return b, nil
}

func (b *Budgets) balance(field, text string) error {
	p, err := keyspace.ParseField(field)
	if err != nil {
		return err
	}
	n, err := numbers(strings.Fields(text), 3)
	if err != nil {
		return err
	}
	held := b.Balances[p]
	held.Posted, held.Reserved, held.Confirmed = n[0], n[1], n[2]
	b.Balances[p] = held
	return nil
}

// lent notes what leases hold of a balance, whose field follows the letter.
func (b *Budgets) lent(field, text string) error {
	p, err := keyspace.ParseField(field[1:])
	if err != nil {
		return err
	}
	n, err := numbers(strings.Fields(text), 1)
	if err != nil {
		return err
	}
	held := b.Balances[p]
	held.Lent = n[0]
	b.Balances[p] = held
	return nil
}

// entry adds a reservation: its state and cost, its producer, then pairs of a balance and an amount. It is open, an open lease, or settled.
func (b *Budgets) entry(text string) error {
	words := strings.Fields(text)
	if len(words) < 3 || len(words)%2 == 0 {
		return fmt.Errorf("%q is no reservation", text)
	}
	cost, err := numbers(words[1:2], 1)
	if err != nil {
		return err
	}
	for i := 3; i < len(words); i += 2 {
		p, err := keyspace.ParseField(words[i])
		if err != nil {
			return err
		}
		amount, err := numbers(words[i+1:i+2], 1)
		if err != nil {
			return err
		}
		held := b.Entries[p]
		switch words[0] {
		case "o":
			held.Reserved += amount[0]
		case "l":
			held.Reserved += amount[0]
			held.Lent += amount[0]
		default:
			held.Posted += cost[0]
		}
		b.Entries[p] = held
	}
	return nil
}

func numbers(words []string, count int) ([]int64, error) {
	if len(words) != count {
		return nil, fmt.Errorf("%d numbers, want %d", len(words), count)
	}
	n := make([]int64, count)
	for i, w := range words {
		var err error
		if n[i], err = strconv.ParseInt(w, 10, 64); err != nil {
			return nil, fmt.Errorf("reading a number: %w", err)
		}
	}
	return n, nil
}
