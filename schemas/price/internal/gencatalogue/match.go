package main

import (
	"encoding/json"
	"errors"
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

// convertRegexp takes RE2 and, beyond it, one thing: "^(?!X)Y", which means "not ^X, and ^Y".
func convertRegexp(text string) (catalogue.Match, error) {
	rest, negative := strings.CutPrefix(text, "^(?!")
	if !negative {
		return compiled(text)
	}
	end, err := groupEnd(rest)
	if err != nil {
		return catalogue.Match{}, fmt.Errorf("regular expression %q: %w", text, err)
	}
	excluded, err := compiled("^(?:" + rest[:end] + ")")
	if err != nil {
		return catalogue.Match{}, err
	}
	not := catalogue.Match{Not: &excluded}
	if rest = rest[end+1:]; rest == "" {
		return not, nil
	}
	included, err := compiled("^(?:" + rest + ")")
	if err != nil {
		return catalogue.Match{}, err
	}
	return catalogue.Match{And: []catalogue.Match{not, included}}, nil
}

func compiled(text string) (catalogue.Match, error) {
	if _, err := regexp.Compile(text); err != nil {
		return catalogue.Match{}, fmt.Errorf("regular expression: %w", err)
	}
	return catalogue.Match{Regexp: &text}, nil
}

// groupEnd returns the place of the parenthesis that closes a group whose text begins with s.
func groupEnd(s string) (int, error) {
	depth, class := 0, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			i++
		case class:
			class = c != ']'
		case c == '[':
			class = true
		case c == '(':
			depth++
		case c == ')' && depth == 0:
			return i, nil
		case c == ')':
			depth--
		}
	}
	return 0, errors.New("group is not closed")
}
