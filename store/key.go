package store

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
)

// Key is a master key: it wraps the data keys of targets, and seals nothing else.
type Key [32]byte

// String hides the key from logs.
func (Key) String() string { return "store.Key(hidden)" }

// GoString hides the key from %#v.
func (k Key) GoString() string { return k.String() }

// KeyID tells master keys apart, without saying anything of them.
type KeyID [8]byte

// String is the ID in hex.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// ID is derived from the key.
func (k Key) ID() KeyID { return KeyID(k.derive("lifeboat/v1/id")) }

// derive returns 32 bytes for one use. HKDF of 32 bytes to 32 bytes has no error to return.
func (k Key) derive(use string) []byte {
	out, err := hkdf.Key(sha256.New, k[:], nil, use, 32)
	if err != nil {
		return make([]byte, 0) // cut short, so that whoever uses it fails
	}
	return out
}

// ParseKey takes 32 raw bytes, or the same as hex or base64 text with white space around it, as a mounted Secret holds
// it. Errors never show the bytes.
func ParseKey(b []byte) (Key, error) {
	raw := b
	if len(raw) != len(Key{}) {
		raw = decodeKeyText(string(bytes.TrimSpace(b)))
	}
	if len(raw) != len(Key{}) {
		return Key{}, fmt.Errorf("encryption key of %d bytes: want 32 raw bytes, or 32 bytes as hex or base64 text "+
			"(make one with: head -c 32 /dev/urandom | base64): %w", len(b), ErrInvalid)
	}
	key := Key(raw)
	if key == (Key{}) {
		return Key{}, fmt.Errorf("encryption key is all zeros: make one with: head -c 32 /dev/urandom | base64: %w", ErrInvalid)
	}
	return key, nil
}

func decodeKeyText(text string) []byte {
	if raw, err := hex.DecodeString(text); err == nil {
		return raw
	}
	encodings := []*base64.Encoding{
		base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding,
	}
	for _, encoding := range encodings {
		if raw, err := encoding.DecodeString(text); err == nil {
			return raw
		}
	}
	return nil
}

// Keyring holds the master keys of an installation. The first wraps the data keys of new targets; the others only unwrap
// those that were wrapped before a rotation.
type Keyring []Key

// ParseKeyring takes one key as ParseKey does, or several as text, a line each; empty lines do not count. ErrInvalid for
// none, and for the same one twice.
func ParseKeyring(b []byte) (Keyring, error) {
	if len(b) == len(Key{}) { // raw bytes may hold anything, a newline too
		key, err := ParseKey(b)
		return Keyring{key}, err
	}
	var ring Keyring
	for line := range bytes.Lines(b) {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		key, err := ParseKey(line)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", len(ring)+1, err)
		}
		if slices.Contains(ring, key) {
			return nil, fmt.Errorf("key %d: it came before: %w", len(ring)+1, ErrInvalid)
		}
		ring = append(ring, key)
	}
	if len(ring) == 0 {
		_, err := ParseKey(nil)
		return nil, err
	}
	return ring, nil
}

// String hides the keys from logs.
func (r Keyring) String() string { return fmt.Sprintf("store.Keyring(%d hidden)", len(r)) }

// GoString hides the keys from %#v.
func (r Keyring) GoString() string { return r.String() }

func (r Keyring) find(id KeyID) (Key, bool) {
	for _, key := range r {
		if key.ID() == id {
			return key, true
		}
	}
	return Key{}, false
}

const (
	nonceSize = 12 // AES-GCM
	tagSize   = 16 // AES-GCM
)

// targetKeys derives what seals the objects of one target from its data key.
type targetKeys struct {
	prefix string
	data   Key
	// seed keys the hashes of blocks; zero is the hash of a block of zeros.
	seed uint64
	zero blockHash
}

func newTargetKeys(prefix string, data Key) *targetKeys {
	keys := &targetKeys{prefix: prefix, data: data}
	if seed := data.derive("lifeboat/v1/hash/" + prefix); len(seed) >= 8 {
		keys.seed = binary.LittleEndian.Uint64(seed)
	}
	keys.zero = hashBlock(zeroBlock[:], keys.seed)
	return keys
}

// aead returns AES-256-GCM under the key of one use.
func (k *targetKeys) aead(use string) (cipher.AEAD, error) {
	return newAEAD(k.data.derive("lifeboat/v1/" + use + "/" + k.prefix))
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("make cipher: %w", err)
	}
	return cipher.NewGCM(block)
}
