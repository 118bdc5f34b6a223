package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/schemas/price"
)

var priceColumns = []column[adminclient.ModelPrice]{
	{"provider", func(p adminclient.ModelPrice) string { return p.Provider }},
	{"model", func(p adminclient.ModelPrice) string { return p.Model }},
	{"source", func(p adminclient.ModelPrice) string {
		if p.Price == nil {
			return "none"
		}
		return p.Price.Source
	}},
	{"usd a million tokens", func(p adminclient.ModelPrice) string {
		if p.Price == nil {
			return p.Refused
		}
		return ratesText(p.Price.PerMillion)
	}},
	{"an hour, a piece", func(p adminclient.ModelPrice) string {
		if p.Price == nil {
			return ""
		}
		return ratesText(p.Price.PerHour, p.Price.PerUnit)
	}},
}

var overrideColumns = []column[adminclient.PriceOverride]{
	{"from", func(o adminclient.PriceOverride) string { return stamp(o.EffectiveFrom) }},
	{"usd a million tokens", func(o adminclient.PriceOverride) string {
		if o.Catalogue {
			return "the catalogue's"
		}
		return ratesText(o.PerMillion)
	}},
	{"an hour, a piece", func(o adminclient.PriceOverride) string { return ratesText(o.PerHour, o.PerUnit) }},
	{"backdated", func(o adminclient.PriceOverride) string {
		if o.Backdated {
			return "yes"
		}
		return ""
	}},
}

func ratesText(all ...map[string]string) string {
	var parts []string
	for _, rates := range all {
		for _, unit := range slices.Sorted(maps.Keys(rates)) {
			parts = append(parts, strings.TrimSuffix(unit, "_tokens")+" "+rates[unit])
		}
	}
	return strings.Join(parts, ", ")
}

func (a *app) prices() *cobra.Command {
	return a.group("prices", "See what models cost and set prices of your own", a.listPrices(),
		a.command("get PROVIDER MODEL", "Show a model's price and all of its overrides", 2, func(ctx context.Context, args []string) error {
			return a.onePrice(func(c *adminclient.Client) (adminclient.Price, error) { return c.Price(ctx, args[0], args[1]) })
		}),
		a.setPrice(),
		a.command("delete PROVIDER MODEL", "Give a model back to the catalogue, a minute from now", 2, func(ctx context.Context, args []string) error {
			return a.onePrice(func(c *adminclient.Client) (adminclient.Price, error) { return c.DeletePrice(ctx, args[0], args[1]) })
		}))
}

func (a *app) listPrices() *cobra.Command {
	var provider, model string
	cmd := a.command("list", "List what the models cost now", 0, func(ctx context.Context, _ []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		all, err := c.Prices(ctx, provider, model)
		if err != nil {
			return err
		}
		return many(a, all, priceColumns)
	})
	cmd.Flags().StringVar(&provider, "provider", "", "only of this provider")
	cmd.Flags().StringVar(&model, "model", "", "only this model; a trailing * stands for anything")
	return cmd
}

// onePrice shows a model, in a table with its overrides below it.
func (a *app) onePrice(get func(*adminclient.Client) (adminclient.Price, error)) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	p, err := get(c)
	if err != nil {
		return err
	}
	if a.output != "table" {
		return a.document(p)
	}
	if err := one(a, p.ModelPrice, priceColumns); err != nil || len(p.Overrides) == 0 {
		return err
	}
	if _, err := fmt.Fprintln(a.env.Stdout); err != nil {
		return err
	}
	return many(a, p.Overrides, overrideColumns)
}

// setLead is how far ahead a price without --from begins: the API asks for a minute.
const setLead = 65 * time.Second

func (a *app) setPrice() *cobra.Command {
	var from string
	var usd map[string]string
	var o adminclient.PriceOverride
	cmd := a.command("set PROVIDER MODEL", "Add a price of your own from an instant on", 2, func(ctx context.Context, args []string) error {
		if o.Catalogue == (len(usd) > 0) {
			return usagef("either --usd or --catalogue is required")
		}
		for unit, text := range usd {
			if err := putRate(&o.Rates, unit, text); err != nil {
				return err
			}
		}
		o.EffectiveFrom = time.Now().Add(setLead).UTC().Truncate(time.Second)
		if from != "" {
			at, err := instant(from, time.Now())
			if err != nil {
				return usagef("--from: %w", err)
			}
			o.EffectiveFrom = at.UTC()
		} else if o.Backdated {
			return usagef("--from is required with --backdated")
		}
		return a.onePrice(func(c *adminclient.Client) (adminclient.Price, error) {
			p, err := c.Price(ctx, args[0], args[1])
			if err != nil && !missing(err) { // a model that nobody knows yet can have a price
				return p, err
			}
			same := func(old adminclient.PriceOverride) bool {
				return old.EffectiveFrom.Equal(o.EffectiveFrom) && old.Backdated == o.Backdated
			}
			return c.PutPrice(ctx, args[0], args[1], append(slices.DeleteFunc(p.Overrides, same), o))
		})
	})
	f := cmd.Flags()
	f.StringToStringVar(&usd, "usd", nil, "UNIT=USD for a million tokens, an hour or a piece, such as input_tokens=2.5,output_tokens=10")
	f.StringVar(&from, "from", "", "start: RFC 3339, or how long ago such as 48h with --backdated (default in 65 s)")
	f.BoolVar(&o.Catalogue, "catalogue", false, "the catalogue's price again")
	f.BoolVar(&o.Backdated, "backdated", false, "a price of the past, for rateguard reprice alone")
	return cmd
}

// putRate puts the price of a unit where its kind belongs.
func putRate(r *adminclient.Rates, unit, usd string) error {
	per, known := price.PerOf(unit)
	if !known {
		return usagef("--usd: %q is no unit", unit)
	}
	to := map[price.Per]*map[string]string{price.PerMillion: &r.PerMillion, price.PerHour: &r.PerHour, price.PerUnit: &r.PerUnit}[per]
	if *to == nil {
		*to = map[string]string{}
	}
	(*to)[unit] = usd
	return nil
}
