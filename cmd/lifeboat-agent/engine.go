package main

import (
	"context"
	"path/filepath"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/criu"
	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
)

// engine is how containers are dumped, and what reads them between dumps.
type engine struct {
	criu.Engine
	scanner snapshot.Scanner
}

// newEngine chooses by what the host can do and the configuration wants, and says so in the log. filters are used where the
// kernel tracks writes.
func newEngine(ctx context.Context, c *config, log zerolog.Logger, runc *criu.Runc, filters *memory.Filters) (engine, error) {
	choice, err := runc.Choose(ctx, criu.Way(c.engine))
	if err != nil {
		return engine{}, err
	}
	log.Info().Str("engine", string(choice.Way)).Str("reason", choice.Reason).Msg("engine chosen")
	meter := memory.Scanner{Proc: "/proc", HostRoot: c.hostRoot}
	if choice.Way == criu.Lazy && c.softDirty == softDirtyAuto {
		err := memory.ProbeTracking()
		if err == nil {
			filters.CheckEvery = c.softDirtyCheck
			meter.Filters, runc.Filters = filters, filters
		}
		log.Info().Bool("soft_dirty", err == nil).AnErr("reason", err).Msg("kernel tried for tracking of writes")
	}
	e := engine{Engine: criu.Engine{Runc: runc, Choice: choice}, scanner: meter}
	if choice.Way == criu.Tracked {
		e.Incremental = &criu.Incremental{Runc: runc, Dir: filepath.Join(c.stateDir, "rounds"), Meter: meter}
		e.scanner = e.Incremental
	}
	return e, e.clear()
}

// clear removes what rounds keep on the disk.
func (e engine) clear() error {
	if e.Incremental == nil {
		return nil
	}
	return e.Incremental.Clear()
}

// newPreDumpCommand is what the agent calls of itself in the host's namespaces.
func newPreDumpCommand() *cobra.Command {
	return &cobra.Command{
		Use: criu.PreDumpCommand + " ORDER", Short: "Take one round of pre-dump, as the agent orders", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return criu.PreDump(args[0]) },
	}
}
