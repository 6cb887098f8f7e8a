package store

// PackKeys are those of the packs that the generation names.
func (r *Reader) PackKeys() []string {
	var keys []string
	for _, pack := range r.contents.packs {
		keys = append(keys, r.target.packKey(pack.id))
	}
	return keys
}

// NewBlocks is how many blocks have been stored so far.
func (w *Writer) NewBlocks() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.hashes)
}
