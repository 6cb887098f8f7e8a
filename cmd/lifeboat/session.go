package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/lifeboat-dev/lifeboat/cmd/internal/environment"
	"github.com/lifeboat-dev/lifeboat/store"
)

// session is what a command works with.
type session struct {
	config   config
	stdout   io.Writer
	stderr   io.Writer
	store    *store.Store
	progress progress
	started  bool // what fails from now on is no wrong usage, unless it says so
}

func newStoreCommand(s *session, lookup func(string) (string, bool)) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "What is stored, whether it is sound, and how it is kept small",
		Long: `Looks at, checks and cleans what a bucket holds. A TARGET is CLUSTER/NAMESPACE/NAME-UID, as "ls" prints it.

` + exitHelp,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return errUsage{fmt.Errorf("unknown command %q: `lifeboat store --help` lists them", args[0])}
		}
		return cmd.Help()
	}
	flags := cmd.PersistentFlags()
	s.config.bind(flags)
	cmd.PersistentPreRunE = func(*cobra.Command, []string) error { return environment.Fill(flags, lookup) }
	cmd.AddCommand(
		s.newLs(), s.newShow(), s.newDu(), s.newVerify(), s.newReap(), s.newRewrite(), s.newRebuild(), s.newRotateKey(), s.newRm(),
	)
	for _, sub := range cmd.Commands() {
		sub.Long += "\n\n" + exitHelp
	}
	return cmd
}

// start checks the flags and opens the bucket. faults are those that the command has found itself.
func (s *session) start(ctx context.Context, need key, faults ...error) error {
	if err := errors.Join(append([]error{s.config.Validate(need)}, faults...)...); err != nil {
		return errUsage{err}
	}
	s.started = true
	s.progress.start(s.stderr, s.config)
	var err error
	s.store, err = s.config.open(ctx, need)
	return err
}

// selection is the targets that a command is for: those named, or --all.
type selection struct{ all bool }

func (sel *selection) bind(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&sel.all, "all", false, "every target of the bucket")
}

// parse returns the targets that were named.
func (sel *selection) parse(args []string) ([]store.Target, error) {
	switch {
	case sel.all && len(args) > 0:
		return nil, errors.New("give targets or --all, not both")
	case !sel.all && len(args) == 0:
		return nil, errors.New("name a TARGET (`lifeboat store ls` lists them), or give --all")
	}
	var targets []store.Target
	var faults []error
	for _, arg := range args {
		target, err := store.ParseTarget(arg)
		targets, faults = append(targets, target), append(faults, err)
	}
	return targets, errors.Join(faults...)
}

// each opens the bucket and calls fn for each chosen target, one after the other; a target's error does not keep the
// others from it.
func (s *session) each(ctx context.Context, sel selection, args []string, faults []error, fn func(store.Target) error) error {
	targets, err := sel.parse(args)
	if err := s.start(ctx, keyNeeded, append(faults, err)...); err != nil {
		return err
	}
	if sel.all {
		if targets, err = s.targets(ctx, ""); err != nil {
			return err
		}
	}
	var errs []error
	for i, target := range targets {
		s.progress.prefix = fmt.Sprintf("%s (%d of %d)", target, i+1, len(targets))
		s.progress.show("")
		if err := fn(target); err != nil {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	s.progress.clear()
	return errors.Join(errs...)
}

func (s *session) targets(ctx context.Context, prefix string) ([]store.Target, error) {
	var targets []store.Target
	for target, err := range s.store.Targets(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		targets = append(targets, target)
	}
	return targets, nil
}

// exactArgs and maxArgs are cobra's, in words that say what is wanted.
func exactArgs(n int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != n {
			return fmt.Errorf("%d arguments, want %s", len(args), what)
		}
		return nil
	}
}
