package usage

// ReadLoosely reads a chunk of a chat with the general parser alone, to compare with.
func (m *Meter) ReadLoosely(data []byte) { m.looseChunk(data) }
