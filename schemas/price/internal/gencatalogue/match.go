package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/rateguard/rateguard/schemas/price/internal/catalogue"
)

func convertOptionalMatch(raw json.RawMessage) (*catalogue.Match, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil //nolint:nilnil // no clause is a valid result
	}
	m, err := convertMatch(raw)
	return &m, err
}

// convertMatch converts one clause: an object with one key.
func convertMatch(raw json.RawMessage) (catalogue.Match, error) {
	var m catalogue.Match
	var clause map[string]json.RawMessage
	if err := decode(raw, &clause); err != nil {
		return m, err
	}
	if len(clause) != 1 {
		return m, fmt.Errorf("match clause %s has not one key", raw)
	}
	for key, value := range clause {
		switch key {
		case "equals":
			return m, convertText(value, &m.Equals)
		case "starts_with":
			return m, convertText(value, &m.StartsWith)
		case "ends_with":
			return m, convertText(value, &m.EndsWith)
		case "contains":
			return m, convertText(value, &m.Contains)
		case "or":
			return m, convertList(value, &m.Or)
		case "and":
			return m, convertList(value, &m.And)
		case "regex":
			var text string
			if err := decode(value, &text); err != nil {
				return m, err
			}
			return convertRegexp(text)
		default:
			return m, fmt.Errorf("match clause %q is unknown", key)
		}
	}
	return m, nil
}

func convertText(raw json.RawMessage, to **string) error {
	var text string
	if err := decode(raw, &text); err != nil {
		return err
	}
	text = strings.ToLower(text)
	*to = &text
	return nil
}

func convertList(raw json.RawMessage, to *[]catalogue.Match) error {
	var list []json.RawMessage
	if err := decode(raw, &list); err != nil {
		return err
	}
	for _, item := range list {
		m, err := convertMatch(item)
		if err != nil {
			return err
		}
		*to = append(*to, m)
	}
	return nil
}

// convertRegexp takes RE2 and, beyond it, one thing: a whole expression "^(?!…)", which becomes a negation.
func convertRegexp(text string) (catalogue.Match, error) {
	inner, negative := strings.CutPrefix(text, "^(?!")
	if negative {
		inner, negative = strings.CutSuffix(inner, ")")
	}
	if negative {
		positive := "^(?:" + inner + ")"
		if _, err := regexp.Compile(positive); err != nil {
			return catalogue.Match{}, fmt.Errorf("regular expression: %w", err)
		}
		return catalogue.Match{Not: &catalogue.Match{Regexp: &positive}}, nil
	}
	if _, err := regexp.Compile(text); err != nil {
		return catalogue.Match{}, fmt.Errorf("regular expression: %w", err)
	}
	return catalogue.Match{Regexp: &text}, nil
}
