package explore_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"math/bits"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
)

// renaming gives producers and requests other numbers: its elements are the new ones.
type renaming struct {
	p [producers]int
	r [requests]int
}

// renamings are those that leave a configuration as it is; the first changes nothing.
func renamings(c config) []renaming {
	same := renaming{}
	for p := range producers {
		same.p[p] = p
	}
	for r := range requests {
		same.r[r] = r
	}
	all := []renaming{same}
	if c.leases != ([producers]uint8{}) {
		return all
	}
	for p := range producers {
		for _, was := range all[:len(all):len(all)] {
			if c.active[p] < 2 {
				continue
			}
			one := p * perProducer // of three or more only two change places
			was.r[one], was.r[one+1] = was.r[one+1], was.r[one]
			all = append(all, was)
		}
	}
	if c.active[0] == c.active[1] && !c.late {
		for _, was := range all[:len(all):len(all)] {
			now := renaming{p: [producers]int{1, 0}}
			for r := range requests {
				now.r[r] = (was.r[r] + perProducer) % requests
			}
			all = append(all, now)
		}
	}
	return all
}

var names = regexp.MustCompile(`[@#]?\d+`)

// text renames what stands in a text: producers, requests, and the amounts of requests in sums.
func (n *renaming) text(s string) string {
	return names.ReplaceAllStringFunc(s, func(s string) string {
		switch s[0] {
		case '@':
			return "@" + strconv.Itoa(n.p[s[1]-'0'])
		case '#':
			return "#" + strconv.Itoa(n.r[s[1]-'0'])
		}
		v, err := strconv.ParseUint(s, 10, 63)
		if err != nil {
			return s
		}
		return strconv.FormatUint(n.amount(v), 10)
	})
}

// amount renames in a sum of bounds and costs; any other number stays.
func (n *renaming) amount(v uint64) uint64 {
	low, count := v%boundNano, v/boundNano
	if low >= costNano<<requests || uint64(bits.OnesCount64(low%costNano)) != count {
		return v
	}
	out := count * boundNano
	for r := range requests {
		out += low & (1 << r) >> r << n.r[r]
		out += low & (costNano << r) >> r << n.r[r]
	}
	return out
}

// origin is what a call of the reconciler or of a keeper was made of: what stands in the log behind from up to to, of an epoch, and which producers are closed. From -1
// it is all.
type origin struct {
	from, to, epoch int32
	fenced          [producers]bool
}

// likeness knows which states are alike: those that differ in the names of producers and requests, in which of two producers' records comes first in a part of
// the log that everybody has read to its end or not at all, or in what nobody will look at any more. What follows of them is alike too, which TestAlikeStatesGoOnAlike
// shows. There are a hundred of one kind and more.
type likeness struct {
	renamings []renaming
	// By number, and for each renaming: the digests of records, of lists in order, of the states of servers, and of what servers showed.
	recordsAs, listsAs, statesAs, heldAs, topicsAs [][]uint64
	// streams says by record whose it is, holdings by the state of a server which requests it knows, legibles what is left of one.
	streams  []int8
	holdings []uint64
	legibles map[reading]int32
}

// Whose a record is that is no producer's.
const everybodys = producers

func newLikeness(c config) *likeness {
	return &likeness{renamings: renamings(c), legibles: map[reading]int32{}}
}

// as looks up digests by number, and computes those that are missing.
func (l *likeness) as(table *[][]uint64, n int32, compute func(by *renaming, i int) uint64) []uint64 {
	for int(n) >= len(*table) {
		*table = append(*table, nil)
	}
	if (*table)[n] == nil {
		out := make([]uint64, len(l.renamings))
		for i := range l.renamings {
			out[i] = compute(&l.renamings[i], i)
		}
		(*table)[n] = out
	}
	return (*table)[n]
}

var seed = maphash.MakeSeed()

func text(s string) uint64 { return maphash.String(seed, s) }

// mix is a digest of a sequence.
func mix(h, v uint64) uint64 {
	hi, lo := bits.Mul64(h^0x9e3779b97f4a7c15, v^0xd1b54a32d192ed03)
	return (hi ^ lo) + bits.RotateLeft64(h, 29)
}

