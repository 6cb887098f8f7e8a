package store

// PackKeys are those of the packs that the generation names.
func (r *Reader) PackKeys() []string {
	var keys []string
	for _, pack := range r.contents.packs {
		keys = append(keys, r.target.packKey(pack.id))
	}
	return keys
}
