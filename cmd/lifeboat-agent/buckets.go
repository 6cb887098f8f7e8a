package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/rs/zerolog"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/cache"
	"github.com/lifeboat-dev/lifeboat/store/meter"
	"github.com/lifeboat-dev/lifeboat/store/open"
	"github.com/lifeboat-dev/lifeboat/store/retry"
)

// packsAtOnce is how many packs are prefetched at a time.
const packsAtOnce = 8

// buckets are the ways to the bucket: as a rule, with more patience, and as it is for restores to read through a cache.
type buckets struct {
	keys                 store.Keyring
	plain                store.Bucket
	generations, patient *store.Store
}

func openBuckets(ctx context.Context, c *config, requests *meter.Meter) (buckets, error) {
	text, err := os.ReadFile(c.keyFile)
	if err != nil {
		return buckets{}, fmt.Errorf("read master keys: %w; mount the Secret lifeboat-key there", err)
	}
	b := buckets{}
	if b.keys, err = store.ParseKeyring(text); err != nil {
		return buckets{}, fmt.Errorf("read master keys %s: %w", c.keyFile, err)
	}
	if b.plain, err = openBucket(ctx, c, retry.Default, requests); err != nil {
		return buckets{}, err
	}
	patient, err := openBucket(ctx, c, retry.Patient, requests)
	if err != nil {
		return buckets{}, err
	}
	b.generations, b.patient = store.New(b.plain, b.keys), store.New(patient, b.keys)
	return b, nil
}

// openBucket opens the bucket with that much patience.
func openBucket(ctx context.Context, c *config, patience retry.Policy, requests *meter.Meter) (store.Bucket, error) {
	bucket, err := open.Bucket(ctx, c.bucket, open.WithRetry(patience), open.WithMeter(requests))
	if err != nil {
		return nil, fmt.Errorf("open bucket: %w", err)
	}
	if err := shared(c.bucket, "/"); err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", c.bucket, err)
	}
	return bucket, nil
}

// ahead returns the cache for what is prefetched, and the store that reads through it. A disk that cannot have one costs the
// prefetch alone; packs is nil then.
func (b buckets) ahead(c *config, log zerolog.Logger) (packs *cache.Bucket, restores *store.Store) {
	// Validate has read both.
	most, _ := byteCount(c.prefetchDisk)
	reserve, _ := byteCount(c.prefetchReserve)
	packs, err := cache.Open(b.plain, cache.Options{
		Dir: filepath.Join(c.hostRoot, c.stateDir, "prefetch"), MaxBytes: most, ReserveBytes: reserve, AtOnce: packsAtOnce,
	})
	if err != nil {
		log.Error().Err(err).Msg("nothing will be prefetched")
		return nil, b.generations
	}
	if most == 0 {
		return nil, b.generations // what an earlier life left is gone
	}
	return packs, store.New(packs, b.keys)
}
