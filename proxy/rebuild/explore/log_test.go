package explore_test

import (
	"log/slog"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/proxy/rebuild/costs"
	"github.com/rateguard/rateguard/proxy/rebuild/roster"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics/broker"
	"github.com/rateguard/rateguard/topics/hash"
)

// record is an encoded event under its key.
type record struct {
	key   string
	value []byte
}

// node is a list that is another one and a record behind it.
type node struct{ before, record, size int32 }

// shelf holds records and lists of them by number, so that a log, a spool or a topic of a state is one number. List 0 is empty.
type shelf struct {
	records []record
	known   map[string]int32
	lists   []node
	longer  map[node]int32
	slices  map[int32][]int32

	views   map[int32]*costs.View
	rosters map[int32]*roster.Roster
}

func newShelf() *shelf {
	return &shelf{
		known: map[string]int32{}, lists: make([]node, 1), longer: map[node]int32{}, slices: map[int32][]int32{},
		views: map[int32]*costs.View{}, rosters: map[int32]*roster.Roster{},
	}
}

// record numbers an event under its key.
func (s *shelf) record(key string, e *rateguardv1.Event) int32 {
	e.OccurredAtUnixUs = nowUS
	if e.GetId() == "" {
		e.Id = "e"
	}
	b, err := envelope.Encode(e)
	if err != nil {
		panic(err)
	}
	id := key + "\x00" + string(b)
	n, ok := s.known[id]
	if !ok {
		n = int32(len(s.records))
		s.records = append(s.records, record{key, b})
		s.known[id] = n
	}
	return n
}

// add returns a list with a record behind it.
func (s *shelf) add(list, rec int32) int32 {
	at := node{list, rec, s.lists[list].size + 1}
	n, ok := s.longer[at]
	if !ok {
		n = int32(len(s.lists))
		s.lists = append(s.lists, at)
		s.longer[at] = n
	}
	return n
}

func (s *shelf) size(list int32) int32 { return s.lists[list].size }

// of returns the records of a list.
func (s *shelf) of(list int32) []int32 {
	if list == 0 {
		return nil
	}
	out, ok := s.slices[list]
	if !ok {
		out = make([]int32, s.size(list))
		for at := list; at != 0; at = s.lists[at].before {
			out[s.size(at)-1] = s.lists[at].record
		}
		s.slices[list] = out
	}
	return out
}

// kafka is a record as a client of the broker gets it.
func (s *shelf) kafka(rec int32, offset int) *kgo.Record {
	r := &s.records[rec]
	return &kgo.Record{Key: []byte(r.key), Value: r.value, Offset: int64(offset)}
}

func (s *shelf) newView() *costs.View { return costs.NewView(0, 1, slog.New(slog.DiscardHandler)) }

// read applies the records [from, to) of a list to a view.
func (s *shelf) read(v *costs.View, list int32, from, to int) {
	for i, rec := range s.of(list)[from:to] {
		if err := v.Apply(s.kafka(rec, from+i)); err != nil {
			panic(err)
		}
	}
}

// view is what a log shows. It must not be changed.
func (s *shelf) view(list int32) *costs.View {
	v := s.views[list]
	if v == nil {
		v = s.newView()
		s.read(v, list, 0, len(s.of(list)))
		if len(s.views) > 4096 {
			clear(s.views)
		}
		s.views[list] = v
	}
	return v
}

// roster is what the producers topic shows.
func (s *shelf) roster(list int32) *roster.Roster {
	r := s.rosters[list]
	if r == nil {
		r = roster.New(broker.Config{}, slog.New(slog.DiscardHandler))
		for i, rec := range s.of(list) {
			r.Apply(s.kafka(rec, i))
		}
		s.rosters[list] = r
	}
	return r
}

// partitionKey is the key of what belongs to the partition and to no workspace.
func partitionKey() string { return hash.PartitionKey(0, 1) }

// print renders a list for the trace.
func (s *shelf) print(list int32) string {
	var out []string
	for _, rec := range s.of(list) {
		e, err := envelope.Decode(s.records[rec].value)
		if err != nil {
			panic(err)
		}
		out = append(out, e.GetId())
	}
	return "[" + strings.Join(out, " ") + "]"
}
