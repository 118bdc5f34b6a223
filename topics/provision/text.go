package provision

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/rateguard/rateguard/topics"
)

// WriteText writes the plan for people: one change a line, always in the same order.
func (p *Plan) WriteText(w io.Writer) error {
	if p.Empty() {
		_, err := fmt.Fprintln(w, "topics are as the table says: nothing to do")
		return err
	}
	for _, c := range p.Changes {
		if _, err := fmt.Fprintln(w, c); err != nil {
			return err
		}
	}
	return nil
}

// WriteJSON writes the plan as one JSON document with stable field and change order.
func (p *Plan) WriteJSON(w io.Writer) error {
	changes := p.Changes
	if changes == nil {
		changes = []Change{}
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(struct {
		Partitions  int      `json:"partitions"`
		Replication int      `json:"replication"`
		MinInsync   int      `json:"min_insync"`
		Changes     []Change `json:"changes"`
	}{p.Settings.Partitions, p.Settings.Replication, p.Settings.MinInsync, changes})
}

// Doc writes the table of topics as Markdown.
func Doc(w io.Writer) error {
	var b strings.Builder
	b.WriteString("| topic | key | bodies | partitions | cleanup | largest message | written by | what it is |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|\n")
	for _, t := range topics.All() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s | %s | %s |\n", t.Name, t.Key, bodies(t), shards(t), cleanup(t),
			fmt.Sprintf("%d MiB", t.MaxMessageBytes>>20), strings.Join(t.Writers, ", "), t.Doc)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func bodies(t topics.Topic) string {
	if len(t.Bodies) == 0 {
		return "state"
	}
	return "`" + strings.Join(t.Bodies, "`, `") + "`"
}

func shards(t topics.Topic) string {
	if t.Sharded {
		return "as set"
	}
	return "1"
}

func cleanup(t topics.Topic) string {
	switch {
	case t.Cleanup == topics.Delete:
		return fmt.Sprintf("delete after %d d", int(t.Retention/(24*time.Hour)))
	case t.MinCompactionLag > 0:
		return fmt.Sprintf("compact, superseded records kept %d h", int(t.MinCompactionLag/time.Hour))
	default:
		return "compact"
	}
}
