package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// Head is the newest generation of a target, and the epoch that fences older writers.
type Head struct {
	// Number is that of the newest committed generation; 0 while there is none.
	Number int64
	// Epoch is the oldest epoch that may still commit.
	Epoch int64
	// WrittenEpoch is the epoch under which the generation was committed, at most Epoch.
	WrittenEpoch int64
	// Manifest is the SHA-256 of the manifest object as stored.
	Manifest [sha256.Size]byte

	etag  string
	nonce [nonceSize]byte // of the seal: no two HEADs share one
}

const (
	headPlain = 8 + 8 + 8 + sha256.Size
	headSize  = envelopeExtra + headPlain
)

var headEnvelope = envelope{magic: "LBHD", purpose: "HEAD", corrupt: ErrHeadCorrupt}

// seal draws a new nonce, so that two HEADs never have the same bytes, nor the same ETag.
func (h Head) seal(keys *targetKeys) ([]byte, error) {
	plain := make([]byte, 0, headPlain)
	plain = binary.LittleEndian.AppendUint64(plain, uint64(h.Number))
	plain = binary.LittleEndian.AppendUint64(plain, uint64(h.Epoch))
	plain = binary.LittleEndian.AppendUint64(plain, uint64(h.WrittenEpoch))
	plain = append(plain, h.Manifest[:]...)
	return headEnvelope.sealWith(keys, plain)
}

func headNonce(sealed []byte) [nonceSize]byte { return [nonceSize]byte(sealed[envelopeStart:]) }

func openHead(keys *targetKeys, sealed []byte) (Head, error) {
	plain, err := headEnvelope.openWith(keys, sealed)
	if err != nil {
		return Head{}, err
	}
	if len(plain) != headPlain {
		return Head{}, fmt.Errorf("%w: %d bytes, want %d", ErrHeadCorrupt, len(plain), headPlain)
	}
	h := Head{
		Number:       int64(binary.LittleEndian.Uint64(plain)),
		Epoch:        int64(binary.LittleEndian.Uint64(plain[8:])),
		WrittenEpoch: int64(binary.LittleEndian.Uint64(plain[16:])),
		Manifest:     [sha256.Size]byte(plain[24:]),
		nonce:        headNonce(sealed),
	}
	if h.Number < 0 || h.WrittenEpoch < 0 || h.Epoch < h.WrittenEpoch {
		return Head{}, fmt.Errorf("%w: number %d, epoch %d, written under %d", ErrHeadCorrupt, h.Number, h.Epoch, h.WrittenEpoch)
	}
	return h, nil
}

// condition lets a put succeed only on this very HEAD, or on none.
func (h Head) condition() Condition {
	if h.etag == "" {
		return Condition{IfAbsent: true}
	}
	return Condition{IfMatch: h.etag}
}

// Head reads HEAD of target. ErrNotFound where nothing was ever committed or fenced.
func (s *Store) Head(ctx context.Context, target Target) (Head, error) {
	keys, err := s.keysOf(ctx, target)
	if err != nil {
		return Head{}, err
	}
	return s.headWithETag(ctx, target, keys)
}

// headWithETag reads content and ETag of the same HEAD: it reads until both Stats around the content agree.
func (s *Store) headWithETag(ctx context.Context, target Target, keys *targetKeys) (Head, error) {
	key := target.headKey()
	before, err := s.bucket.Stat(ctx, key)
	if err != nil {
		return Head{}, err
	}
	for range 10 {
		head, err := s.readHead(ctx, target, keys)
		if err != nil {
			return Head{}, err
		}
		after, err := s.bucket.Stat(ctx, key)
		if err != nil {
			return Head{}, err
		}
		if after.ETag == before.ETag {
			head.etag = after.ETag
			return head, nil
		}
		before = after
	}
	return Head{}, fmt.Errorf("read %s: it changes all the time: several writers of one target are at work", key)
}

func (s *Store) readHead(ctx context.Context, target Target, keys *targetKeys) (Head, error) {
	key := target.headKey()
	sealed, err := readObject(ctx, s.bucket, key, headSize, nil)
	if err != nil {
		if errors.Is(err, ErrCorrupt) {
			err = fmt.Errorf("%w: %w", ErrHeadCorrupt, err)
		}
		return Head{}, err
	}
	head, err := openHead(keys, sealed)
	if err != nil {
		return Head{}, fmt.Errorf("open %s: %w", key, err)
	}
	return head, nil
}

// swapHead replaces old by next, and returns next with its ETag. A put that landed although its answer was lost, or was
// ErrPrecondition, is success. ErrFenced where HEAD has become something else.
func (s *Store) swapHead(ctx context.Context, target Target, keys *targetKeys, old, next Head) (Head, error) {
	key := target.headKey()
	body, err := next.seal(keys)
	if err != nil {
		return Head{}, err
	}
	next.nonce = headNonce(body)
	var last error
	for range attempts {
		info, err := s.bucket.Put(ctx, key, body, old.condition())
		if err == nil {
			next.etag = info.ETag
			return next, nil
		}
		last = err
		now, err := s.headWithETag(ctx, target, keys)
		switch {
		case err == nil && now.follows(old, next):
			return now, nil
		case err == nil && now.etag != old.etag:
			return Head{}, fmt.Errorf("put %s: it is now at generation %d, epoch %d: %w", key, now.Number, now.Epoch, ErrFenced)
		case ctx.Err() != nil:
			return Head{}, last
		}
	}
	if errors.Is(last, ErrPrecondition) {
		return Head{}, fmt.Errorf("%w: %w", ErrFenced, last)
	}
	return Head{}, last
}

// follows says that next has landed: h is next itself, or names the generation that next brought (a Fence may have come
// after it; no other writer has that manifest).
func (h Head) follows(old, next Head) bool {
	return h.nonce == next.nonce || !next.sameGeneration(old) && h.sameGeneration(next)
}

func (h Head) parent() parent {
	return parent{number: h.Number, epoch: h.WrittenEpoch, manifest: h.Manifest}
}

func (h Head) sameGeneration(other Head) bool {
	return h.Number == other.Number && h.WrittenEpoch == other.WrittenEpoch && h.Manifest == other.Manifest
}

// Fence raises HEAD's epoch and keeps its generation, so that no writer of an older epoch can commit any more. A target
// without HEAD gets one without a generation. HEAD at this epoch already is success; at a newer one ErrFenced.
func (s *Store) Fence(ctx context.Context, target Target, epoch int64) error {
	var last error
	for range 10 {
		old, keys, _, err := s.headToWrite(ctx, target)
		if err != nil {
			return fmt.Errorf("fence at epoch %d: %w", epoch, err)
		}
		switch {
		case old.etag != "" && old.Epoch == epoch:
			return nil
		case old.Epoch > epoch:
			return fmt.Errorf("fence %s at epoch %d: HEAD is at epoch %d: %w", target.Prefix(), epoch, old.Epoch, ErrFenced)
		}
		next := old
		next.Epoch = epoch
		if _, last = s.swapHead(ctx, target, keys, old, next); last == nil {
			return nil
		}
		if !errors.Is(last, ErrFenced) {
			break
		}
	}
	return fmt.Errorf("fence at epoch %d: %w", epoch, last)
}
