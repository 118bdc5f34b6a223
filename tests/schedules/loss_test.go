package schedules_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/rateguard/rateguard/deploy/cli"
	"github.com/rateguard/rateguard/tests/harness"
	"github.com/rateguard/rateguard/tests/harness/faults"
	"github.com/rateguard/rateguard/topics"
)

// Schedules (1) and (i), and a power cut: a proxy is killed between a grant and its opening, between an end and its settle, and with a request open. With its folder nothing is held for ever:
// what was not opened was not sent, what has ended is in the log, and what is open costs its bound. With a folder that lost what the kernel had not
// written, what Redis shows may have been sent, and costs its bound.
func TestAKilledProxyLeavesNothingHeld(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.proxy(patient())
	w.setBudget(12)
	w.serve(p.URL, 2, call)
	open := w.begin(p.URL, call.taking(time.Minute))
	granted := p.relay.Catch(faults.HoldAnswer, 2, faults.Reserves(w.tenant.ID))
	never := []*pending{w.send(p.URL, call), w.send(p.URL, call)}
	granted.Await(2)
	settle := p.relay.Catch(faults.HoldCommand, 1, faults.Settles(w.tenant.ID))
	ended := w.send(p.URL, call)
	settle.Await(1)
	p.Kill()
	granted.Release()
	for _, n := range append(never, open, ended) {
		n.wantCut()
	}
	p.Start()
	p.AwaitReady()
	w.serve(p.URL, 1, call)
	settle.Release()
	w.awaitClosed(p)

	w.awaitShipped()
	w.broker.Away()
	saved := p.SaveDisk()
	lost := w.begin(p.URL, call.taking(time.Minute))
	p.Kill()
	p.RestoreDisk(saved)
	p.Reboot()
	w.broker.Back()
	lost.wantCut()
	p.Start()
	p.AwaitReady()
	w.awaitClosed(p)
	w.fill()
	w.check(books{unknown: 2, untold: []*pending{lost}, unopened: 2, full: true})
}

// Schedule (12), and a disk that is lost together with Redis: nobody can know what the proxy had granted. Budgets stay closed until an operator says that it is lost;
// what the log shows of it costs its bound.
func TestBudgetsStayClosedUntilALostProxyIsDeclared(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, cut := w.proxy(), w.proxy()
	w.setBudget(10)
	w.serve(p.URL, 1, call)
	gone := []*pending{w.begin(p.URL, call.taking(time.Minute)), w.begin(cut.URL, call.taking(time.Minute))}
	w.awaitShipped()
	producers := slices.Concat(p.Producers(), cut.Producers())
	p.Kill()
	p.LoseDisk()
	cut.Kill()
	cut.Reboot()
	w.redis.Wipe()
	for _, g := range gone {
		g.wantCut()
	}
	cut.Start()
	cut.AwaitReady()
	w.wantClosed("two runs are missing", w.system.ProxyURL, cut.URL)
	w.declareLost(producers[0])
	w.awaitGone(producers[0])
	w.wantClosed("one run is missing", w.system.ProxyURL, cut.URL)
	w.declareLost(producers[1])
	w.serve(cut.URL, 1, call)
	p.Start()
	p.AwaitReady()
	w.fill()
	w.check(books{unknown: 2, full: true})
}

// declareLost says on the operator's command line that a run of a proxy is lost.
func (w *world) declareLost(producer string) {
	w.t.Helper()
	var out, problems bytes.Buffer
	env := cli.Env{Stdin: new(bytes.Buffer), Stdout: &out, Stderr: &problems, Getenv: func(name string) string {
		return map[string]string{"RATEGUARD_ADMIN_URL": w.system.AdminURL(), "RATEGUARD_ADMIN_TOKEN": w.system.AdminToken()}[name]
	}}
	if code := cli.Run(w.t.Context(), env, []string{"budgets", "declare-lost", producer, "--reason", "its disk is gone"}); code != 0 {
		w.t.Fatalf("declaring %s lost: exit code %d\n%s%s", producer, code, &out, &problems)
	}
}

// awaitShipped waits until the log has the opening of all that the provider has got.
func (w *world) awaitShipped() { w.t.Helper(); w.awaitOpened(len(w.system.Mock.Served())) }

// awaitOpened waits until the log has so many openings.
func (w *world) awaitOpened(n int) {
	w.t.Helper()
	harness.Eventually(w.t, 20*time.Second, func() error {
		if opened := w.system.ReadAdmissions(w.t, w.tenant.ID).Requests(); opened < n {
			return fmt.Errorf("the log has %d openings, want %d", opened, n)
		}
		return nil
	})
}

// awaitGone waits until runs of proxies are closed.
func (w *world) awaitGone(producers ...string) {
	w.t.Helper()
	harness.Eventually(w.t, 2*time.Minute, func() error {
		all, err := w.system.Admin.Producers(w.t.Context())
		for _, p := range all {
			if slices.Contains(producers, p.ID) {
				err = errors.Join(err, fmt.Errorf("%s is not closed", p.ID))
			}
		}
		return err
	})
}

