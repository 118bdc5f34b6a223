package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strings"
	"time"

	"github.com/rateguard/rateguard/schemas/price/internal/catalogue"
)

// errInexact means that a price is no whole number of pico-USD.
var errInexact = errors.New("no whole number of pico-USD")

// sourceUnits maps the source's prices to our units; a price in USD times scale is in pico-USD a unit (an hour).
var sourceUnits = map[string]struct {
	name  string
	scale int64
}{
	"input_mtok":                      {"input_tokens", perMillion},
	"cache_read_mtok":                 {"cache_read_tokens", perMillion},
	"cache_write_mtok":                {"cache_write_tokens", perMillion},
	"cache_write_1h_mtok":             {"cache_write_1h_tokens", perMillion},
	"input_audio_mtok":                {"input_audio_tokens", perMillion},
	"cache_audio_read_mtok":           {"cache_audio_read_tokens", perMillion},
	"input_image_mtok":                {"input_image_tokens", perMillion},
	"cache_image_read_mtok":           {"cache_image_read_tokens", perMillion},
	"input_video_mtok":                {"input_video_tokens", perMillion},
	"output_mtok":                     {"output_tokens", perMillion},
	"output_reasoning_mtok":           {"reasoning_tokens", perMillion},
	"output_audio_mtok":               {"output_audio_tokens", perMillion},
	"output_image_mtok":               {"output_image_tokens", perMillion},
	"output_video_mtok":               {"output_video_tokens", perMillion},
	"output_citation_mtok":            {"citation_tokens", perMillion},
	"audio_hours":                     {"audio_hours", perOne},
	"input_audio_hours":               {"input_audio_hours", perOne},
	"requests_kcount":                 {"requests", perThousand},
	"web_searches_kcount":             {"web_searches", perThousand},
	"storage_searches_kcount":         {"storage_searches", perThousand},
	"input_document_kpages":           {"document_pages", perThousand},
	"input_annotated_document_kpages": {"annotated_document_pages", perThousand},
	"input_text_messages_kcount":      {"text_messages", perThousand},
}

const (
	perOne      = 1_000_000_000_000
	perThousand = perOne / 1_000
	perMillion  = perOne / 1_000_000
)

// minAudioMS are least billed lengths, which the source keeps in its calculator and not in its data.
var minAudioMS = map[string]int64{
	"groq/whisper-large-v3":       10_000,
	"groq/whisper-large-v3-turbo": 10_000,
}

func convert(data []byte) (*catalogue.File, error) {
	var source []sourceProvider
	if err := decode(data, &source); err != nil {
		return nil, err
	}
	f := &catalogue.File{}
	for _, s := range source {
		p, err := convertProvider(s)
		if err != nil {
			return nil, fmt.Errorf("provider %s: %w", s.ID, err)
		}
		f.Providers = append(f.Providers, p)
	}
	return f, nil
}

func convertProvider(s sourceProvider) (catalogue.Provider, error) {
	p := catalogue.Provider{ID: s.ID, API: s.APIPattern, Fallback: s.Fallback}
	if _, err := regexp.Compile(p.API); err != nil {
		return p, fmt.Errorf("API pattern: %w", err)
	}
	for _, id := range s.Fallback {
		if id == "groq" {
			return p, errors.New("falls back to groq, whose least billed length holds at groq alone")
		}
	}
	var err error
	if p.Match, err = convertOptionalMatch(s.ProviderMatch); err != nil {
		return p, err
	}
	if p.ModelMatch, err = convertOptionalMatch(s.ModelMatch); err != nil {
		return p, err
	}
	for _, m := range s.Models {
		converted, err := convertModel(s.ID, m)
		if err != nil {
			return p, fmt.Errorf("model %s: %w", m.ID, err)
		}
		p.Models = append(p.Models, converted)
	}
	return p, nil
}

