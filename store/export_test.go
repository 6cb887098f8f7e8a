package store

import "context"

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

// ManifestSections are the plaintext of a manifest as it lies in the bucket, and as it is encoded again.
func ManifestSections(ctx context.Context, s *Store, target Target, number, epoch int64) (stored, again [][]byte, err error) {
	keys, err := s.keysOf(ctx, target)
	if err != nil {
		return nil, nil, err
	}
	sealed, err := readObject(ctx, s.bucket, target.manifestKey(number, epoch), maxManifestSealed, nil)
	if err != nil {
		return nil, nil, err
	}
	packed, err := manifestEnvelope(number, epoch).openWith(keys, sealed)
	if err != nil {
		return nil, nil, err
	}
	if stored, err = unpackSections(packed, sectionsCount, maxManifestPlain); err != nil {
		return nil, nil, err
	}
	m, err := decodeManifest(stored)
	if err != nil {
		return nil, nil, err
	}
	return stored, m.encode(), nil
}
