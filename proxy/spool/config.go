package spool

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/topics/broker"
)

// Sync modes: when a frame is on the disk and not only in the kernel's cache.
const (
	// SyncInterval syncs in the background each SyncEvery: kill -9 loses nothing, a power cut at most that much.
	SyncInterval = "interval"
	// SyncAlways makes every append wait for the fsync of its group.
	SyncAlways = "always"
)

// Config are the settings of a spool. Zero values mean the defaults named beside the fields.
type Config struct {
	// Dir is the folder; it belongs to one process at a time.
	Dir string
	// Kafka says where to ship to.
	Kafka broker.Config
	// Sync is SyncInterval (default) or SyncAlways; SyncEvery is the interval, 5 ms.
	Sync      string
	SyncEvery time.Duration
	// MaxBytes bounds the segments on disk plus the room of the ends, 4 GiB.
	MaxBytes int64
	// SegmentBytes is the size at which a segment is followed by the next, 64 MiB.
	SegmentBytes int64
	// MaxOpenBytes and MaxEndBytes bound the frames of AppendOpen (16 KiB) and AppendEnd (64 KiB). The
	// room kept for each open reservation is MaxEndBytes.
	MaxOpenBytes int64
	MaxEndBytes  int64
	// MaxPlainBytes bounds the frames of Append, 32 MiB: a ProducerClosed of thousands of reservations is one
	// record. Frames above largeFrame are sent alone and compressed.
	MaxPlainBytes int64
	// MemoryBytes bounds the frames that wait in memory for the shipper, 16 MiB; what is above is read back from disk.
	MemoryBytes int64
	// Linger is how long the shipper waits to fill a batch, 20 ms: each batch costs the brokers, the consumers and us far more
	// than a record does.
	Linger time.Duration
	// LowWaterEvery is how often at most the place is moved from which this producer has to be read, 30 s. LowWaterRecords is how many
	// records, of all producers, the costs and requests topics have to grow by before that is worth it, 50,000.
	LowWaterEvery   time.Duration
	LowWaterRecords int64
	// Host is written into the producer's status; empty: the host name.
	Host string
	// Log is required. Metrics may be nil.
	Log     *slog.Logger
	Metrics prometheus.Registerer
	// Disk replaces the file layer, for tests of disks that go bad; nil: the operating system's.
	Disk Disk
}

// Register adds the settings an operator may change to a flag set.
func (c *Config) Register(fs *flag.FlagSet) {
	d := c.withDefaults()
	fs.StringVar(&c.Sync, "spool-sync", d.Sync, "interval: fsync in the background each spool-sync-every; always: each append waits for it")
	fs.DurationVar(&c.SyncEvery, "spool-sync-every", d.SyncEvery, "interval of the background fsync")
	fs.Int64Var(&c.MaxBytes, "spool-max-bytes", d.MaxBytes, "bytes of disk the spool may take, the room for the ends of open requests included")
	fs.Int64Var(&c.SegmentBytes, "spool-segment-bytes", d.SegmentBytes, "size of a spool segment")
	fs.DurationVar(&c.Linger, "spool-linger", d.Linger, "time the shipper waits to fill a batch")
}

func (c Config) withDefaults() Config {
	def := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.MaxBytes, 4<<30)
	def(&c.SegmentBytes, 64<<20)
	def(&c.MaxOpenBytes, 16<<10)
	def(&c.MaxEndBytes, 64<<10)
	def(&c.MaxPlainBytes, 32<<20)
	def(&c.MemoryBytes, 16<<20)
	def(&c.LowWaterRecords, 50_000)
	if c.LowWaterEvery == 0 {
		c.LowWaterEvery = 30 * time.Second
	}
	if c.Sync == "" {
		c.Sync = SyncInterval
	}
	if c.SyncEvery == 0 {
		c.SyncEvery = 5 * time.Millisecond
	}
	if c.Linger == 0 {
		c.Linger = 20 * time.Millisecond
	}
	if c.Disk == nil {
		c.Disk = osDisk{}
	}
	return c
}

// Validate returns every problem of the settings, joined.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("data-dir: required"))
	}
	if c.Sync != SyncInterval && c.Sync != SyncAlways {
		errs = append(errs, fmt.Errorf("spool-sync: %q is neither interval nor always", c.Sync))
	}
	if c.SyncEvery < 0 {
		errs = append(errs, errors.New("spool-sync-every: negative"))
	}
	if c.SegmentBytes < 1<<10 {
		errs = append(errs, errors.New("spool-segment-bytes: less than 1 KiB"))
	}
	if c.MaxBytes < 2*c.SegmentBytes {
		errs = append(errs, errors.New("spool-max-bytes: less than two segments"))
	}
	if c.Linger < 0 {
		errs = append(errs, errors.New("spool-linger: negative"))
	}
	if c.LowWaterEvery < 0 || c.LowWaterRecords < 0 {
		errs = append(errs, errors.New("spool: negative setting of the low watermark"))
	}
	if c.Log == nil {
		errs = append(errs, errors.New("spool: no logger"))
	}
	return errors.Join(errs...)
}
