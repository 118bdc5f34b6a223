package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// soakSlice is how often memory is looked at.
const soakSlice = 30 * time.Second

// soak loads the proxy role with plain requests and streams at a fixed rate and prints its resident memory as it
// goes: a leak of a few bytes a request shows as a slope. It returns an error when the second half of the
// run ends more than a tenth above its beginning.
func soak(ctx context.Context, s settings) error {
	dir, err := os.MkdirTemp("", "rateguard-soak-")
	if err != nil {
		return fmt.Errorf("making a folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	st := &stage{dir: dir, bin: s.bin}
	defer st.close()
	for _, step := range []func(context.Context) error{st.startUpstream, st.startFloor, st.startProxy} {
		if err := step(ctx); err != nil {
			return errors.Join(err, logs(dir))
		}
	}
	t := st.targets[len(st.targets)-1]
	if err := serves(ctx, t.job(false)); err != nil {
		return errors.Join(err, logs(dir))
	}
	var resident []int64
	requests := 0
	for begin := time.Now(); time.Since(begin) < s.soak; {
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, stream := range []bool{false, true} {
			r, err := openLoop(t.job(stream), s.connections, s.streamRate, soakSlice/2)
			if err != nil {
				return errors.Join(err, logs(dir))
			}
			requests += r.requests
		}
		resident = append(resident, t.process.residentMemory())
		_, _ = fmt.Printf("%6s  %8d requests  resident %4d MB\n", time.Since(begin).Round(time.Second), requests, resident[len(resident)-1]>>20)
	}
	middle, end := resident[len(resident)/2], resident[len(resident)-1]
	if len(resident) > 3 && end > middle+middle/10 {
		return fmt.Errorf("memory grows: %d MB in the middle, %d MB at the end", middle>>20, end>>20)
	}
	return nil
}
