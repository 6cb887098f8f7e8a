package store

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// Key is a master key. The keys that seal objects are derived from it, one set a target.
type Key [32]byte

// String hides the key from logs.
func (Key) String() string { return "store.Key(hidden)" }

// GoString hides the key from %#v.
func (k Key) GoString() string { return k.String() }

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

const (
	checkSize = 8  // key check value
	nonceSize = 12 // AES-GCM
	tagSize   = 16 // AES-GCM
)

// targetKeys derives what seals the objects of one target.
type targetKeys struct {
	prefix string
	secret []byte
	check  [checkSize]byte
}

func deriveKeys(master Key, target Target) (*targetKeys, error) {
	prefix := target.Prefix()
	secret, err := hkdf.Key(sha256.New, master[:], nil, "lifeboat/v1/target/"+prefix, len(master))
	if err != nil {
		return nil, fmt.Errorf("derive key of %s: %w", prefix, err)
	}
	check, err := hkdf.Expand(sha256.New, secret, "lifeboat/v1/check", checkSize)
	if err != nil {
		return nil, fmt.Errorf("derive key check of %s: %w", prefix, err)
	}
	return &targetKeys{prefix: prefix, secret: secret, check: [checkSize]byte(check)}, nil
}

// aead returns AES-256-GCM under the key of one purpose.
func (k *targetKeys) aead(purpose string) (cipher.AEAD, error) {
	key, err := hkdf.Expand(sha256.New, k.secret, "lifeboat/v1/"+purpose, 32)
	if err != nil {
		return nil, fmt.Errorf("derive key for %s: %w", purpose, err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("cipher for %s: %w", purpose, err)
	}
	return cipher.NewGCM(block)
}

// envelope is how HEAD and manifests are sealed: magic, version, flags, key check, nonce, ciphertext with tag. The
// additional data is purpose, target prefix and place.
type envelope struct {
	magic   string // 4 bytes
	purpose string
	place   []int64
	corrupt error // the sentinel for what does not open
}

const (
	formatVersion  = 1
	envelopeHeader = 4 + 2 + 2 + checkSize
	envelopeExtra  = envelopeHeader + nonceSize + tagSize
)

func (e envelope) additional(prefix string) []byte {
	data := append([]byte(e.purpose), 0)
	data = binary.LittleEndian.AppendUint16(data, formatVersion)
	for _, n := range e.place {
		data = binary.LittleEndian.AppendUint64(data, uint64(n))
	}
	return append(data, prefix...)
}

func (e envelope) seal(keys *targetKeys, plain []byte) ([]byte, error) {
	aead, err := keys.aead(e.purpose)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, envelopeExtra+len(plain))
	out = append(out, e.magic...)
	out = binary.LittleEndian.AppendUint16(out, formatVersion)
	out = binary.LittleEndian.AppendUint16(out, 0)
	out = append(out, keys.check[:]...)
	nonce := make([]byte, nonceSize)
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("draw nonce: %w", err)
	}
	out = append(out, nonce...)
	return aead.Seal(out, nonce, plain, e.additional(keys.prefix)), nil
}

func (e envelope) open(keys *targetKeys, sealed []byte) ([]byte, error) {
	if len(sealed) < envelopeExtra || string(sealed[:4]) != e.magic {
		return nil, fmt.Errorf("%w: no %s", e.corrupt, e.purpose)
	}
	if version := binary.LittleEndian.Uint16(sealed[4:]); version != formatVersion {
		return nil, fmt.Errorf("%w: format version %d, this program reads %d", e.corrupt, version, formatVersion)
	}
	if flags := binary.LittleEndian.Uint16(sealed[6:]); flags != 0 {
		return nil, fmt.Errorf("%w: unknown flags %#x", e.corrupt, flags)
	}
	aead, err := keys.aead(e.purpose)
	if err != nil {
		return nil, err
	}
	nonce, body := sealed[envelopeHeader:envelopeHeader+nonceSize], sealed[envelopeHeader+nonceSize:]
	plain, err := aead.Open(nil, nonce, body, e.additional(keys.prefix))
	sameKey := bytes.Equal(sealed[8:envelopeHeader], keys.check[:])
	switch {
	case err == nil && sameKey:
		return plain, nil
	case err != nil && !sameKey:
		return nil, fmt.Errorf("%w: sealed under another key than the one given", ErrWrongKey)
	case err == nil:
		return nil, fmt.Errorf("%w: key check value damaged", e.corrupt)
	default:
		return nil, fmt.Errorf("%w: authentication failed", e.corrupt)
	}
}
