package price

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/rateguard/rateguard/schemas/price/internal/catalogue"
)

// clause decides whether a lower-cased name is meant.
type clause struct {
	op   op
	text string
	re   *regexp.Regexp
	sub  []clause
}

type op uint8

const (
	opEquals op = iota
	opStartsWith
	opEndsWith
	opContains
	opRegexp
	opOr
	opAnd
	opNot
)

func newClause(m catalogue.Match) (clause, error) {
	for _, t := range [...]struct {
		op   op
		text *string
	}{{opEquals, m.Equals}, {opStartsWith, m.StartsWith}, {opEndsWith, m.EndsWith}, {opContains, m.Contains}} {
		if t.text != nil {
			return clause{op: t.op, text: strings.ToLower(*t.text)}, nil
		}
	}
	switch {
	case m.Regexp != nil:
		re, err := regexp.Compile(*m.Regexp)
		if err != nil {
			return clause{}, fmt.Errorf("compiling match: %w", err)
		}
		return clause{op: opRegexp, re: re}, nil
	case m.Or != nil:
		return newClauses(opOr, m.Or)
	case m.And != nil:
		return newClauses(opAnd, m.And)
	case m.Not != nil:
		return newClauses(opNot, []catalogue.Match{*m.Not})
	default:
		return clause{}, errors.New("match clause is empty")
	}
}

func newClauses(o op, list []catalogue.Match) (clause, error) {
	c := clause{op: o}
	for _, m := range list {
		sub, err := newClause(m)
		if err != nil {
			return clause{}, err
		}
		c.sub = append(c.sub, sub)
	}
	return c, nil
}

func (c *clause) matches(name string) bool {
	switch c.op {
	case opEquals:
		return name == c.text
	case opStartsWith:
		return strings.HasPrefix(name, c.text)
	case opEndsWith:
		return strings.HasSuffix(name, c.text)
	case opContains:
		return strings.Contains(name, c.text)
	case opRegexp:
		return c.re.MatchString(name)
	case opOr:
		for i := range c.sub {
			if c.sub[i].matches(name) {
				return true
			}
		}
		return false
	case opAnd:
		for i := range c.sub {
			if !c.sub[i].matches(name) {
				return false
			}
		}
		return true
	case opNot:
		return !c.sub[0].matches(name)
	default:
		return false
	}
}
