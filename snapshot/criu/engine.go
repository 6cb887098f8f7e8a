package criu

import (
	"context"
	"fmt"

	"github.com/lifeboat-dev/lifeboat/snapshot"
)

// Engine implements snapshot.Runtime: where there is a sink, dumps as was chosen, and full ones where that is not possible.
type Engine struct {
	*Runc
	// Choice is Runc.Choose's; none is Lazy.
	Choice Choice
	// Incremental has the rounds that dumps build on where Tracked was chosen.
	Incremental *Incremental
}

var _ snapshot.Runtime = Engine{}

// Dump implements snapshot.Runtime.
func (e Engine) Dump(ctx context.Context, id, dir string, sink snapshot.Sink) (snapshot.Dump, error) {
	if sink == nil {
		return e.Runc.Dump(ctx, id, dir)
	}
	var taken Taken
	var err error
	switch e.Choice.Way {
	case Full:
		taken.Dump, err = e.Runc.Dump(ctx, id, dir)
		taken.NotLazy = fmt.Errorf("%w: %s", errNotLazy, e.Choice.Reason)
	case Tracked:
		taken, err = e.Incremental.DumpInto(ctx, id, dir, sink)
	default:
		taken, err = e.DumpInto(ctx, id, dir, sink)
	}
	if err != nil {
		return snapshot.Dump{}, err
	}
	dump := taken.Dump
	if dump.NotLazy == nil {
		dump.OnDisk = taken.Stored
	}
	return dump, nil
}
