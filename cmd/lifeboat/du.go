package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/lifeboat-dev/lifeboat/store"
)

// usage is what a target takes, in JSON.
type usage struct {
	Target            string   `json:"target,omitempty"`
	Total             count    `json:"total"`
	Head              count    `json:"head"`
	Key               count    `json:"key"`
	Manifests         count    `json:"manifests"`
	Orphans           count    `json:"orphans"`
	LivePacks         count    `json:"livePacks"`
	OpenPacks         count    `json:"openPacks"`
	DeadPacks         count    `json:"deadPacks"`
	Unclassified      count    `json:"unclassified"`
	Foreign           count    `json:"foreign"`
	RestoreBytes      *int64   `json:"restoreBytes"`
	LiveBytes         *int64   `json:"liveBytes"`
	ReadAmplification *float64 `json:"readAmplification"`
}

func usageOf(target string, u store.Usage, known bool) usage {
	out := usage{
		Target: target, Total: count(u.Total()), Head: count(u.Head), Key: count(u.Key), Manifests: count(u.Manifests),
		Orphans: count(u.Orphans), LivePacks: count(u.LivePacks), OpenPacks: count(u.OpenPacks), DeadPacks: count(u.DeadPacks),
		Unclassified: count(u.Unclassified), Foreign: count(u.Foreign),
	}
	if known {
		factor := u.ReadAmplification()
		out.RestoreBytes, out.LiveBytes, out.ReadAmplification = &u.RestoreBytes, &u.LiveBytes, &factor
	}
	return out
}

func (s *session) newDu() *cobra.Command {
	return &cobra.Command{
		Use: "du [PREFIX]", Short: "Count what targets take, by kind",
		Long: `Counts objects and bytes of the targets whose CLUSTER/NAMESPACE/NAME-UID begins with PREFIX: packs that a generation
needs (LIVE), that an open writer may need (OPEN) and that nobody needs (DEAD, for reap), manifests of generations and
of writers that did not commit (ORPHANS). READ is what a restore of the newest generation reads for each byte that it
needs. Without a key, manifests and packs are UNCLASSIFIED.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := s.start(cmd.Context(), keyOptional); err != nil {
				return err
			}
			return s.du(cmd, prefixOf(args))
		},
	}
}

func (s *session) du(cmd *cobra.Command, prefix string) error {
	targets, err := s.targets(cmd.Context(), prefix)
	if err != nil {
		return err
	}
	known := s.config.keyFile != ""
	result := struct {
		Targets []usage `json:"targets"`
		Total   count   `json:"total"`
	}{Targets: []usage{}}
	lines := &table{head: []string{
		"TARGET", "TOTAL", "LIVE", "OPEN", "DEAD", "MANIFESTS", "ORPHANS", "UNCLASSIFIED", "FOREIGN", "READ",
	}}
	var total store.Count
	var errs []error
	for _, target := range targets {
		s.progress.prefix = target.String()
		s.progress.show("")
		u, err := s.store.Usage(cmd.Context(), target)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		result.Targets = append(result.Targets, usageOf(target.String(), u, known))
		sum := u.Total()
		total.Objects, total.Bytes = total.Objects+sum.Objects, total.Bytes+sum.Bytes
		var read any = ""
		if known {
			read = times(u.ReadAmplification())
		}
		lines.add(target, sum, u.LivePacks, u.OpenPacks, u.DeadPacks, u.Manifests, u.Orphans, u.Unclassified, u.Foreign, read)
	}
	result.Total = count(total)
	lines.add("total", total, "", "", "", "", "", "", "", "")
	return errors.Join(append(errs, s.print(result, lines))...)
}
