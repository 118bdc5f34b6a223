package control

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/rateguard/rateguard/projections/problem"
	"github.com/rateguard/rateguard/schemas/price"
)

// priceEndpoints are the rows of the API for prices. The model is the rest of the path: names of models have slashes.
func (s *Server) priceEndpoints() []endpoint {
	const one = "/v1/prices/{provider}/{model:.+}"
	return []endpoint{
		{http.MethodGet, "/v1/prices", rootOnly, s.listPrices},
		{http.MethodGet, one, rootOnly, s.getPrice},
		{http.MethodPut, one, rootOnly, s.putPrice},
		{http.MethodDelete, one, rootOnly, s.deletePrice},
	}
}

// listPrices shows the catalogue and the models that only have overrides, each with its price in force.
func (s *Server) listPrices(ctx context.Context, c *call) (answer, error) {
	q := c.http.URL.Query()
	if err := onlyParameters(q, "provider", "model", "limit", "cursor"); err != nil {
		return answer{}, err
	}
	p, err := readPage(url.Values{"limit": q["limit"], "cursor": q["cursor"]})
	if err != nil {
		return answer{}, err
	}
	all, err := readPrices(ctx, s.pool)
	if err != nil {
		return answer{}, storeError("listing prices", err)
	}
	catalogue, err := price.Default().With(histories(all))
	if err != nil {
		return answer{}, problem.Hidden(err)
	}
	provider, _ := price.Default().Canonical(q.Get("provider"), "")
	pattern := strings.ToLower(q.Get("model"))
	prefix, open := strings.CutSuffix(pattern, "*")
	// The models by key; the catalogue's way to write a name is shown where it has one.
	models := map[string]modelPrice{}
	for _, m := range all {
		if len(m.Overrides) > 0 {
			models[m.key()] = m
		}
	}
	for _, e := range price.Default().Entries() {
		m := modelPrice{Provider: e.Provider, Model: strings.ToLower(e.Model)}
		key := m.key()
		m.Model = e.Model
		models[key] = m
	}
	var keys []string
	for key, m := range models {
		name := strings.ToLower(m.Model)
		if key > p.after && (provider == "" || m.Provider == provider) && (pattern == "" || name == pattern || open && strings.HasPrefix(name, prefix)) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	rows := make([]modelView, 0, p.limit+1)
	for _, key := range keys[:min(len(keys), p.limit+1)] {
		v, _ := newModelView(catalogue, models[key].Provider, models[key].Model, s.now())
		rows = append(rows, v)
	}
	return answer{status: http.StatusOK, body: newList(rows, p, func(v modelView) string { return v.Provider + "/" + strings.ToLower(v.Model) })}, nil
}

// priceNames reads whose price a path is about.
func priceNames(c *call) (provider, model string, err error) {
	o := &object{errs: new([]problem.Field)}
	o.checkText("provider", c.vars["provider"], maxName)
	o.checkText("model", c.vars["model"], maxName)
	if len(*o.errs) > 0 {
		return "", "", problem.Invalid(*o.errs...)
	}
	provider, model = price.Default().Canonical(c.vars["provider"], c.vars["model"])
	return provider, model, nil
}

func (s *Server) getPrice(ctx context.Context, c *call) (answer, error) {
	if err := onlyParameters(c.http.URL.Query()); err != nil {
		return answer{}, err
	}
	provider, model, err := priceNames(c)
	if err != nil {
		return answer{}, err
	}
	m, err := readPrice(ctx, s.pool, provider, model)
	if err != nil {
		return answer{}, storeError("getting a price", err)
	}
	return s.showPrice(ctx, m)
}

// showPrice answers with a model and all of its prices.
func (s *Server) showPrice(ctx context.Context, m modelPrice) (answer, error) {
	all, err := readPrices(ctx, s.pool)
	if err != nil {
		return answer{}, storeError("getting a price", err)
	}
	catalogue, err := price.Default().With(histories(all))
	if err != nil {
		return answer{}, problem.Hidden(err)
	}
	d, found := newModelDetail(catalogue, m, s.now())
	if !found {
		return answer{}, problem.Missing("price", m.key())
	}
	return answer{status: http.StatusOK, body: d, version: m.Version}, nil
}

func (s *Server) putPrice(ctx context.Context, c *call) (answer, error) {
	o, err := readObject(c.http, false)
	if err != nil {
		return answer{}, err
	}
	list := readOverrides(o)
	if err := o.done(); err != nil {
		return answer{}, err
	}
	return s.changePrice(ctx, c, "price.put", func(m modelPrice, ch *change) ([]override, error) {
		return list, checkOverrides(m, list, ch.now)
	})
}

// deletePrice gives a model back to the catalogue. What has acted stays as history; the answer shows from when on.
func (s *Server) deletePrice(ctx context.Context, c *call) (answer, error) {
	return s.changePrice(ctx, c, "price.delete", func(m modelPrice, ch *change) ([]override, error) {
		if len(m.Overrides) == 0 {
			return nil, problem.Missing("price override", m.key())
		}
		return withoutOverrides(m, ch.now), nil
	})
}

// changePrice replaces the overrides of a model by what next makes of them.
func (s *Server) changePrice(ctx context.Context, c *call, name string, next func(modelPrice, *change) ([]override, error)) (answer, error) {
	provider, model, err := priceNames(c)
	if err != nil {
		return answer{}, err
	}
	cond, err := readCondition(c.http.Header)
	if err != nil {
		return answer{}, err
	}
	var m modelPrice
	created := false
	err = s.rootChange(ctx, func(ctx context.Context, ch *change) error {
		if m, err = readPrice(ctx, ch.tx, provider, model); err != nil {
			return err
		}
		if err := cond.check(m.Version); err != nil {
			return err
		}
		list, err := next(m, ch)
		if err != nil {
			return err
		}
		slices.SortFunc(list, byTime)
		if slices.EqualFunc(list, m.Overrides, override.same) {
			return nil
		}
		created = m.Version == 0
		did := action{actor: c.caller.actor(), name: name, object: "prices/" + m.key(), before: newOverrideViews(m.Overrides), after: newOverrideViews(list)}
		m.Overrides = list
		if err := ch.writePrice(ctx, &m, 0); err != nil {
			return err
		}
		return ch.record(ctx, did)
	})
	if err != nil {
		return answer{}, err
	}
	if len(m.Overrides) == 0 && m.Version == 0 {
		m.Overrides = []override{}
	}
	a, err := s.showPrice(ctx, m)
	if err == nil && created {
		a.status, a.location = http.StatusCreated, "/v1/prices/"+url.PathEscape(provider)+"/"+url.PathEscape(model)
	}
	return a, err
}
