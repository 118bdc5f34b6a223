package mirror

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/rateguard/rateguard/schemas/keyspace"
)

// readPatience bounds one reading of balances: there is another place to read them from.
const readPatience = 500 * time.Millisecond

// Balance is what one budget has posted and holds reserved in one period, in nano-USD.
type Balance struct{ Posted, Reserved int64 }

// Balances returns the balances of a workspace, in the order of periods; one that nothing was reserved of is zero. live is false where the state
// in Redis is not complete, as after a loss until it has been rebuilt: then there are none.
func (m *Mirror) Balances(ctx context.Context, workspace string, periods []keyspace.BudgetPeriod) (found []Balance, live bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	fields := []string{"epoch"}
	for _, p := range periods {
		fields = append(fields, p.Field())
	}
	values, err := m.redis.HMGet(ctx, keyspace.State(workspace), fields...).Result()
	if err != nil {
		return nil, false, fmt.Errorf("reading balances in Redis: %w", err)
	}
	if values[0] == nil {
		return nil, false, nil
	}
	for i, v := range values[1:] {
		b, err := parseBalance(v)
		if err != nil {
			return nil, false, fmt.Errorf("reading balance %s in Redis: %w", fields[i+1], err)
		}
		found = append(found, b)
	}
	return found, true, nil
}

// parseBalance reads "posted reserved confirmed", as the script of admissions writes it.
func parseBalance(v any) (Balance, error) {
	text, there := v.(string)
	if !there {
		return Balance{}, nil
	}
	words := strings.Fields(text)
	if len(words) != 3 {
		return Balance{}, fmt.Errorf("%q is not made of three numbers", text)
	}
	var b Balance
	for i, to := range []*int64{&b.Posted, &b.Reserved} {
		var err error
		if *to, err = strconv.ParseInt(words[i], 10, 64); err != nil {
			return Balance{}, fmt.Errorf("%q is not made of three numbers: %w", text, err)
		}
	}
	return b, nil
}
