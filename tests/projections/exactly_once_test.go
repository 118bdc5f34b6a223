package projections_test

import (
	"testing"

	"github.com/rateguard/rateguard/projections"
	"github.com/rateguard/rateguard/projections/runner"
)

func TestEveryRequestIsInEveryStoreOnce(t *testing.T) {
	r, tr := newRig(t), newTraffic(1)
	r.start()
	r.send(tr.load(300)...)
	r.send(tr.load(300)...)
	r.caughtUp()
	r.verify(tr.want)
}

// A crash between any two steps of the protocol loses nothing and counts nothing twice.
func TestCrashAtEveryStep(t *testing.T) {
	steps := map[string][]runner.Step{
		"requests":    {runner.StepFetched, runner.StepAnnounced, runner.StepInserted, runner.StepAdvanced},
		"ledger":      {runner.StepFetched, runner.StepInserted, runner.StepAdvanced},
		"balances":    {runner.StepFetched, runner.StepInserted, runner.StepAdvanced},
		"corrections": {runner.StepFetched, runner.StepAnnounced, runner.StepInserted, runner.StepAdvanced},
	}
	for projection, list := range steps {
		for _, step := range list {
			t.Run(projection+" "+string(step), func(t *testing.T) {
				r, tr := newRig(t), newTraffic(2)
				r.send(tr.corrected(120)...)
				r.start(crash(projection, step, 2), func(c *projections.Config) { c.MaxBatch = 40 })
				r.send(tr.corrected(60)...)
				r.send(tr.load(50)...)
				r.caughtUp()
				r.verify(tr.want)
			})
		}
	}
}
