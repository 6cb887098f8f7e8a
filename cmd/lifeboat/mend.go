package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/lifeboat-dev/lifeboat/store"
)

func (s *session) newRewrite() *cobra.Command {
	var epoch int64
	cmd := &cobra.Command{
		Use: "rewrite TARGET", Short: "Move what is live out of packs that hold little of it",
		Long: `Commits a new generation with the content of the newest one, whose packs are at least half live and from which a restore
reads at most 1.25 bytes for each that it needs. Where that is so already nothing is done.

Only for a target that no agent writes to: an agent at work is fenced by it and loses its round. A Checkpoint that names
the generation before goes on naming it, so keep that when reaping.`,
		Args: exactArgs(1, "one TARGET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			target, fault := store.ParseTarget(args[0])
			if err := s.start(cmd.Context(), keyNeeded, fault); err != nil {
				return err
			}
			if !cmd.Flags().Changed("epoch") {
				head, err := s.store.Head(cmd.Context(), target)
				if err != nil {
					return noSuch("rewrite", target, err)
				}
				epoch = head.Epoch
			}
			s.progress.prefix = "rewrite " + target.String()
			s.progress.show("")
			gen, err := s.store.Rewrite(cmd.Context(), target, epoch)
			if err != nil {
				return noSuch("rewrite", target, err)
			}
			result := struct {
				Target      string `json:"target"`
				Rewritten   bool   `json:"rewritten"`
				Number      int64  `json:"number"`
				Epoch       int64  `json:"epoch"`
				StoredBytes int64  `json:"storedBytes"`
				NewBlocks   int64  `json:"newBlocks"`
			}{target.String(), gen.Puts > 0, gen.Number, gen.Epoch, gen.StoredBytes, gen.NewBlocks}
			lines := &table{head: []string{"TARGET", "REWRITTEN", "GENERATION", "EPOCH", "STORED"}}
			lines.add(target, result.Rewritten, gen.Number, gen.Epoch, byteSize(gen.StoredBytes))
			return s.printDone(result, lines)
		},
	}
	cmd.Flags().Int64Var(&epoch, "epoch", 0, "epoch to write under (default: HEAD's)")
	return cmd
}

// noSuch makes the absence of a target what ends with exitFound.
func noSuch(verb string, target store.Target, err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return found{fmt.Sprintf("%s %s: nothing is committed there (%v)", verb, target, err)}
	}
	return err
}

// candidate is a manifest that rebuild looked at, in JSON.
type candidate struct {
	Number  int64      `json:"number"`
	Epoch   int64      `json:"epoch"`
	Created *time.Time `json:"created"`
	Fault   string     `json:"fault"`
}

func (s *session) newRebuild() *cobra.Command {
	var opts store.RebuildOptions
	cmd := &cobra.Command{
		Use: "rebuild TARGET", Short: "Make HEAD anew where it is lost or damaged",
		Long: `Makes a HEAD that names the newest complete generation, where HEAD is lost or damaged, or where the generation that it
names is. Every writer of before is fenced: a job that runs now cannot be saved any more, so rebuild what waits to be
restored. What it chooses may be a generation that was whole but never committed: its source may have gone on after
it. No reap of the target may run meanwhile. Refused where HEAD is sound.`,
		Args: exactArgs(1, "one TARGET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			target, fault := store.ParseTarget(args[0])
			if err := s.start(cmd.Context(), keyNeeded, fault); err != nil {
				return err
			}
			s.progress.prefix = "rebuild " + target.String()
			s.progress.show("")
			report, err := s.store.Rebuild(cmd.Context(), target, opts)
			if len(report.Candidates) == 0 {
				return noSuch("rebuild", target, err)
			}
			return errors.Join(s.printRebuild(target, opts, report, err == nil), err)
		},
	}
	cmd.Flags().BoolVar(&opts.DryRun, "dry-run", false, "write nothing, say what HEAD would become")
	return cmd
}

