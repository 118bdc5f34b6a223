package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rateguard/rateguard/deploy/standalone/fetch"
)

// A log is compacted when its compacted topics have grown by growth since the last time, and are
// at least twice as large.
const growth = 32 << 20

// compactor rewrites the compacted topics while no broker runs, on a copy of the folder:
//
//	log.new   being made; removed when a start finds it
//	log       the broker's
//	log.old   the broker's before the swap; put back when log is missing, else removed
//
// So every instant has one whole log, whatever is killed when.
type compactor struct {
	dir      string
	log      *slog.Logger
	progress fetch.Progress
}

func (c compactor) fresh() string { return c.live() + ".new" }

func (c compactor) old() string { return c.live() + ".old" }

func (c compactor) sizeFile() string { return filepath.Join(c.dir, "compacted.json") }

// recover ends what a killed start began.
func (c compactor) recover() error {
	_, liveErr := os.Stat(c.live())
	_, oldErr := os.Stat(c.old())
	if errors.Is(liveErr, fs.ErrNotExist) && oldErr == nil {
		if err := os.Rename(c.old(), c.live()); err != nil {
			return fmt.Errorf("restoring the log of an unfinished compaction: %w", err)
		}
		c.log.Warn("restored the log of an unfinished compaction")
	}
	if err := errors.Join(os.RemoveAll(c.fresh()), os.RemoveAll(c.old())); err != nil {
		return fmt.Errorf("removing the leftovers of a compaction: %w", err)
	}
	return nil
}

// run compacts when it is worth it.
func (c compactor) run(ctx context.Context) error {
	before, err := c.compactedBytes(c.live())
	if err != nil {
		return err
	}
	last := c.lastSize()
	if before < last+growth || before < 2*last {
		return nil
	}
	c.progress.Say("compacting the embedded broker's log (%d MB)", before>>20)
	begin := time.Now()
	if err := c.rewrite(ctx); err != nil {
		return errors.Join(err, os.RemoveAll(c.fresh()))
	}
	if err := c.swap(); err != nil {
		return errors.Join(err, c.recover())
	}
	after, err := c.compactedBytes(c.live())
	if err != nil {
		return err
	}
	c.log.Info("compacted the embedded broker's log", slog.Int64("bytes_before", before), slog.Int64("bytes_after", after),
		slog.Duration("took", time.Since(begin)))
	raw, err := json.Marshal(after)
	if err != nil {
		return fmt.Errorf("encoding the size of the log: %w", err)
	}
	if err := os.WriteFile(c.sizeFile(), raw, 0o600); err != nil {
		return fmt.Errorf("recording the size of the log: %w", err)
	}
	return nil
}

// rewrite lets a broker of its own compact a copy, and makes the copy durable.
func (c compactor) rewrite(ctx context.Context) error {
	if err := link(c.live(), c.fresh()); err != nil {
		return err
	}
	l := &logger{log: c.log}
	cluster, err := open(c.fresh(), l)
	if err != nil {
		return fmt.Errorf("opening the copy of the log: %w", err)
	}
	cluster.Compact()
	cluster.Close()
	// The broker only logs what it could not read or write: any complaint spoils the copy.
	if n := l.warnings.Load(); n > 0 {
		return fmt.Errorf("compacting a copy of the log: %d warnings", n)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return syncTree(c.fresh())
}

func (c compactor) swap() error {
	if err := os.Rename(c.live(), c.old()); err != nil {
		return fmt.Errorf("setting the old log aside: %w", err)
	}
	if err := os.Rename(c.fresh(), c.live()); err != nil {
		return fmt.Errorf("putting the compacted log in place: %w", err)
	}
	if err := syncPath(c.dir); err != nil {
		return err
	}
	if err := os.RemoveAll(c.old()); err != nil {
		return fmt.Errorf("removing the old log: %w", err)
	}
	return nil
}

func (c compactor) lastSize() int64 {
	raw, err := os.ReadFile(c.sizeFile())
	if err != nil {
		return 0
	}
	var n int64
	if json.Unmarshal(raw, &n) != nil {
		return 0
	}
	return n
}

// compactedBytes adds up the segments of the compacted topics.
func (c compactor) compactedBytes(dir string) (int64, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "topics.json")) //nolint:gosec // G304: a path of ours
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the list of topics: %w", err)
	}
	var table struct {
		Topics []struct {
			Name    string            `json:"name"`
			Configs map[string]string `json:"configs"`
		} `json:"topics"`
	}
	if err := json.Unmarshal(raw, &table); err != nil {
		return 0, fmt.Errorf("reading the list of topics: %w", err)
	}
	compacted := map[string]bool{}
	for _, t := range table.Topics {
		compacted[t.Name] = strings.Contains(t.Configs["cleanup.policy"], "compact")
	}
	var sum int64
	folders, err := os.ReadDir(filepath.Join(dir, "partitions"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("listing the partitions: %w", err)
	}
	for _, f := range folders {
		if !compacted[topicOf(f.Name())] {
			continue
		}
		n, err := segmentBytes(filepath.Join(dir, "partitions", f.Name()))
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// topicOf takes the partition number off a folder's name.
func topicOf(folder string) string {
	i := strings.LastIndexByte(folder, '-')
	if i < 0 {
		return folder
	}
	name, err := url.PathUnescape(folder[:i])
	if err != nil {
		return folder[:i]
	}
	return name
}

func segmentBytes(dir string) (int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("listing segments: %w", err)
	}
	var sum int64
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".dat" {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return 0, fmt.Errorf("measuring a segment: %w", err)
		}
		sum += info.Size()
	}
	return sum, nil
}

// link copies a folder: segments as hard links, since the broker replaces them whole, and the
// small files that it appends to as copies.
func link(from, to string) error {
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case d.IsDir():
			return os.MkdirAll(target, 0o700)
		case filepath.Ext(path) == ".dat":
			return os.Link(path, target) //nolint:gosec // G122: both folders are ours alone
		default:
			return duplicate(path, target)
		}
	})
	if err != nil {
		return fmt.Errorf("copying the log: %w", err)
	}
	return nil
}

func duplicate(from, to string) error {
	in, err := os.Open(from) //nolint:gosec // G304: a path of ours
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // G304: a path of ours
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// syncTree makes every file and folder durable before the swap makes them the only ones.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("walking the compacted log: %w", err)
		}
		return syncPath(path)
	})
}

func syncPath(path string) error {
	f, err := os.Open(path) //nolint:gosec // G304: a path of ours
	if err != nil {
		return fmt.Errorf("opening %s: %w", path, err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("syncing %s: %w", path, err)
	}
	return nil
}
