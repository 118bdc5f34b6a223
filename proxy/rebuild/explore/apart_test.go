package explore_test

import (
	"fmt"
	"strings"

	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/proxy/rebuild/keeper/plan"
	"github.com/rateguard/rateguard/schemas/keyspace"
)

// pair is a server and the log up to where it was told.
type pair struct{ keys, log int32 }

// apart says where the primary is not as its log says, or not of one piece; empty where it is, or nobody may use it.
func (w *world) apart(s *state) string {
	at := w.place(s.primary)
	if at.Epoch == 0 {
		return ""
	}
	log := s.costs
	for int64(w.size(log)) > at.At+1 {
		log = w.lists[log].before
	}
	key := pair{s.primary.keys, log}
	said, ok := w.aparts[key]
	if !ok {
		said = w.compare(key)
		w.aparts[key] = said
	}
	return said
}

func (w *world) compare(at pair) string {
	hash, ws := w.states[at.keys][keyspace.State(workspace)], w.view(at.log).Workspace(workspace)
	shown := map[string]lua.Entry{}
	if ws != nil {
		in, err := plan.Installation(w.view(at.log), workspace, 1)
		if err != nil {
			return err.Error()
		}
		for _, e := range in.Open {
			shown[e.ID] = e
		}
	}
	reserved, lent, n := int64(0), int64(0), 0
	for field, text := range hash {
		if field[0] != 'e' || field == "epoch" {
			continue
		}
		n++
		kind, amount := text[:1], int64(0)
		if i := strings.LastIndexByte(text, ' '); strings.Contains(text, "budget") {
			_, err := fmt.Sscan(text[i+1:], &amount)
			must(err)
		}
		if kind == "s" {
			continue
		}
		if reserved += amount; kind == "l" {
			lent += amount
		}
		if e, open := shown[field[1:]]; open && e.Amounts[0].Nano != amount {
			return fmt.Sprintf("the store shows %s %q, the log %d", field, text, e.Amounts[0].Nano)
		}
	}
	for id := range shown {
		if o := ws.Open[id].Opened; o.GetLeaseId() != "" && hash["e"+id] == "" {
			return fmt.Sprintf("the store lacks %s, which was taken from a lease", id)
		}
	}
	if hash["n"] != fmt.Sprint(n) {
		return fmt.Sprintf("the store counts %s reservations and holds %d", hash["n"], n)
	}
	for field, text := range hash {
		var posted, held int64
		switch field[0] {
		case 'b':
			_, err := fmt.Sscan(text, &posted, &held)
			must(err)
			if held != reserved {
				return fmt.Sprintf("the store shows %q, its reservations hold %d", text, reserved)
			}
		case 'q':
			_, err := fmt.Sscan(text, &held)
			must(err)
			if held != lent {
				return fmt.Sprintf("the store shows %q as lent, its leases hold %d", text, lent)
			}
		}
	}
	return ""
}
