package store

import (
	"context"
	"errors"
	"fmt"
)

// Remove deletes all that the store has of a target, for good: HEAD and the wrapped data key first, after which nothing
// of the rest can be read any more, then manifests, then packs. What is left after an error a second Remove deletes; a
// target that is not there is no error. It needs no master key, and leaves objects alone that are none of the store's. Old
// versions, where the bucket keeps them, are the bucket's affair.
//
// Nobody may write to the target meanwhile: a writer that has not committed yet fails, or, where it is at generation 1,
// may leave a HEAD without a key behind. Remove again is the mend for both.
func (s *Store) Remove(ctx context.Context, target Target) error {
	if err := s.remove(ctx, target); err != nil {
		return fmt.Errorf("remove %s: %w", target, err)
	}
	return nil
}

func (s *Store) remove(ctx context.Context, target Target) error {
	if err := target.Validate(); err != nil {
		return err
	}
	s.forget(target.Prefix())
	defer s.forget(target.Prefix()) // whoever asked for the keys in between
	for _, key := range []string{target.headKey(), target.keyKey()} {
		if err := s.deleteObject(ctx, key); err != nil {
			return err
		}
	}
	objects, err := s.inventory(ctx, target)
	if err != nil {
		return err
	}
	for _, kind := range []kind{kindManifest, kindPack} {
		var keys []string
		for _, obj := range objects {
			if obj.kind == kind {
				keys = append(keys, obj.Key)
			}
		}
		if err := s.deleteAll(ctx, keys, func(int) {}); err != nil {
			return err
		}
	}
	return nil
}

// deletesAtOnce is how many objects are deleted at a time.
const deletesAtOnce = 8

// deleteAll deletes objects side by side, tells done of each that is gone, and returns all errors joined.
func (s *Store) deleteAll(ctx context.Context, keys []string, done func(i int)) error {
	errs := make([]error, len(keys))
	err := inParallel(ctx, len(keys), deletesAtOnce, func(ctx context.Context, i int) error {
		errs[i] = s.deleteObject(ctx, keys[i])
		return ctx.Err()
	})
	for i := range errs {
		if errs[i] == nil && err == nil {
			done(i)
		}
	}
	if joined := errors.Join(errs...); joined != nil {
		return joined
	}
	return err
}
