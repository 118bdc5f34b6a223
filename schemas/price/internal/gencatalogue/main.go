// Command gencatalogue makes the price catalogue of package price from a release of the genai-prices data set.
// The same input gives the same bytes.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/rateguard/rateguard/schemas/price/internal/catalogue"
)

func main() {
	if err := run(os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "gencatalogue:", err)
		os.Exit(1)
	}
}

func run(args []string, log io.Writer) error {
	fs := flag.NewFlagSet("gencatalogue", flag.ContinueOnError)
	fs.SetOutput(log)
	source := fs.String("source", "", "the data set's `file`")
	sum := fs.String("sha256", "", "its SHA-256 in hex; any other file is refused")
	version := fs.String("version", "", "name of the release")
	out := fs.String("out", "", "`file` to write")
	if err := fs.Parse(args); err != nil {
		return err
	}
	data, err := os.ReadFile(*source)
	if err != nil {
		return fmt.Errorf("reading source: %w", err)
	}
	got := sha256.Sum256(data)
	if hex.EncodeToString(got[:]) != *sum {
		return fmt.Errorf("checking source: SHA-256 is %x, not %s", got, *sum)
	}
	f, err := convert(data)
	if err != nil {
		return fmt.Errorf("converting %s: %w", *source, err)
	}
	f.Version, f.SourceSHA256 = *version, *sum
	for _, p := range f.Providers {
		for _, m := range p.Models {
			if m.Refused != "" {
				_, _ = fmt.Fprintf(log, "refused: %s %s: %s\n", p.ID, m.ID, m.Refused)
			}
		}
	}
	b, err := encode(f)
	if err != nil {
		return fmt.Errorf("encoding catalogue: %w", err)
	}
	if err := os.WriteFile(*out, b, 0o644); err != nil { //nolint:gosec // a source file, readable like the others
		return fmt.Errorf("writing catalogue: %w", err)
	}
	return nil
}

// encode writes one model a line, so that a change of the data is a readable diff.
func encode(f *catalogue.File) ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\"version\":%q,\"source_sha256\":%q,\"providers\":[\n", f.Version, f.SourceSHA256)
	for i, p := range f.Providers {
		models := p.Models
		p.Models = nil
		head, err := marshal(p)
		if err != nil {
			return nil, err
		}
		head = bytes.TrimSuffix(head, []byte("null}"))
		b.Write(head)
		b.WriteString("[\n")
		for j, m := range models {
			line, err := marshal(m)
			if err != nil {
				return nil, err
			}
			b.Write(line)
			b.WriteString(separator(j, len(models)))
		}
		b.WriteString("]}")
		b.WriteString(separator(i, len(f.Providers)))
	}
	b.WriteString("]}\n")
	return b.Bytes(), nil
}

func separator(i, n int) string {
	if i == n-1 {
		return "\n"
	}
	return ",\n"
}

// marshal leaves characters such as < as they are.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