// recordAs are the digests of a record. Its lists are in no order: of those that a closing ends, names decide that.
func (w *world) recordAs(rec int32) []uint64 {
	return w.as(&w.recordsAs, rec, func(by *renaming, _ int) uint64 {
		b, err := protojson.Marshal(w.event(rec))
		must(err)
		var v any
		must(json.Unmarshal([]byte(by.text(string(b))), &v))
		return text(by.text(w.records[rec].key) + "\x00" + sorted(v))
	})
}

// sorted is a value of JSON whose lists are in no order.
func sorted(v any) string {
	switch v := v.(type) {
	case []any:
		var out []string
		for _, e := range v {
			out = append(out, sorted(e))
		}
		slices.Sort(out)
		return "[" + strings.Join(out, ",") + "]"
	case map[string]any:
		var out []string
		for k, e := range v {
			out = append(out, k+":"+sorted(e))
		}
		slices.Sort(out)
		return "{" + strings.Join(out, ",") + "}"
	}
	return fmt.Sprint(v)
}

// listAs are the digests of a list in its order.
func (w *world) listAs(list int32) []uint64 {
	return w.as(&w.listsAs, list, func(_ *renaming, i int) uint64 {
		if list == 0 {
			return 1
		}
		return mix(w.listAs(w.lists[list].before)[i], w.recordAs(w.lists[list].record)[i])
	})
}

// keysAs are the digests of what a server holds.
func (w *world) keysAs(n int32) []uint64 {
	return w.as(&w.statesAs, n, func(by *renaming, _ int) uint64 {
		renamed := keys{}
		for key, hash := range w.states[n] {
			to := map[string]string{}
			for field, v := range hash {
				to[by.text(field)] = by.text(v)
			}
			renamed[by.text(key)] = to
		}
		return text(renamed.text())
	})
}

// shownAs are the digests of what a server showed of a producer.
func (w *world) shownAs(n int32) []uint64 {
	return w.as(&w.heldAs, n, func(by *renaming, _ int) uint64 {
		var out []string
		for _, e := range w.held[n] {
			out = append(out, by.text(fmt.Sprint(e)))
		}
		slices.Sort(out)
		return text(strings.Join(out, "\n"))
	})
}

// topicAs are the digests of a producers topic, in which the order of records with different keys says nothing.
func (w *world) topicAs(list int32) []uint64 {
	return w.as(&w.topicsAs, list, func(by *renaming, i int) (all uint64) {
		keyed := map[string]uint64{}
		for _, rec := range w.of(list) {
			key := by.text(w.records[rec].key)
			keyed[key] = mix(keyed[key], w.recordAs(rec)[i])
		}
		for key, h := range keyed {
			all += mix(text(key), h)
		}
		return all
	})
}

// stream says whose a record is: the producer's that wrote it, or that it ends something of.
func (w *world) stream(rec int32) int8 {
	for int(rec) >= len(w.streams) {
		e := w.event(int32(len(w.streams)))
		by := cmp.Or(
			e.GetProducerClosed().GetProducerId(), e.GetCostSettled().GetOutcome().GetOpenedBy(), e.GetReservationExpired().GetOutcome().GetOpenedBy(), e.GetProducerId(),
		)
		whose := int8(everybodys)
		for p := range producers {
			if by == name(p) {
				whose = int8(p)
			}
		}
		w.streams = append(w.streams, whose)
	}
	return w.streams[rec]
}

// comes notes what a call was made of.
func (w *world) comes(call int32, of origin) {
	if was, ok := w.origins[call]; ok && was != of {
		panic(fmt.Sprintf("a call of %+v and of %+v", was, of))
	}
	w.origins[call] = of
}

// cuts are the places in the log up to which somebody has read it, as a set of bits.
func (w *world) cuts(s *state) (at uint64) {
	note := func(n int64) {
		if n > 63 {
			panic("a log that is too long for its cuts")
		}
		at |= 1 << uint64(n)
	}
	for _, on := range []server{s.primary, s.replica, s.old} {
		if p := w.place(on); p.Epoch > 0 {
			note(p.At + 1)
		}
	}
	for _, call := range []int32{s.step, s.spare, s.stale, s.k[0].install, s.k[1].install} {
		if call != 0 {
			note(int64(w.origins[call].from) + 1)
			note(int64(w.origins[call].to) + 1)
		}
	}
	for p := range s.c {
		for _, list := range s.c[p].reads[:s.c[p].n] {
			note(int64(w.size(list)))
		}
	}
	return at
}

