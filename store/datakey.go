package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
)

// keySize is the size of a KEY object.
const keySize = envelopeExtra + len(KeyID{}) + len(Key{})

var keyEnvelope = envelope{magic: "LBKY", purpose: "KEY", corrupt: ErrKeyCorrupt, clear: len(KeyID{})}

func (r Keyring) wrap(prefix string, data Key) ([]byte, error) {
	if len(r) == 0 {
		return nil, fmt.Errorf("wrap data key: no master key: %w", ErrInvalid)
	}
	aead, err := newAEAD(r[0].derive("lifeboat/v1/wrap"))
	if err != nil {
		return nil, err
	}
	id := r[0].ID()
	return keyEnvelope.seal(aead, prefix, id[:], data[:])
}

func (r Keyring) unwrap(prefix string, sealed []byte) (Key, KeyID, error) {
	clear, err := keyEnvelope.check(sealed)
	if err != nil {
		return Key{}, KeyID{}, err
	}
	id := KeyID(clear)
	master, ok := r.find(id)
	if !ok {
		return Key{}, id, fmt.Errorf("%w: wrapped under master key %s, and those given are %s: add that key to the Secret, "+
			"in a line after the first", ErrWrongKey, id, r.ids())
	}
	aead, err := newAEAD(master.derive("lifeboat/v1/wrap"))
	if err != nil {
		return Key{}, id, err
	}
	data, err := keyEnvelope.open(aead, prefix, sealed)
	if err == nil && len(data) != len(Key{}) {
		err = fmt.Errorf("%w: data key of %d bytes", ErrKeyCorrupt, len(data))
	}
	if err != nil {
		return Key{}, id, err
	}
	return Key(data), id, nil
}

func (r Keyring) ids() []KeyID {
	var ids []KeyID
	for _, key := range r {
		ids = append(ids, key.ID())
	}
	return ids
}

// keysOf returns the keys of a target that has KEY. ErrNotFound where nothing was ever written, ErrKeyMissing where KEY
// alone is gone.
func (s *Store) keysOf(ctx context.Context, target Target) (*targetKeys, error) {
	if err := target.Validate(); err != nil {
		return nil, err
	}
	prefix := target.Prefix()
	if keys := s.cached(prefix); keys != nil {
		return keys, nil
	}
	data, _, err := s.readKey(ctx, target)
	if errors.Is(err, ErrNotFound) {
		data, err = s.lateKey(ctx, target, err)
	}
	if err != nil {
		return nil, err
	}
	return s.keep(newTargetKeys(prefix, data)), nil
}

// lateKey tells a target of which nothing is there from one that has lost KEY, and from one that has just been made.
func (s *Store) lateKey(ctx context.Context, target Target, cause error) (Key, error) {
	_, err := s.bucket.Stat(ctx, target.headKey())
	if errors.Is(err, ErrNotFound) {
		return Key{}, cause
	}
	if err != nil {
		return Key{}, err
	}
	// Whoever made HEAD made KEY before it, so one look more tells.
	data, _, err := s.readKey(ctx, target)
	if errors.Is(err, ErrNotFound) {
		return Key{}, fmt.Errorf("%w: %s is gone, and without it nothing of the target can be read: bring it back from a "+
			"backup or an older version of the object", ErrKeyMissing, target.keyKey())
	}
	return data, err
}

func (s *Store) readKey(ctx context.Context, target Target) (Key, KeyID, error) {
	key := target.keyKey()
	sealed, err := readObject(ctx, s.bucket, key, int64(keySize), nil)
	if errors.Is(err, ErrCorrupt) {
		err = fmt.Errorf("%w: %w", ErrKeyCorrupt, err)
	}
	if err != nil {
		return Key{}, KeyID{}, err
	}
	data, id, err := s.keys.unwrap(target.Prefix(), sealed)
	if err != nil {
		return Key{}, id, fmt.Errorf("open %s: %w", key, err)
	}
	return data, id, nil
}

// makeKeys is keysOf for a writer: it makes KEY where nothing of the target is there yet, and says so. Of several that
// make it at a time one succeeds, and the others use what that one made.
func (s *Store) makeKeys(ctx context.Context, target Target) (keys *targetKeys, made bool, err error) {
	var last error
	for range attempts {
		keys, err = s.keysOf(ctx, target)
		if !errors.Is(err, ErrNotFound) {
			return keys, false, err
		}
		var data Key
		if _, err := rand.Read(data[:]); err != nil {
			return nil, false, fmt.Errorf("draw data key: %w", err)
		}
		sealed, err := s.keys.wrap(target.Prefix(), data)
		if err != nil {
			return nil, false, err
		}
		_, last = s.bucket.Put(ctx, target.keyKey(), sealed, Condition{IfAbsent: true})
		if last == nil {
			return s.keep(newTargetKeys(target.Prefix(), data)), true, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	if keys, err := s.keysOf(ctx, target); err == nil {
		return keys, false, nil
	}
	return nil, false, fmt.Errorf("make data key: %w", last)
}

// headToWrite returns HEAD, zero where there is none, and the keys of a target that is about to be written to. Without
// HEAD, keys that are merely remembered are not used: the target may have been removed since, and its KEY with it.
func (s *Store) headToWrite(ctx context.Context, target Target) (head Head, keys *targetKeys, made bool, err error) {
	if keys, made, err = s.makeKeys(ctx, target); err != nil {
		return Head{}, nil, false, err
	}
	head, err = s.headWithETag(ctx, target, keys)
	if !errors.Is(err, ErrNotFound) {
		return head, keys, made, err
	}
	if made {
		return Head{}, keys, true, nil
	}
	s.forget(target.Prefix())
	keys, made, err = s.makeKeys(ctx, target)
	return Head{}, keys, made, err
}

// RotateKey wraps the target's data key under the first key of the ring and says whether it was under another one
// before. Nothing else changes: whoever has both keys in the ring, or has read KEY already, goes on undisturbed.
// ErrWrongKey where the ring lacks the key it was wrapped under, ErrNotFound where the target has none.
func (s *Store) RotateKey(ctx context.Context, target Target) (bool, error) {
	if err := target.Validate(); err != nil {
		return false, err
	}
	if len(s.keys) == 0 {
		return false, fmt.Errorf("rotate key: no master key: %w", ErrInvalid)
	}
	var last error
	for range attempts {
		before, err := s.bucket.Stat(ctx, target.keyKey())
		if err != nil {
			return false, fmt.Errorf("rotate key: %w", err)
		}
		data, id, err := s.readKey(ctx, target)
		if err != nil {
			return false, fmt.Errorf("rotate key: %w", err)
		}
		if id == s.keys[0].ID() {
			return last != nil, nil // done, by a put of ours whose answer was lost perhaps
		}
		sealed, err := s.keys.wrap(target.Prefix(), data)
		if err != nil {
			return false, err
		}
		// KEY holds the same data key whoever wraps it, so one that came between Stat and read does no harm.
		if _, last = s.bucket.Put(ctx, target.keyKey(), sealed, Condition{IfMatch: before.ETag}); last == nil {
			return true, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return false, fmt.Errorf("rotate key: %w", last)
}
