package spool

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// ballastEvery is how often the ballast is looked at.
const ballastEvery = time.Second

// syncer brings frames to the disk in groups: one fsync for all appends since the last one.
type syncer struct {
	s    *Spool
	kick chan struct{} // capacity 1; one pending kick is enough
	quit chan struct{}
	wg   sync.WaitGroup

	// The append lock guards these.
	dirty   bool
	group   *syncGroup
	retired []File
}

// syncGroup are the appends that wait for one fsync.
type syncGroup struct {
	done chan struct{}
	err  error // written before done is closed
}

func (g *syncGroup) wait() error {
	<-g.done
	return g.err
}

func newSyncer(s *Spool) *syncer {
	return &syncer{s: s, kick: make(chan struct{}, 1), quit: make(chan struct{})}
}

func (y *syncer) start() { y.wg.Go(y.run) }

// stop syncs what is left and returns.
func (y *syncer) stop() {
	close(y.quit)
	y.wg.Wait()
	y.pass()
}

// note marks the segment as written to; with SyncAlways it returns the group to wait for. Call with the append lock held.
func (y *syncer) note() *syncGroup {
	always := y.s.cfg.Sync == SyncAlways
	if always && y.group == nil {
		y.group = &syncGroup{done: make(chan struct{})}
	}
	if !y.dirty {
		y.dirty = true
		select {
		case y.kick <- struct{}{}:
		default: // a kick is pending already
		}
	}
	return y.group
}

// retire takes over a full segment. Call with the append lock held.
func (y *syncer) retire(f File) { y.retired = append(y.retired, f) }

func (y *syncer) run() {
	tick := time.NewTicker(ballastEvery)
	defer tick.Stop()
	for {
		select {
		case <-y.quit:
			return
		case <-tick.C:
			y.s.shrinkBallast()
			continue
		case <-y.kick:
		}
		if y.s.cfg.Sync == SyncInterval {
			select {
			case <-y.quit:
				return
			case <-time.After(y.s.cfg.SyncEvery):
			}
		}
		y.pass()
	}
}

// pass syncs everything written so far and wakes the group that waits for it.
func (y *syncer) pass() {
	y.s.mu.Lock()
	file, group, retired, dirty := y.s.w.file, y.group, y.retired, y.dirty
	y.group, y.retired, y.dirty = nil, nil, false
	y.s.mu.Unlock()
	if !dirty && len(retired) == 0 {
		return
	}
	start := time.Now()
	var err error
	for _, f := range retired {
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if len(retired) > 0 {
		err = errors.Join(err, syncDir(y.s.own.dir))
	}
	err = errors.Join(err, file.Sync())
	y.s.met.synced(time.Since(start), err)
	if err != nil {
		// The kernel may have dropped the pages: a second fsync would lie. The frames stand in the file
		// and are shipped; only their life over a power cut is unknown.
		y.s.log.Error("syncing spool", slog.Any("error", err))
		err = fmt.Errorf("%w: %w", ErrUnsynced, err)
	}
	if group != nil {
		group.err = err
		close(group.done)
	}
}
