package kafka

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kfake"
)

// logger passes the broker's warnings on and counts them.
type logger struct {
	log      *slog.Logger
	warnings atomic.Int64
}

var _ kfake.Logger = (*logger)(nil)

// Logf takes one line of the broker.
func (l *logger) Logf(level kfake.LogLevel, msg string, args ...any) {
	var to slog.Level
	switch level {
	case kfake.LogLevelError:
		to = slog.LevelError
	case kfake.LogLevelWarn:
		to = slog.LevelWarn
	default:
		return
	}
	l.warnings.Add(1)
	l.log.LogAttrs(context.Background(), to, "embedded broker", slog.String("line", fmt.Sprintf(msg, args...)))
}