func convertModel(provider string, s sourceModel) (catalogue.Model, error) {
	m := catalogue.Model{ID: s.ID, Context: s.ContextWindow, MinAudioMS: minAudioMS[provider+"/"+s.ID]}
	match, err := convertMatch(s.Match)
	if err != nil {
		return m, err
	}
	m.Match = match
	var list []sourceConditional
	if strings.HasPrefix(string(s.Prices), "[") {
		err = decode(s.Prices, &list)
	} else {
		list = make([]sourceConditional, 1)
		err = decode(s.Prices, &list[0].Prices)
	}
	if err != nil {
		return m, err
	}
	if len(list) == 0 {
		return m, errors.New("no prices")
	}
	for _, c := range list {
		converted, err := convertConditional(c)
		if errors.Is(err, errInexact) {
			// One price that cannot be kept makes the whole model unpriced, for ever and at any instant:
			// to leave out the one price would charge its tokens as something else.
			m.Prices, m.Refused = nil, err.Error()
			return m, nil
		}
		if err != nil {
			return m, err
		}
		m.Prices = append(m.Prices, converted)
	}
	return m, nil
}

func convertConditional(s sourceConditional) (catalogue.Conditional, error) {
	c := catalogue.Conditional{Rates: map[string]catalogue.Rate{}}
	if s.Constraint != nil {
		switch s.Constraint.Type {
		case "start_date":
			if _, err := time.Parse(time.DateOnly, s.Constraint.StartDate); err != nil {
				return c, fmt.Errorf("start date: %w", err)
			}
			c.From = s.Constraint.StartDate
		case "time_of_date":
			var times [2]string
			for i, text := range []string{s.Constraint.StartTime, s.Constraint.EndTime} {
				utc, ok := strings.CutSuffix(text, "Z")
				if _, err := time.Parse(time.TimeOnly, utc); err != nil || !ok {
					return c, fmt.Errorf("time of day %q is not in UTC", text)
				}
				times[i] = utc
			}
			c.Daily = &times
		default:
			return c, fmt.Errorf("constraint %q is unknown", s.Constraint.Type)
		}
	}
	for key, raw := range s.Prices {
		u, ok := sourceUnits[key]
		if !ok {
			return c, fmt.Errorf("price %q has no unit of ours", key)
		}
		r, err := convertRate(raw, u.scale)
		if err != nil {
			return c, fmt.Errorf("%s: %w", key, err)
		}
		c.Rates[u.name] = r
	}
	return c, nil
}

func convertRate(raw json.RawMessage, scale int64) (catalogue.Rate, error) {
	var s sourceTiers
	if strings.HasPrefix(string(raw), "{") {
		if err := decode(raw, &s); err != nil {
			return nil, err
		}
	} else if err := decode(raw, &s.Base); err != nil {
		return nil, err
	}
	base, err := pico(s.Base, scale)
	if err != nil {
		return nil, err
	}
	r := catalogue.Rate{base}
	start := int64(-1)
	for _, t := range s.Tiers {
		p, err := pico(t.Price, scale)
		if err != nil {
			return nil, err
		}
		if t.Start <= start {
			return nil, fmt.Errorf("tier at %d is out of order", t.Start)
		}
		start = t.Start
		r = append(r, t.Start, p)
	}
	return r, nil
}

// pico converts USD to pico-USD, exactly or not at all.
func pico(usd json.Number, scale int64) (int64, error) {
	v, ok := new(big.Rat).SetString(usd.String())
	if !ok || v.Sign() < 0 {
		return 0, fmt.Errorf("%q is no price", usd)
	}
	v.Mul(v, new(big.Rat).SetInt64(scale))
	if !v.IsInt() {
		return 0, fmt.Errorf("%s USD is %w", usd, errInexact)
	}
	if !v.Num().IsInt64() {
		return 0, fmt.Errorf("%s USD does not fit", usd)
	}
	return v.Num().Int64(), nil
}
