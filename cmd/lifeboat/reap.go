package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/lifeboat-dev/lifeboat/store"
)

// reaped is what a reap did to a target, in JSON.
type reaped struct {
	Target           string `json:"target"`
	Deleted          count  `json:"deleted"`
	DeletedManifests count  `json:"deletedManifests"`
	DeletedPacks     count  `json:"deletedPacks"`
	KeptManifests    count  `json:"keptManifests"`
	KeptPacks        count  `json:"keptPacks"`
	YoungManifests   count  `json:"youngManifests"`
	YoungPacks       count  `json:"youngPacks"`
	OpenManifests    count  `json:"openManifests"`
	OpenPacks        count  `json:"openPacks"`
	UnreadablePacks  count  `json:"unreadablePacks"`
	SkippedForNoHead bool   `json:"skippedForNoHead"`
}

func sum(counts ...store.Count) store.Count {
	var total store.Count
	for _, c := range counts {
		total.Objects, total.Bytes = total.Objects+c.Objects, total.Bytes+c.Bytes
	}
	return total
}

func reapedOf(target store.Target, r store.ReapReport) reaped {
	return reaped{
		Target: target.String(), Deleted: count(sum(r.Manifests, r.Packs)), DeletedManifests: count(r.Manifests),
		DeletedPacks: count(r.Packs), KeptManifests: count(r.KeptManifests), KeptPacks: count(r.KeptPacks),
		YoungManifests: count(r.YoungManifests), YoungPacks: count(r.YoungPacks), OpenManifests: count(r.OpenManifests),
		OpenPacks: count(r.OpenPacks), UnreadablePacks: count(r.UnreadablePacks),
	}
}

func (s *session) newReap() *cobra.Command {
	var sel selection
	var opts store.ReapOptions
	cmd := &cobra.Command{
		Use: "reap (TARGET… | --all) --keep N", Short: "Delete what no generation that stays needs",
		Long: `Deletes generations but the newest N, and the packs that nothing needs any more. It may run beside agents. What lies
within the grace period stays (YOUNG), so that a restore has that long to end after the next generation was committed;
so does what a writer at work may need (OPEN). Keep every generation that a Checkpoint still names in
status.generation. With --all, targets that have no HEAD are passed over.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var faults []error
			if opts.Keep < 1 {
				faults = append(faults, errors.New("--keep: say how many generations stay, at least 1"))
			}
			if opts.Grace < 0 {
				faults = append(faults, fmt.Errorf("--grace: %s is below 0", opts.Grace))
			}
			result := struct {
				DryRun  bool     `json:"dryRun"`
				Targets []reaped `json:"targets"`
			}{opts.DryRun, []reaped{}}
			gone := "DELETED"
			if opts.DryRun {
				gone = "WOULD DELETE"
			}
			lines := &table{head: []string{"TARGET", gone, "MANIFESTS", "PACKS", "KEPT", "YOUNG", "OPEN"}}
			err := s.each(cmd.Context(), sel, args, faults, func(target store.Target) error {
				r, err := s.store.Reap(cmd.Context(), target, opts)
				item := reapedOf(target, r)
				if sel.all && errors.Is(err, store.ErrNotFound) {
					s.note("%v", err)
					item.SkippedForNoHead, err = true, nil
				}
				result.Targets = append(result.Targets, item)
				lines.add(target, sum(r.Manifests, r.Packs), r.Manifests, r.Packs, sum(r.KeptManifests, r.KeptPacks),
					sum(r.YoungManifests, r.YoungPacks), sum(r.OpenManifests, r.OpenPacks))
				if n := r.UnreadablePacks.Objects; n > 0 {
					s.note("%s: %d packs do not bear the header of one and were left: see `lifeboat store verify`", target, n)
				}
				return err
			})
			if !s.started {
				return err
			}
			return errors.Join(s.printDone(result, lines), err)
		},
	}
	sel.bind(cmd)
	cmd.Flags().IntVar(&opts.Keep, "keep", 0, "how many generations stay, the newest counted")
	cmd.Flags().DurationVar(&opts.Grace, "grace", time.Hour, "how old something must be before it goes")
	cmd.Flags().BoolVar(&opts.DryRun, "dry-run", false, "delete nothing, say what would go")
	return cmd
}
