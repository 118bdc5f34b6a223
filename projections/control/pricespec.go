package control

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/rateguard/rateguard/projections/problem"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/price"
)

// Bounds of overrides.
const (
	// priceLead is how long before it acts a price must be published, so that every proxy has it in time.
	priceLead = time.Minute
	// maxOverrides is how many overrides a model can have.
	maxOverrides = 100
)

// perFields are the fields of prices by what they are quoted for.
var perFields = map[price.Per]string{price.PerMillion: "usd_per_million", price.PerHour: "usd_per_hour", price.PerUnit: "usd_per_unit"}

// readOverrides reads the field overrides of a PUT.
func readOverrides(o *object) []override {
	o.require("overrides")
	var raw []json.RawMessage
	if !o.into("overrides", &raw, "a list") {
		return nil
	}
	if len(raw) > maxOverrides {
		o.fail("overrides", "must have at most %d items", maxOverrides)
		return nil
	}
	var list []override
	for i, r := range raw {
		item := fmt.Sprintf("overrides[%d]", i)
		c := &object{path: item, errs: o.errs, seen: map[string]bool{}}
		if err := c.parse(r); err != nil {
			o.fail(item, "must be an object")
			continue
		}
		v := readOverride(c)
		twice := func(a override) bool { return a.FromUS == v.FromUS && a.Backdated == v.Backdated }
		if slices.ContainsFunc(list, twice) && !c.failed("effective_from") {
			c.fail("effective_from", "is given twice")
		}
		list = append(list, v)
	}
	return list
}

func readOverride(c *object) override {
	var v override
	c.require("effective_from")
	from, _ := c.instant("effective_from")
	v.FromUS = from.UnixMicro()
	c.into("backdated", &v.Backdated, "true or false")
	var catalogue bool
	c.into("catalogue", &catalogue, "true or false")
	for _, per := range []price.Per{price.PerMillion, price.PerHour, price.PerUnit} {
		readRates(c, per, &v)
	}
	switch {
	case catalogue && len(v.Pico) > 0:
		c.fail("catalogue", "gives the model back to the catalogue, so that prices beside it mean nothing")
	case !catalogue && len(v.Pico) == 0:
		c.fail("usd_per_million", `prices are required; "catalogue": true gives the model back to the catalogue`)
	}
	c.unknown()
	return v
}

// readRates reads the prices of the units that are quoted in one way.
func readRates(c *object, per price.Per, v *override) {
	name := perFields[per]
	u, ok := c.child(name)
	if !ok {
		return
	}
	for _, unit := range slices.Sorted(maps.Keys(u.fields)) {
		u.seen[unit] = true
		of, known := price.PerOf(unit)
		switch {
		case !known:
			u.fail(unit, "is no unit")
			continue
		case of != per:
			u.fail(unit, "belongs to %s", perFields[of])
			continue
		}
		var text string
		if !u.require(unit) || !u.into(unit, &text, "a decimal string of USD") {
			continue
		}
		pico, err := price.ParseRate(unit, text)
		if err != nil {
			u.fail(unit, "%s", err)
			continue
		}
		if v.Pico == nil {
			v.Pico = map[string]int64{}
		}
		v.Pico[unit] = pico
	}
}

// checkOverrides returns what is wrong with a list of overrides that is to follow another one: prices that do not go together, new
// ones that would act too soon, and changes of what has acted. Calls were charged by those, so that they are history.
func checkOverrides(m modelPrice, next []override, now time.Time) error {
	var bad []problem.Field
	fail := func(i int, field, format string, args ...any) {
		bad = append(bad, problem.Field{Field: fmt.Sprintf("overrides[%d].%s", i, field), Message: fmt.Sprintf(format, args...)})
	}
	soonest := now.Add(priceLead)
	for i, o := range next {
		alone := modelPrice{Provider: m.Provider, Model: m.Model, Version: 1, Overrides: []override{o}}
		if _, err := price.Default().Restated([]*rateguardv1.PriceHistory{alone.document()}); err != nil {
			fail(i, "usd_per_million", "%s", err)
		}
		known := slices.ContainsFunc(m.Overrides, o.same)
		switch {
		case o.Backdated && o.from().After(now):
			fail(i, "backdated", "is for prices of the past")
		case !o.Backdated && !known && o.from().Before(soonest):
			fail(i, "effective_from", `must be at least %s ahead, so that every proxy has it in time; a price of the past takes "backdated": true and acts where costs are computed again`, priceLead)
		}
	}
	for _, old := range m.Overrides {
		if !old.Backdated && old.from().Before(soonest) && !slices.ContainsFunc(next, old.same) {
			bad = append(bad, problem.Field{Field: "overrides", Message: fmt.Sprintf(
				`the price from %s acts or is about to, and cannot be changed or left out: add one for later, or one with "backdated": true`, old.from().Format(time.RFC3339Nano))})
		}
	}
	if len(bad) > 0 {
		return problem.Invalid(bad...)
	}
	return nil
}

// withoutOverrides returns the overrides that give a model back to the catalogue as soon as a price may act: what has acted stays.
func withoutOverrides(m modelPrice, now time.Time) []override {
	soonest := now.Add(priceLead)
	var kept []override
	for _, o := range m.Overrides {
		if !o.Backdated && o.from().Before(soonest) {
			kept = append(kept, o)
		}
	}
	if n := len(kept); n > 0 && len(kept[n-1].Pico) > 0 {
		kept = append(kept, override{FromUS: soonest.UnixMicro()})
	}
	return kept
}
