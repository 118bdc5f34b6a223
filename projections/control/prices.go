package control

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// override is a price of an operator's own from an instant on.
type override struct {
	FromUS int64 `json:"from_us"`
	// Pico is the price of each unit in pico-USD; none: the catalogue's price again.
	Pico map[string]int64 `json:"pico,omitempty"`
	// Backdated holds only where costs are computed again: calls were charged by another price.
	Backdated bool `json:"backdated,omitempty"`
}

func (o override) from() time.Time { return time.UnixMicro(o.FromUS).UTC() }

func (o override) same(as override) bool {
	return o.FromUS == as.FromUS && o.Backdated == as.Backdated && maps.Equal(o.Pico, as.Pico)
}

// byTime orders overrides as they are stored and published.
func byTime(a, b override) int {
	switch {
	case a.FromUS != b.FromUS || a.Backdated == b.Backdated:
		return cmp.Compare(a.FromUS, b.FromUS)
	case b.Backdated:
		return -1
	default:
		return 1
	}
}

// modelPrice is all overrides of one model.
type modelPrice struct {
	Provider  string     `json:"provider"`
	Model     string     `json:"model"`
	Version   int64      `json:"version"` // 0: there never was one
	Overrides []override `json:"overrides"`
	CreatedAt time.Time  `json:"created_at"`
	UpdatedAt time.Time  `json:"updated_at"`
}

// key is the document's key in the topic, and its place in lists.
func (m modelPrice) key() string { return m.Provider + "/" + m.Model }

// document returns the overrides as they are published.
func (m modelPrice) document() *rateguardv1.PriceHistory {
	h := &rateguardv1.PriceHistory{Provider: m.Provider, Model: m.Model, Version: uint64(m.Version)} //nolint:gosec // versions count from 1
	for _, o := range m.Overrides {
		h.Overrides = append(h.Overrides, &rateguardv1.PriceOverride{EffectiveFromUnixUs: o.FromUS, PicoUsd: o.Pico, Backdated: o.Backdated})
	}
	return h
}

const priceColumns = "provider, model, version, overrides, created_at, updated_at"

func scanPrice(row pgx.CollectableRow) (modelPrice, error) {
	var m modelPrice
	var list []byte
	if err := row.Scan(&m.Provider, &m.Model, &m.Version, &list, &m.CreatedAt, &m.UpdatedAt); err != nil {
		return m, err
	}
	m.CreatedAt, m.UpdatedAt = m.CreatedAt.UTC(), m.UpdatedAt.UTC()
	return m, json.Unmarshal(list, &m.Overrides)
}

// readPrices returns the overrides of all models.
func readPrices(ctx context.Context, q querier) ([]modelPrice, error) {
	rows, err := q.Query(ctx, "SELECT "+priceColumns+" FROM control.prices ORDER BY provider, model")
	if err != nil {
		return nil, fmt.Errorf("reading the prices: %w", err)
	}
	found, err := pgx.CollectRows(rows, scanPrice)
	if err != nil {
		return nil, fmt.Errorf("reading the prices: %w", err)
	}
	return found, nil
}

// readPrice returns the overrides of a model under its canonical name; one without any has version 0.
func readPrice(ctx context.Context, q querier, provider, model string) (modelPrice, error) {
	rows, err := q.Query(ctx, "SELECT "+priceColumns+" FROM control.prices WHERE provider = $1 AND model = $2", provider, model)
	if err != nil {
		return modelPrice{}, fmt.Errorf("reading a price: %w", err)
	}
	found, err := pgx.CollectRows(rows, scanPrice)
	if err != nil {
		return modelPrice{}, fmt.Errorf("reading a price: %w", err)
	}
	if len(found) == 0 {
		return modelPrice{Provider: provider, Model: model}, nil
	}
	return found[0], nil
}

// histories returns the overrides as the catalogue takes them.
func histories(all []modelPrice) []*rateguardv1.PriceHistory {
	list := make([]*rateguardv1.PriceHistory, len(all))
	for i, m := range all {
		list[i] = m.document()
	}
	return list
}

// writePrice stores the overrides under their next version, above least, and publishes them.
func (c *change) writePrice(ctx context.Context, m *modelPrice, least int64) error {
	m.Version, m.UpdatedAt = max(m.Version, least)+1, c.now
	if m.CreatedAt.IsZero() {
		m.CreatedAt = c.now
	}
	m.Overrides = slices.SortedFunc(slices.Values(m.Overrides), byTime)
	if m.Overrides == nil {
		m.Overrides = []override{}
	}
	list, err := json.Marshal(m.Overrides)
	if err != nil {
		return fmt.Errorf("encoding overrides: %w", err)
	}
	const upsert = "INSERT INTO control.prices (" + priceColumns + `) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (provider, model) DO UPDATE SET version = excluded.version, overrides = excluded.overrides, updated_at = excluded.updated_at`
	if _, err := c.tx.Exec(ctx, upsert, m.Provider, m.Model, m.Version, list, m.CreatedAt, m.UpdatedAt); err != nil {
		return fmt.Errorf("writing a price: %w", err)
	}
	const keep = "INSERT INTO control.price_versions (provider, model, version, overrides, at) VALUES ($1, $2, $3, $4, $5)"
	if _, err := c.tx.Exec(ctx, keep, m.Provider, m.Model, m.Version, list, c.now); err != nil {
		return fmt.Errorf("keeping the version of a price: %w", err)
	}
	return c.publishPrice(ctx, *m)
}

func (c *change) publishPrice(ctx context.Context, m modelPrice) error {
	event := &rateguardv1.Event{Body: &rateguardv1.Event_PriceHistory{PriceHistory: m.document()}}
	return c.publish(ctx, topics.Prices, m.key(), event)
}

// currentPrices returns what the topic should show of every model that has or had overrides.
func (r *relay) currentPrices(ctx context.Context) (map[string]document, error) {
	found, err := readPrices(ctx, r.server.pool)
	if err != nil {
		return nil, err
	}
	all := make(map[string]document, len(found))
	for _, m := range found {
		if all[m.key()], err = newDocument(m.document().GetVersion(), m.document()); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// repairPrices publishes the overrides of a model again if they are not what the topic shows.
func (r *relay) repairPrices(ctx context.Context, key string, want, seen document) (bool, error) {
	repaired := false
	err := r.server.rootChange(ctx, func(ctx context.Context, c *change) error {
		all, err := readPrices(ctx, c.tx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(m modelPrice) bool { return m.key() == key })
		if i < 0 {
			return nil
		}
		m := all[i]
		now, err := newDocument(m.document().GetVersion(), m.document())
		if err != nil {
			return err
		}
		publish, ahead := verdict(now, want, seen)
		if !publish {
			return nil
		}
		repaired = true
		if ahead {
			return c.writePrice(ctx, &m, int64(seen.largest)) //nolint:gosec // versions count from 1
		}
		return c.publishPrice(ctx, m)
	})
	return repaired, err
}
