package store

import (
	"context"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"github.com/oklog/ulid/v2"
)

// keyRoot is where all targets lie.
const keyRoot = "v1/"

// String is what ParseTarget takes: CLUSTER/NAMESPACE/NAME-UID.
func (t Target) String() string {
	return strings.TrimSuffix(strings.TrimPrefix(t.Prefix(), keyRoot), "/")
}

// ParseTarget takes CLUSTER/NAMESPACE/NAME-UID; v1/ before and a slash after it may be there too. Where the last 36
// characters are a UUID they are the UID, else what follows the last dash. ErrInvalid for anything else.
func ParseTarget(text string) (Target, error) {
	parts := strings.Split(strings.TrimSuffix(text, "/"), "/")
	if len(parts) == 4 && parts[0]+"/" == keyRoot {
		parts = parts[1:]
	}
	if len(parts) != 3 {
		return Target{}, fmt.Errorf("target %q: want CLUSTER/NAMESPACE/NAME-UID: %w", text, ErrInvalid)
	}
	t := Target{Cluster: parts[0], Namespace: parts[1]}
	t.Name, t.UID = splitNameUID(parts[2])
	return t, t.Validate()
}

const uuidLength = 36

func splitNameUID(text string) (name, uid string) {
	if at := len(text) - uuidLength; at > 0 && text[at-1] == '-' && isUUID(text[at:]) {
		return text[:at-1], text[at:]
	}
	at := strings.LastIndexByte(text, '-')
	if at < 0 {
		return text, ""
	}
	return text[:at], text[at+1:]
}

func isUUID(text string) bool {
	for i, c := range []byte(text) {
		hex := c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
		if dash := i == 8 || i == 13 || i == 18 || i == 23; dash != (c == '-') || !dash && !hex {
			return false
		}
	}
	return len(text) == uuidLength
}

// Targets yields the targets of which any object is in the bucket and whose key begins with v1/ and prefix, in the order
// of their keys. Objects that are none of the store's are passed over. It needs no master key. The first error ends it.
func (s *Store) Targets(ctx context.Context, prefix string) iter.Seq2[Target, error] {
	return func(yield func(Target, error) bool) {
		var last Target
		for info, err := range s.bucket.List(ctx, keyRoot+prefix) {
			if err != nil {
				yield(Target{}, fmt.Errorf("list targets: %w", err))
				return
			}
			t, ok := targetOf(info.Key)
			if !ok || t == last || t.object(info).kind == kindForeign {
				continue
			}
			if last = t; !yield(t, nil) {
				return
			}
		}
	}
}

// targetOf is the target that an object lies below.
func targetOf(key string) (Target, bool) {
	parts := strings.SplitN(key, "/", 5)
	if len(parts) != 5 {
		return Target{}, false
	}
	t, err := ParseTarget(strings.Join(parts[:4], "/"))
	return t, err == nil
}

// kind is what an object below a target's prefix is.
type kind uint8

const (
	kindForeign kind = iota
	kindHead
	kindKey
	kindManifest
	kindPack
)

// object is an object below a target's prefix, as far as its key tells.
type object struct {
	Info
	kind          kind
	number, epoch int64 // of a manifest
	pack          packID
}

func (t Target) object(info Info) object {
	obj := object{Info: info}
	rest := strings.TrimPrefix(info.Key, t.Prefix())
	switch {
	case info.Key == t.headKey():
		obj.kind = kindHead
	case info.Key == t.keyKey():
		obj.kind = kindKey
	case strings.HasPrefix(rest, "packs/"):
		id, err := ulid.ParseStrict(strings.TrimPrefix(rest, "packs/"))
		if err == nil && t.packKey(id) == info.Key {
			obj.kind, obj.pack = kindPack, id
		}
	case strings.HasPrefix(rest, "gen/"):
		numbers := strings.TrimSuffix(strings.TrimPrefix(rest, "gen/"), "/manifest")
		number, epoch, _ := strings.Cut(numbers, "-")
		n, numberErr := strconv.ParseInt(number, 10, 64)
		e, epochErr := strconv.ParseInt(epoch, 10, 64)
		if numberErr == nil && epochErr == nil && n >= 1 && e >= 0 && t.manifestKey(n, e) == info.Key {
			obj.kind, obj.number, obj.epoch = kindManifest, n, e
		}
	}
	return obj
}

// inventory lists all that is below the prefix of a target.
func (s *Store) inventory(ctx context.Context, target Target) ([]object, error) {
	if err := target.Validate(); err != nil {
		return nil, err
	}
	var last error
	for range attempts {
		var objects []object
		last = nil
		for info, err := range s.bucket.List(ctx, target.Prefix()) {
			if err != nil {
				last = fmt.Errorf("list %s: %w", target.Prefix(), err)
				break
			}
			objects = append(objects, target.object(info))
		}
		if last == nil {
			return objects, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, last
}

// deleteObject deletes an object, and tries again after failures in transit.
func (s *Store) deleteObject(ctx context.Context, key string) error {
	var last error
	for range attempts {
		if last = s.bucket.Delete(ctx, key); last == nil {
			return nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return fmt.Errorf("delete %s: %w", key, last)
}
