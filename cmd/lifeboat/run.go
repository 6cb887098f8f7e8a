package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// The exit statuses.
const (
	exitFine   = 0
	exitFailed = 1
	exitUsage  = 2
	exitFound  = 3
)

const exitHelp = `Exit status: 0 all is well; 1 it could not be done; 2 wrong usage; 3 damage was found, or there is no such target or
generation.`

// errFound is behind every error that ends with exitFound.
var errFound = errors.New("found")

// found is an error that says what was found, or not.
type found struct{ text string }

func (f found) Error() string { return f.text }

func (found) Is(target error) bool { return target == errFound }

// errUsage is behind every error that ends with exitUsage and that a command itself has found.
type errUsage struct{ error }

func (e errUsage) Unwrap() error { return e.error }

// run is the whole program but the process: it returns the exit status.
func run(ctx context.Context, args []string, lookup func(string) (string, bool), stdout, stderr io.Writer) int {
	s := &session{stdout: stdout, stderr: stderr}
	root := &cobra.Command{
		Use:               "lifeboat",
		Short:             "What Lifeboat keeps in its bucket, and why a pod is not protected",
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.AddCommand(newStoreCommand(s, lookup), newDoctorCommand(s))
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitFine
	}
	s.progress.clear()
	if ctx.Err() != nil {
		err = fmt.Errorf("interrupted: %w", err)
	}
	fmt.Fprintln(stderr, "lifeboat:", err)
	var usage errUsage
	switch {
	case errors.Is(err, errFound):
		return exitFound
	case errors.As(err, &usage) || !s.started:
		return exitUsage
	}
	return exitFailed
}