// logAs is a digest of the log with those cuts, by one renaming.
func (w *world) logAs(log []int32, cuts uint64, i int) uint64 {
	h, part := uint64(1), [producers]uint64{}
	for n, rec := range log {
		whose, as := w.streams[rec], w.recordsAs[rec][i]
		if whose == everybodys || cuts>>n&1 == 1 {
			h, part = mix(mix(h, part[0]), part[1]), [producers]uint64{}
		}
		if whose == everybodys {
			h = mix(h, as)
			continue
		}
		to := w.renamings[i].p[whose]
		part[to] = mix(part[to], as)
	}
	return mix(mix(h, part[0]), part[1])
}

// nameless is what a state holds that no renaming changes; ofProducer is that of a producer.
type (
	nameless struct {
		replids [4]uint8
		keepers [keepers][2]uint8
		calls   [5]origin
		left    faults
	}
	ofProducer struct {
		producer
		lease
		closer
	}
)

// digest stands for all states that are like this one.
func (w *world) digest(whole *state) uint64 {
	of := *whole
	s := &of
	w.forget(s)
	// What has names is looked up once, and by each renaming then.
	log, cuts, calls := w.of(s.costs), w.cuts(s), [...]int32{s.step, s.spare, s.stale, s.k[0].install, s.k[1].install}
	for _, rec := range log {
		w.recordAs(rec)
		w.stream(rec)
	}
	all := [...][]uint64{
		w.topicAs(s.producers), w.keysAs(s.primary.keys), w.keysAs(s.replica.keys), w.keysAs(s.old.keys), w.topicAs(s.k[0].roster), w.topicAs(s.k[1].roster),
	}
	var own [producers][5][]uint64
	var plain [producers]uint64
	for p := range producers {
		of := ofProducer{s.p[p], s.l[p], s.c[p]}
		own[p] = [...][]uint64{w.listAs(of.spool), w.recordAs(of.status), w.topicAs(of.roster), w.shownAs(of.held), w.listAs(of.pending)}
		of.spool, of.status, of.roster, of.held, of.pending = 0, 0, 0, 0, 0
		for n := range of.reads[:of.n] {
			of.reads[n] = w.size(of.reads[n])
		}
		plain[p] = maphash.Comparable(seed, of)
	}
	rest := nameless{replids: [...]uint8{s.primary.replid, s.replica.replid, s.old.replid, s.replids}, left: s.left}
	for k := range s.k {
		rest.keepers[k] = [...]uint8{s.k[k].step, s.k[k].n}
	}
	var fenced [producers]uint64
	for n, call := range calls {
		if call == 0 {
			continue
		}
		rest.calls[n] = w.origins[call]
		for p := range producers {
			if rest.calls[n].fenced[p] {
				fenced[p] |= 1 << n
			}
		}
		rest.calls[n].fenced = [producers]bool{}
	}
	start, least, first := maphash.Comparable(seed, rest), ^uint64(0), ^uint64(0)
	for i := range w.renamings {
		by := &w.renamings[i]
		// Most renamings are told apart by what has no name, which costs less.
		var of [producers]uint64
		var asked [requests]uint64
		for p := range producers {
			of[by.p[p]] = plain[p]
		}
		for r := range requests {
			asked[by.r[r]] = s.r[r].packed()
		}
		h := start
		for _, o := range of {
			h = mix(h, o)
		}
		for _, r := range asked {
			h = mix(h, r)
		}
		if h > first {
			continue
		}
		if h < first {
			first, least = h, ^uint64(0)
		}
		h = mix(h, w.logAs(log, cuts, i))
		for _, as := range all {
			h = mix(h, as[i])
		}
		for p := range producers {
			o := fenced[p]
			for _, as := range own[p] {
				o = mix(o, as[i])
			}
			of[by.p[p]] = o
		}
		for _, o := range of {
			h = mix(h, o)
		}
		least = min(least, h)
	}
	return max(least, 1)
}

// packed is all of it.
func (r *request) packed() uint64 {
	v := uint64(r.at) | uint64(r.least)<<8 | uint64(r.epoch)<<16 | uint64(r.op)<<24
	for i, b := range [...]bool{r.calling, r.settling, r.over} {
		if b {
			v |= 1 << (32 + i)
		}
	}
	return v
}
