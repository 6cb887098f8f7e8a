package criu

import (
	"context"

	"github.com/lifeboat-dev/lifeboat/snapshot"
)

// Engine implements snapshot.Runtime: lazy dumps where there is a sink and the host can, full ones otherwise.
type Engine struct{ *Runc }

var _ snapshot.Runtime = Engine{}

// Dump implements snapshot.Runtime.
func (e Engine) Dump(ctx context.Context, id, dir string, sink snapshot.Sink) (snapshot.Dump, error) {
	if sink == nil {
		return e.Runc.Dump(ctx, id, dir)
	}
	taken, err := e.DumpInto(ctx, id, dir, sink)
	if err != nil {
		return snapshot.Dump{}, err
	}
	dump := taken.Dump
	if dump.NotLazy == nil {
		dump.OnDisk = taken.Stored
	}
	return dump, nil
}
