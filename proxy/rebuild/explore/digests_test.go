package explore_test

// digests is a set of digests other than 0. It takes 11 to 22 bytes for each: what it grows to is twice what it was.
type digests struct {
	slots []uint64
	n     int
}

// add reports whether a digest was not there.
func (d *digests) add(v uint64) bool {
	if 4*d.n >= 3*len(d.slots) {
		was := d.slots
		d.slots = make([]uint64, max(1<<10, 2*len(was)))
		for _, v := range was {
			if v != 0 {
				d.slots[d.free(v)] = v
			}
		}
	}
	at := d.free(v)
	if d.slots[at] == v {
		return false
	}
	d.slots[at] = v
	d.n++
	return true
}

// free is where a digest is, or belongs.
func (d *digests) free(v uint64) uint64 {
	mask := uint64(len(d.slots) - 1)
	at := v & mask
	for d.slots[at] != 0 && d.slots[at] != v {
		at = (at + 1) & mask
	}
	return at
}
