package mockprovider

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// Journal keeps records in a file of JSON lines, two a request: when it arrived and when it
// ended. A line is one write, so kill -9 loses none that was made; a power cut may.
type Journal struct {
	file   *os.File
	loaded []Record
}

// OpenJournal opens or makes the file and reads what is in it. A torn last line is cut off.
func OpenJournal(path string) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // the caller's path
	if err != nil {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	j := &Journal{file: f}
	if err := j.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("reading the journal %s: %w", path, err), f.Close())
	}
	return j, nil
}

func (j *Journal) load() error {
	place := map[uint64]int{}
	in := bufio.NewReader(j.file)
	var whole int64
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		var r Record
		if err := json.Unmarshal(bytes.TrimSpace(line), &r); err != nil {
			return fmt.Errorf("parsing the line at byte %d: %w", whole, err)
		}
		whole += int64(len(line))
		if i, ok := place[r.Seq]; ok {
			j.loaded[i] = r
			continue
		}
		place[r.Seq] = len(j.loaded)
		j.loaded = append(j.loaded, r)
	}
	if err := j.file.Truncate(whole); err != nil {
		return err
	}
	_, err := j.file.Seek(whole, io.SeekStart)
	return err
}

// append writes one line; the caller holds the ledger's lock, which keeps lines apart.
func (j *Journal) append(r Record) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding a record: %w", err)
	}
	if _, err := j.file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("writing a record: %w", err)
	}
	return nil
}

func (j *Journal) truncate() error {
	if err := j.file.Truncate(0); err != nil {
		return fmt.Errorf("emptying the journal: %w", err)
	}
	_, err := j.file.Seek(0, io.SeekStart)
	return err
}

// Records returns what the file held when it was opened, before it is given to a provider.
func (j *Journal) Records() []Record { return j.loaded }

// Close closes the file; the provider must not serve any more.
func (j *Journal) Close() error { return j.file.Close() }
