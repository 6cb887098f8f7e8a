package store

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"
)

// envelope is how KEY, HEAD and manifests are sealed: magic, version, flags, for KEY the ID of the master key, nonce,
// ciphertext with tag. The additional data is purpose, place and target prefix.
type envelope struct {
	magic   string // 4 bytes
	purpose string
	place   []int64
	corrupt error // the sentinel for what does not open
	clear   int   // bytes that stand in the clear before the nonce, authenticated too
}

const (
	formatVersion = 1
	envelopeStart = 4 + 2 + 2
	envelopeExtra = envelopeStart + nonceSize + tagSize
)

func (e envelope) additional(prefix string, clear []byte) []byte {
	data := append([]byte(e.purpose), 0)
	data = binary.LittleEndian.AppendUint16(data, formatVersion)
	for _, n := range e.place {
		data = binary.LittleEndian.AppendUint64(data, uint64(n))
	}
	data = append(data, clear...)
	return append(data, prefix...)
}

func (e envelope) seal(aead cipher.AEAD, prefix string, clear, plain []byte) ([]byte, error) {
	out := make([]byte, 0, envelopeExtra+e.clear+len(plain))
	out = append(out, e.magic...)
	out = binary.LittleEndian.AppendUint16(out, formatVersion)
	out = binary.LittleEndian.AppendUint16(out, 0)
	out = append(out, clear...)
	nonce := make([]byte, nonceSize)
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("draw nonce: %w", err)
	}
	out = append(out, nonce...)
	return aead.Seal(out, nonce, plain, e.additional(prefix, clear)), nil
}

// check looks at all that can be known without a key, and returns what stands in the clear.
func (e envelope) check(sealed []byte) ([]byte, error) {
	if len(sealed) < envelopeExtra+e.clear || string(sealed[:4]) != e.magic {
		return nil, fmt.Errorf("%w: no %s", e.corrupt, e.purpose)
	}
	if version := binary.LittleEndian.Uint16(sealed[4:]); version != formatVersion {
		return nil, fmt.Errorf("%w: format version %d, this program reads %d", e.corrupt, version, formatVersion)
	}
	if flags := binary.LittleEndian.Uint16(sealed[6:]); flags != 0 {
		return nil, fmt.Errorf("%w: unknown flags %#x", e.corrupt, flags)
	}
	return sealed[envelopeStart : envelopeStart+e.clear], nil
}

func (e envelope) open(aead cipher.AEAD, prefix string, sealed []byte) ([]byte, error) {
	clear, err := e.check(sealed)
	if err != nil {
		return nil, err
	}
	body := sealed[envelopeStart+e.clear:]
	plain, err := aead.Open(nil, body[:nonceSize], body[nonceSize:], e.additional(prefix, clear))
	if err != nil {
		return nil, fmt.Errorf("%w: authentication failed", e.corrupt)
	}
	return plain, nil
}

// sealWith and openWith take the key of the envelope's purpose.
func (e envelope) sealWith(keys *targetKeys, plain []byte) ([]byte, error) {
	aead, err := keys.aead(e.purpose)
	if err != nil {
		return nil, err
	}
	return e.seal(aead, keys.prefix, nil, plain)
}

func (e envelope) openWith(keys *targetKeys, sealed []byte) ([]byte, error) {
	aead, err := keys.aead(e.purpose)
	if err != nil {
		return nil, err
	}
	return e.open(aead, keys.prefix, sealed)
}