func (s *session) printRebuild(target store.Target, opts store.RebuildOptions, report store.RebuildReport, done bool) error {
	type head struct {
		Number       int64 `json:"number"`
		Epoch        int64 `json:"epoch"`
		WrittenEpoch int64 `json:"writtenEpoch"`
	}
	result := struct {
		Target     string      `json:"target"`
		DryRun     bool        `json:"dryRun"`
		Cause      string      `json:"cause"`
		Head       *head       `json:"head"`
		Unsure     bool        `json:"unsure"`
		Candidates []candidate `json:"candidates"`
	}{Target: target.String(), DryRun: opts.DryRun, Cause: report.Cause.Error(), Unsure: report.Unsure, Candidates: []candidate{}}
	lines := &table{head: []string{"GENERATION", "EPOCH", "CREATED", "VERDICT"}}
	for _, c := range report.Candidates {
		item := candidate{Number: c.Number, Epoch: c.Epoch}
		var created any = ""
		if !c.Created.IsZero() {
			item.Created, created = &c.Created, c.Created
		}
		verdict := "chosen"
		if c.Err != nil {
			item.Fault, verdict = c.Err.Error(), c.Err.Error()
		}
		result.Candidates = append(result.Candidates, item)
		lines.add(c.Number, c.Epoch, created, verdict)
	}
	if done {
		result.Head = &head{report.Head.Number, report.Head.Epoch, report.Head.WrittenEpoch}
	}
	if err := s.printDone(result, lines); err != nil || !done {
		return err
	}
	if report.Unsure {
		s.note("generation %d is whole, but may be one that was never committed: its source may have gone on after it",
			report.Head.Number)
	}
	verb := "HEAD is now"
	if opts.DryRun {
		verb = "HEAD would be"
	}
	s.note("%s at generation %d, epoch %d", verb, report.Head.Number, report.Head.Epoch)
	return nil
}

func (s *session) newRotateKey() *cobra.Command {
	var sel selection
	cmd := &cobra.Command{
		Use: "rotate-key TARGET… | --all", Short: "Wrap the targets' data keys under the first key of the file",
		Long: `Wraps each target's data key under the first key of --key-file. The file also needs the key that it is wrapped
under now, in a later line. Nothing else is written: what is stored stays as it is. With --all, what is left of targets
whose data key is gone is passed over.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			type item struct {
				Target    string `json:"target"`
				Rewrapped bool   `json:"rewrapped"`
			}
			result := struct {
				Targets []item `json:"targets"`
			}{[]item{}}
			lines := &table{head: []string{"TARGET", "REWRAPPED"}}
			err := s.each(cmd.Context(), sel, args, nil, func(target store.Target) error {
				rotated, err := s.store.RotateKey(cmd.Context(), target)
				if sel.all && errors.Is(err, store.ErrNotFound) {
					s.note("%s has no data key, and is passed over: see `lifeboat store verify`", target)
					return nil
				}
				if err != nil {
					return fmt.Errorf("%s: %w", target, err)
				}
				result.Targets = append(result.Targets, item{target.String(), rotated})
				lines.add(target, rotated)
				return nil
			})
			if !s.started {
				return err
			}
			return errors.Join(s.printDone(result, lines), err)
		},
	}
	sel.bind(cmd)
	return cmd
}

func (s *session) newRm() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "rm TARGET --yes", Short: "Delete a target for good; needs no key",
		Long: `Deletes all generations of a target: HEAD and the data key first, after which nothing of it can be read by anybody, then
the rest. Stopped in between, run it again. No agent may write to the target meanwhile.`,
		Args: exactArgs(1, "one TARGET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			target, fault := store.ParseTarget(args[0])
			var unsure error
			if !yes {
				unsure = fmt.Errorf("this deletes all generations of %s for good: say --yes", args[0])
			}
			if err := s.start(cmd.Context(), keyUnused, fault, unsure); err != nil {
				return err
			}
			s.progress.prefix = "rm " + target.String()
			s.progress.show("")
			if err := s.store.Remove(cmd.Context(), target); err != nil {
				return err
			}
			lines := &table{}
			lines.add("removed", target)
			return s.printDone(struct {
				Removed string `json:"removed"`
			}{target.String()}, lines)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "it is meant")
	return cmd
}
