package policy

import "time"

// AgeSnapshot makes the snapshot at path look as if it had been saved that much earlier.
func AgeSnapshot(v *View, path string, by time.Duration) error {
	p, err := v.load(path)
	if err != nil {
		return err
	}
	p.At = p.At.Add(-by)
	return v.save(path, p)
}

// MaxSnapshotAge is the age from which a snapshot is not resumed.
const MaxSnapshotAge = maxSnapshotAge
