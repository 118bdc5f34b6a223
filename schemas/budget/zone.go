package budget

import (
	"archive/zip"
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// zoneinfo is lib/time/zoneinfo.zip of Go 1.26.8: IANA's data, in the public domain. time.LoadLocation would ask the machine first, even with
// time/tzdata linked in, and two processes with data of different years would disagree about a period.
//
//go:embed zoneinfo.zip
var zoneinfo []byte

// ErrZone means that a name is none of a time zone.
var ErrZone = errors.New("is no time zone of the IANA database")

var zones = sync.OnceValues(func() (map[string]*zip.File, error) {
	r, err := zip.NewReader(bytes.NewReader(zoneinfo), int64(len(zoneinfo)))
	if err != nil {
		return nil, fmt.Errorf("reading the time zones: %w", err)
	}
	all := make(map[string]*zip.File, len(r.File))
	for _, f := range r.File {
		all[f.Name] = f
	}
	return all, nil
})

// Zone returns a time zone by its name in the IANA database, for example "Europe/Berlin" or "UTC". What it says depends on this
// release alone and not on the machine. It fails with ErrZone for a name that is none; "Local" and an empty one are none.
func Zone(name string) (*time.Location, error) {
	if name == DefaultZone {
		return time.UTC, nil
	}
	all, err := zones()
	if err != nil {
		return nil, err
	}
	f, ok := all[name]
	if !ok || f.FileInfo().IsDir() {
		return nil, fmt.Errorf("%.100q %w", name, ErrZone)
	}
	r, err := f.Open()
	if err != nil {
		return nil, fmt.Errorf("opening the time zone %s: %w", name, err)
	}
	data, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("reading the time zone %s: %w", name, err)
	}
	zone, err := time.LoadLocationFromTZData(name, data)
	if err != nil {
		return nil, fmt.Errorf("decoding the time zone %s: %w", name, err)
	}
	return zone, nil
}