// awaitClosed waits until all runs of a proxy before the one of now are closed.
func (w *world) awaitClosed(p *proxy) {
	w.t.Helper()
	harness.Eventually(w.t, time.Minute, func() error {
		if n := len(p.Producers()); n != 1 {
			return fmt.Errorf("%d runs are in the folder", n)
		}
		return nil
	})
}

// Schedules (2), (3) and (13), (h), (4), (5), (6) and (11): a proxy dies with its disk, and another one hangs. After a minute both are closed by the others. Of the dead one Redis
// remembers what it was told: costs where it was settled, bounds else, whether the log has its opening or not. The one that hangs wakes up and knows better: what it says
// corrects what was assumed, and what it asked for before it was closed it is not granted.
func TestADiskIsLostAndAZombieComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	lost, zombie := w.proxy(), w.proxy(patient())
	w.setBudget(12)
	w.serve(lost.URL, 1, chat)
	w.serve(zombie.URL, 1, chat)
	ending := w.begin(lost.URL, chat.taking(5*time.Second)) // the log has its opening, and never its end
	cut := []*pending{w.begin(lost.URL, chat.taking(time.Hour))}
	shipped := w.begin(zombie.URL, chat.taking(10*time.Second))
	w.awaitShipped()
	w.broker.Away()
	untold := w.serve(lost.URL, 2, chat) // the log never has anything of them
	cut = append(cut, w.begin(lost.URL, chat.taking(time.Hour)))
	unshipped := w.begin(zombie.URL, chat.taking(10*time.Second))
	delayed := zombie.relay.Catch(faults.HoldCommand, 1, faults.Reserves(w.tenant.ID))
	asked := w.send(zombie.URL, call)
	delayed.Await(1)
	zombie.Stop()
	ending.want(http.StatusOK)
	lost.Kill()
	gone := slices.Concat(lost.Producers(), zombie.Producers())
	lost.LoseDisk()
	w.broker.Back()
	for _, c := range cut {
		c.wantCut()
	}
	w.awaitGone(gone...)
	w.fill(w.system.ProxyURL)
	delayed.Release()
	zombie.Continue()
	asked.want(http.StatusServiceUnavailable)
	if w.reached(asked.key) {
		t.Error("a proxy that is closed was granted something")
	}
	shipped.want(http.StatusOK)
	unshipped.want(http.StatusOK)
	select {
	case <-zombie.Exited():
	case <-time.After(time.Minute):
		t.Error("a proxy that is closed goes on")
	}
	zombie.Start()
	lost.Start()
	zombie.AwaitReady()
	lost.AwaitReady()
	w.awaitClosed(zombie)
	w.fill()
	w.check(books{unknown: 2, corrected: 2, untold: append(untold, cut[1], unshipped), kept: []*pending{ending}})
}

// Schedule (4): a proxy hangs with a request open and is taken for gone. Who closes it has read the log, and before that closing is appended the proxy wakes up and ships the end. So the closing
// does not count, and is made anew: one cost, which is the provider's.
func TestAnEndComesBetweenTheReadingAndTheClosing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	zombie := w.proxy()
	w.setBudget(10)
	w.serve(zombie.URL, 1, chat)
	open := w.begin(zombie.URL, chat.taking(10*time.Second))
	w.awaitShipped()
	zombie.Stop()
	gone := zombie.Producers()
	closing := w.broker.Hold(faults.Written{Topic: topics.Costs.Name, Key: w.tenant.ID, Body: "producer_closed"})
	closing.Await()
	zombie.Continue()
	open.want(http.StatusOK)
	w.awaitEnded()
	closing.Release()
	w.awaitGone(gone...)
	w.fill(w.system.ProxyURL)
	if n := w.check(books{}).Ignored(); n != 1 {
		t.Errorf("%d closings did not count, want the one that was late", n)
	}
}

// awaitEnded waits until the log has the end of all that it shows.
func (w *world) awaitEnded() {
	w.t.Helper()
	harness.Eventually(w.t, 20*time.Second, func() error {
		if _, open := w.system.ReadAdmissions(w.t, w.tenant.ID).Posted(budget); open > 0 {
			return fmt.Errorf("%d reservations have no end", open)
		}
		return nil
	})
}

// Schedule (n), and (t): a proxy is killed, and starts on its disk as it was before: what it ships again is known, and what the log has of it beyond that is ended.
func TestADiskComesBackAsItWas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.proxy()
	w.setBudget(10)
	w.serve(p.URL, 2, call)
	open := w.begin(p.URL, call.taking(time.Minute))
	w.awaitShipped()
	saved := p.SaveDisk()
	w.serve(p.URL, 2, call)
	later := w.begin(p.URL, call.taking(time.Minute))
	w.awaitShipped()
	p.Kill()
	open.wantCut()
	later.wantCut()
	p.RestoreDisk(saved)
	p.Start()
	p.AwaitReady()
	w.awaitClosed(p)
	w.fill()
	w.check(books{unknown: 2, full: true})
}
