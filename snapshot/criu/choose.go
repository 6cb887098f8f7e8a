package criu

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Way is how memory gets from a target into the store.
type Way string

// The ways. Auto is the first of the others that the host can go, in this order.
const (
	Auto Way = "auto"
	// Lazy has CRIU leave out memory, which is read from the frozen tasks, and compared with what rounds have read.
	Lazy Way = "lazy"
	// Tracked has CRIU leave out what was not written to since a round of its own; such pages are read as with Lazy.
	Tracked Way = "criu"
	// Full has CRIU write all memory to the node's disk.
	Full Way = "full"
)

// Ways are all of them.
func Ways() []Way { return []Way{Auto, Lazy, Tracked, Full} }

// Choice is how a host dumps, and why.
type Choice struct {
	Way    Way
	Reason string
}

// Choose looks at what the host's runtime, CRIU and kernel can do, for all dumps that follow. Where they cannot go the way that
// is wanted, it is Full, and the reason says what is missing. It fails where the runtime does not answer.
func (r *Runc) Choose(ctx context.Context, wanted Way) (Choice, error) {
	if !slices.Contains(Ways(), wanted) {
		return Choice{}, fmt.Errorf("there is no engine %q, only %v", wanted, Ways())
	}
	if err := r.askFlags(ctx); err != nil {
		return Choice{}, err
	}
	lazy, tracked := r.LazyDumps(ctx), r.tracksWrites(ctx)
	switch {
	case wanted == Full:
		return Choice{Full, "it was asked for"}, nil
	case wanted != Tracked && lazy == nil:
		return Choice{Lazy, "runtime, CRIU and kernel can"}, nil
	case wanted == Lazy:
		return Choice{Full, lazy.Error()}, nil
	case tracked != nil && wanted == Tracked:
		return Choice{Full, tracked.Error()}, nil
	case tracked != nil:
		return Choice{Full, fmt.Sprintf("%v; %v", lazy, tracked)}, nil
	case wanted == Tracked:
		return Choice{Tracked, "it was asked for"}, nil
	}
	return Choice{Tracked, lazy.Error()}, nil
}

// optionalFlags are those of `checkpoint` that not every runtime has. Without one of dumpFlags its line in Config counts.
var optionalFlags = []string{"--lazy-pages", "--parent-path", "--file-locks", "--link-remap", "--tcp-skip-in-flight"}

// askFlags asks the runtime for its flags.
func (r *Runc) askFlags(ctx context.Context) error {
	help, err := r.run(ctx, "checkpoint", "--help")
	if err != nil {
		return fmt.Errorf("ask %s what it can do: %w", r.Binary, err)
	}
	r.lacks = slices.DeleteFunc(slices.Clone(optionalFlags), func(flag string) bool { return strings.Contains(string(help), flag) })
	return nil
}

// dumpFlags are those of dumpFlags that the runtime has.
func (r *Runc) dumpFlags() []string {
	return slices.DeleteFunc(slices.Clone(dumpFlags), func(flag string) bool { return slices.Contains(r.lacks, flag) })
}

// LazyDumps returns nil where the host's runtime, CRIU and kernel can dump lazily, and otherwise what is missing.
func (r *Runc) LazyDumps(ctx context.Context) error {
	if err := r.can(ctx, "--lazy-pages", "uffd-noncoop"); err != nil {
		return fmt.Errorf("%w: %w", errNotLazy, err)
	}
	return nil
}

var errNotTracked = errors.New("no dump of what was written to")

// tracksWrites returns nil where CRIU can tell the pages that were written to, and otherwise what is missing.
func (r *Runc) tracksWrites(ctx context.Context) error {
	if err := r.can(ctx, "--parent-path", "mem_dirty_track"); err != nil {
		return fmt.Errorf("%w: %w", errNotTracked, err)
	}
	return nil
}

// can returns nil where the runtime has the flag, as askFlags has found, and CRIU the feature.
func (r *Runc) can(ctx context.Context, flag, feature string) error {
	if slices.Contains(r.lacks, flag) {
		return fmt.Errorf("%s has no %s", r.Binary, flag)
	}
	if _, err := r.onHost(ctx, "env", "PATH="+r.CRIUDir+":"+hostPath, "criu", "check", "--feature", feature); err != nil {
		return fmt.Errorf("CRIU's feature %s: %w", feature, err)
	}
	return nil
}
