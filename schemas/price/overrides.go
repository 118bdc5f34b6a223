package price

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/price/internal/catalogue"
)

// overrideKey is a provider's id and a lower-cased model name.
type overrideKey struct{ provider, model string }

// history holds the overrides of one model, oldest first.
type history struct {
	model string
	steps []step
}

type step struct {
	from      int64 // Unix microseconds
	backdated bool
	rates     *rates // nil: the catalogue's price again
	// version names the history that the step stands in, as part of a price version.
	version string
}

// at returns the override in force at an instant, nil where the catalogue's price holds.
func (h *history) at(at time.Time) *step {
	us := at.UnixMicro()
	for i := len(h.steps) - 1; i >= 0; i-- {
		if us >= h.steps[i].from {
			if h.steps[i].rates == nil {
				return nil
			}
			return &h.steps[i]
		}
	}
	return nil
}

// With returns a catalogue with exactly these overrides on top of the built-in prices; it does not stack on earlier overrides.
// Backdated ones are left out: it says what calls are charged while they happen.
//
// A history holds for its provider and model name, and for the catalogue's model of that id under any of its names.
// An override replaces all prices of the model from its instant on; one without prices gives the model back to the
// catalogue. Units are named as in events; durations are "audio_hours" and "input_audio_hours", in pico-USD an hour.
// Every problem is in the error (ErrInvalidOverride); the receiver stays usable.
func (c *Catalogue) With(overrides []*rateguardv1.PriceHistory) (*Catalogue, error) {
	return c.with(overrides, false)
}

// Restated returns what With does, backdated overrides included: what calls cost by all that is known today. Of two overrides with
// one instant the backdated one holds.
func (c *Catalogue) Restated(overrides []*rateguardv1.PriceHistory) (*Catalogue, error) {
	return c.with(overrides, true)
}

// Canonical returns the provider and model that an override is stored under, so that each has one history: the catalogue's id where
// it knows the provider under another name, the model in lower case.
func (c *Catalogue) Canonical(provider, model string) (id, name string) {
	id, name = strings.ToLower(strings.TrimSpace(provider)), strings.ToLower(model)
	if p := c.providerNamed(id); p != nil {
		id = p.id
	}
	return id, name
}

func (c *Catalogue) with(overrides []*rateguardv1.PriceHistory, restated bool) (*Catalogue, error) {
	next := &Catalogue{base: c.base, version: c.base, providers: c.providers, byID: c.byID, lookups: newCache()}
	if len(overrides) == 0 {
		return next, nil
	}
	next.override = make(map[overrideKey]*history, len(overrides))
	latest := make(map[overrideKey]*rateguardv1.PriceHistory, len(overrides))
	var problems []error
	for _, o := range overrides {
		var key overrideKey
		key.provider, key.model = c.Canonical(o.GetProvider(), o.GetModel())
		if seen, ok := latest[key]; ok && seen.GetVersion() >= o.GetVersion() {
			continue
		}
		h, err := newHistory(o, restated)
		if err != nil {
			problems = append(problems, fmt.Errorf("%w of %s/%s: %w", ErrInvalidOverride, o.GetProvider(), o.GetModel(), err))
			continue
		}
		latest[key], next.override[key] = o, h
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	fingerprint, err := fingerprint(latest)
	if err != nil {
		return nil, err
	}
	next.version = c.base + "+" + fingerprint
	if restated {
		next.version += "+restated"
	}
	return next, nil
}

func newHistory(o *rateguardv1.PriceHistory, restated bool) (*history, error) {
	if o.GetModel() == "" {
		return nil, errors.New("no model is named")
	}
	h := &history{model: o.GetModel()}
	for _, v := range o.GetOverrides() {
		s := step{from: v.GetEffectiveFromUnixUs(), backdated: v.GetBackdated(), version: fmt.Sprintf("+override.%d", o.GetVersion())}
		if s.backdated {
			s.version += ".backdated"
		}
		if len(v.GetPicoUsd()) > 0 {
			byName := make(map[string]catalogue.Rate, len(v.GetPicoUsd()))
			for name, pico := range v.GetPicoUsd() {
				byName[name] = catalogue.Rate{pico}
			}
			r, err := newRates(byName)
			if err != nil {
				return nil, err
			}
			s.rates = r
		}
		if restated || !s.backdated {
			h.steps = append(h.steps, s)
		}
	}
	// Of two with the same instant the backdated one wins, then the later one, so the order is kept.
	slices.SortStableFunc(h.steps, func(a, b step) int {
		switch {
		case a.from != b.from:
			return cmp.Compare(a.from, b.from)
		case a.backdated == b.backdated:
			return 0
		case b.backdated:
			return -1
		default:
			return 1
		}
	})
	return h, nil
}

// fingerprint is the same for the same overrides in any order.
func fingerprint(overrides map[overrideKey]*rateguardv1.PriceHistory) (string, error) {
	keys := slices.SortedFunc(maps.Keys(overrides), func(a, b overrideKey) int {
		return strings.Compare(a.provider+"\x00"+a.model, b.provider+"\x00"+b.model)
	})
	sum := sha256.New()
	for _, k := range keys {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(overrides[k])
		if err != nil {
			return "", fmt.Errorf("encoding override of %s/%s: %w", k.provider, k.model, err)
		}
		sum.Write(strconv.AppendInt(nil, int64(len(b)), 10))
		sum.Write([]byte{'\n'})
		sum.Write(b)
	}
	return hex.EncodeToString(sum.Sum(nil)[:4]), nil
}
