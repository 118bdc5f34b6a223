package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"go.yaml.in/yaml/v3"
)

// column is one column of a table of T.
type column[T any] struct {
	name string
	text func(T) string
}

// show prints the rows in the chosen format; document is what JSON and YAML show.
func show[T any](a *app, document any, rows []T, columns []column[T]) error {
	if a.output != "table" {
		return a.document(document)
	}
	w := tabwriter.NewWriter(a.env.Stdout, 0, 4, 2, ' ', 0)
	for i, c := range columns {
		if i > 0 {
			_, _ = io.WriteString(w, "\t")
		}
		_, _ = io.WriteString(w, strings.ToUpper(c.name))
	}
	_, _ = io.WriteString(w, "\n")
	for _, row := range rows {
		for i, c := range columns {
			if i > 0 {
				_, _ = io.WriteString(w, "\t")
			}
			_, _ = io.WriteString(w, printable(c.text(row)))
		}
		_, _ = io.WriteString(w, "\n")
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("writing the table: %w", err)
	}
	return nil
}

// printable replaces what would break a table or act on a terminal: names come from clients.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return '?'
		}
		return r
	}, s)
}

// document prints v as JSON or YAML, or as JSON where a table has no meaning for it.
func (a *app) document(v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("encoding the output: %w", err)
	}
	if a.output == "yaml" {
		return a.yaml(b.Bytes())
	}
	_, err := a.env.Stdout.Write(b.Bytes())
	return err
}

// yaml prints a JSON document as YAML with its order of fields. JSON is YAML, so it is read as
// such and only its style changes: no number passes through a float.
func (a *app) yaml(doc []byte) error {
	var n yaml.Node
	if err := yaml.Unmarshal(doc, &n); err != nil {
		return fmt.Errorf("reading JSON as YAML: %w", err)
	}
	plain(&n)
	enc := yaml.NewEncoder(a.env.Stdout)
	enc.SetIndent(2)
	if err := enc.Encode(&n); err != nil {
		return fmt.Errorf("encoding YAML: %w", err)
	}
	return enc.Close()
}

// plain removes flow style and quotes; the encoder quotes what would otherwise change its type.
func plain(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		plain(c)
	}
}

// checkOutput refuses an unknown format before anything is done.
func (a *app) checkOutput() error {
	switch a.output {
	case "table", "json", "yaml":
		return nil
	}
	return usagef("output %q is not table, json or yaml", a.output)
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

func stampAt(t *time.Time) string {
	if t == nil {
		return ""
	}
	return stamp(*t)
}

func list(values []string) string { return strings.Join(values, ",") }
