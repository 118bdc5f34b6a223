package costs_test

import (
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"google.golang.org/protobuf/proto"

	"github.com/rateguard/rateguard/proxy/rebuild/costs"
	"github.com/rateguard/rateguard/schemas/fold"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// story writes a little of everything to a partition and returns the workspaces. Its sums are in wantStory.
func story(p *partition) (a, b string) {
	a, b = p.workspace(0), p.workspace(1)
	one := p.producer("one")
	one.started()
	one.open(a, "a1", 100)
	one.open(b, "b1", 50)
	one.settle(a, "a1", 100, 70)
	one.open(a, "a2", 30)
	one.settle(b, "b1", 50, 5)
	one.open(a, "a3", 20)
	return a, b
}

func wantStory(t *testing.T, v *costs.View, a, b string) {
	t.Helper()
	want(t, v, a, 70, "a2", "a3")
	want(t, v, b, 5)
	if v.Next != 7 || len(v.Workspaces()) != 2 || v.Workspace(a).Last != 6 || v.Workspace(b).Last != 5 || v.Started["one"] != 0 {
		t.Errorf("next %d, workspaces %v, last %d and %d, started %v", v.Next, v.Workspaces(), v.Workspace(a).Last, v.Workspace(b).Last, v.Started)
	}
	if r := v.Workspace(a).Open["a2"]; r.Producer != "one" || r.At != 4 || r.Opened.GetBoundNanoUsd() != 30 {
		t.Errorf("a2: %+v", r)
	}
}

// Whatever the table has folded, what it has and what is read behind it are together the log.
func TestTableMayLagByAnyNumberOfRecords(t *testing.T) {
	k := startKafka(t)
	p := k.partition(0)
	a, b := story(p)
	wantStory(t, p.read(0).toEnd(), a, b) // no row at all
	for folded := range int64(len(p.events)) {
		p.fold(folded)
		for name, from := range map[string]int64{"offset of the producer": 0, "start of the partition": -1} {
			r := p.read(from)
			wantStory(t, r.toEnd(), a, b)
			ids, first, last := r.ended(a)
			if len(ids) != 1 || ids[0] != "a1" || first != -1 || last != 6 {
				t.Errorf("%s, folded to %d: %v ended from %d to %d", name, folded, ids, first, last)
			}
			if t.Failed() {
				t.Fatalf("%s, folded to %d", name, folded)
			}
		}
	}
}

func TestStaleRowDoesNotTakeAWorkspaceBack(t *testing.T) {
	k := startKafka(t)
	p := k.partition(1)
	a, b := story(p)
	p.fold(3)
	stale := p.rows(3)
	p.fold(6)
	p.row(a, stale[a])
	p.row(b, stale[b])
	wantStory(t, p.read(0).toEnd(), a, b)
	wantStory(t, p.read(7).toEndOf(t, a), a, b)
}

// toEndOf reads on and gives a back the entries that only an earlier offset shows, so that sums alone are compared.
func (r *reading) toEndOf(t *testing.T, a string) *costs.View {
	t.Helper()
	v := r.toEnd()
	if err := v.Workspace(a).Whole(); err == nil {
		t.Errorf("%s is whole without its openings", a)
	}
	v.Workspace(a).Open["a2"] = costs.Reservation{Producer: "one", At: 4, Opened: &rateguardv1.ReservationOpened{BoundNanoUsd: proto.Int64(30), Holds: holds(30)}}
	v.Workspace(a).Open["a3"] = costs.Reservation{Opened: &rateguardv1.ReservationOpened{Holds: holds(20)}}
	v.Started["one"] = 0
	return v
}

// The topic was deleted and made again: rows of the old one say nothing, and offsets begin anew.
func TestRowsOfAnotherTopicAreIgnored(t *testing.T) {
	k := startKafka(t)
	p := k.partition(2)
	a, b := story(p)
	for key, v := range p.rows(6) {
		v.Applied[0].TopicId = make([]byte, 16)
		v.Applied[0].Offset = 1000
		p.row(key, v)
	}
	wantStory(t, p.read(7).toEnd(), a, b)
	// A row that went on with the new topic knows both.
	for key, v := range p.rows(6) {
		fold.SetApplied(v, make([]byte, 16), 1000)
		p.row(key, v)
	}
	wantStory(t, p.read(0).toEnd(), a, b)
}

func TestOnlyTheTailIsReadWhereTheTableIsAhead(t *testing.T) {
	k := startKafka(t)
	p := k.partition(0)
	a, _ := story(p)
	p.fold(6)
	p.producer("two").open(a, "t1", 9)
	r := p.read(7)
	v := r.toEnd()
	if ids, from, to := r.ended(a); from != 6 || to != 7 || len(ids) != 0 {
		t.Errorf("step of %v from %d to %d, want none from 6 to 7", ids, from, to)
	}
	if len(v.Workspace(a).Open) != 1 || v.Workspace(a).Posted()[period] != 70 || v.Workspace(a).State.GetTotal().GetOpened() != 4 {
		t.Errorf("got %v with %v", v.Workspace(a).Open, v.Workspace(a).State.GetTotal())
	}
	if err := v.Workspace(a).Whole(); err == nil || !strings.Contains(err.Error(), "59 nano-USD reserved, open reservations hold 9") {
		t.Errorf("whole: %v", err)
	}
}

func (p *partition) trim(to int64) {
	p.tb.Helper()
	offsets := kadm.Offsets{}
	offsets.Add(kadm.Offset{Topic: topics.Costs.Name, Partition: p.n, At: to})
	res, err := p.admin.DeleteRecords(p.tb.Context(), offsets)
	must(p.tb, err)
	must(p.tb, res.Error())
}

func TestRetention(t *testing.T) {
	t.Run("sums are in the table, openings are gone", func(t *testing.T) {
		p := startKafka(t).partition(0)
		a, b := story(p)
		p.fold(6)
		p.trim(5)
		v := p.read(0).toEnd()
		want(t, v, b, 5)
		if err := v.Workspace(a).Whole(); err == nil || len(v.Workspace(a).Open) != 1 || v.Workspace(a).Posted()[period] != 70 {
			t.Errorf("whole: %v, open %v, posted %v", err, v.Workspace(a).Open, v.Workspace(a).Posted())
		}
	})
	t.Run("records that no sum holds are gone", func(t *testing.T) {
		p := startKafka(t).partition(0)
		story(p)
		p.fold(3)
		p.trim(5)
		if _, err := costs.New(t.Context(), p.options(0)); err == nil || !strings.Contains(err.Error(), "in no sum") {
			t.Errorf("got %v", err)
		}
		p.fold(6)
		p.read(0).toEnd()
	})
	t.Run("the log lost what the table holds", func(t *testing.T) {
		p := startKafka(t).partition(0)
		story(p)
		rows := p.rows(6)
		for key, v := range rows {
			v.Applied[0].Offset += 10
			p.row(key, v)
		}
		if _, err := costs.New(t.Context(), p.options(0)); err == nil || !strings.Contains(err.Error(), "lost records") {
			t.Errorf("got %v", err)
		}
	})
}
