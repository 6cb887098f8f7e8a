package main

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/spf13/cobra"

	"github.com/lifeboat-dev/lifeboat/store"
)

// verified is what was seen of a generation, in JSON.
type verified struct {
	Number    int64 `json:"number"`
	Epoch     int64 `json:"epoch"`
	Packs     int   `json:"packs"`
	PacksRead int   `json:"packsRead"`
	Blocks    int64 `json:"blocks"`
	Bytes     int64 `json:"bytes"`
}

// fault is damage, in JSON. Generation is 0 for what belongs to none.
type fault struct {
	Target     string `json:"target"`
	Generation int64  `json:"generation"`
	Key        string `json:"key"`
	Kind       string `json:"kind"`
	Error      string `json:"error"`
}

type verifiedTarget struct {
	Target      string     `json:"target"`
	Generations []verified `json:"generations"`
}

// verification is a run of verify.
type verification struct {
	session        *session
	sample         float64
	allGenerations bool

	Targets []verifiedTarget `json:"targets"`
	Faults  []fault          `json:"faults"`
}

// kinds are the names that faults have in JSON.
var kinds = []struct {
	err  error
	name string
}{
	{store.ErrPackMissing, "PackMissing"}, {store.ErrPackCorrupt, "PackCorrupt"}, {store.ErrManifestCorrupt, "ManifestCorrupt"},
	{store.ErrHeadCorrupt, "HeadCorrupt"}, {store.ErrKeyCorrupt, "KeyCorrupt"}, {store.ErrKeyMissing, "KeyMissing"},
}

// kindOf names damage; empty for an error that is none.
func kindOf(err error) string {
	for _, kind := range kinds {
		if errors.Is(err, kind.err) {
			return kind.name
		}
	}
	return ""
}

func (s *session) newVerify() *cobra.Command {
	var sel selection
	v := &verification{session: s, Targets: []verifiedTarget{}, Faults: []fault{}}
	cmd := &cobra.Command{
		Use: "verify TARGET… | --all", Short: "Read everything and find damage",
		Long: `Reads the newest generation of each target, or all of them, as a restore would, and more: HEAD, manifests, and of every
pack checksum, footer, frames and the keyed hash of each block. It goes on after a fault and lists them all.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var faults []error
			if !(v.sample > 0 && v.sample <= 1) || math.IsNaN(v.sample) {
				faults = append(faults, fmt.Errorf("--sample: %v is no share above 0 and at most 1", v.sample))
			}
			err := s.each(cmd.Context(), sel, args, faults, func(target store.Target) error {
				return v.target(cmd.Context(), target, sel.all)
			})
			if !s.started {
				return err
			}
			return errors.Join(v.print(), err)
		},
	}
	sel.bind(cmd)
	cmd.Flags().Float64Var(&v.sample, "sample", 1, "share of the packs that is read whole, chosen at random; of the others the footer is")
	cmd.Flags().BoolVar(&v.allGenerations, "all-generations", false, "every generation that is still there, not only the newest")
	return cmd
}

func (v *verification) target(ctx context.Context, target store.Target, all bool) error {
	s := v.session
	prefix := s.progress.prefix
	infos, err := s.store.Generations(ctx, target)
	if errors.Is(err, store.ErrNotFound) {
		return v.withoutHead(ctx, target, all)
	}
	if kind := kindOf(err); kind != "" {
		v.Faults = append(v.Faults, fault{target.String(), 0, target.Prefix(), kind, err.Error()})
		err = nil
	}
	result := verifiedTarget{target.String(), []verified{}}
	var checked store.Checked
	for i, g := range infos {
		if i > 0 && !v.allGenerations || err != nil {
			break
		}
		s.progress.prefix = fmt.Sprintf("%s generation %d", prefix, g.Number)
		var seen verified
		seen, err = v.generation(ctx, target, g, &checked)
		result.Generations = append(result.Generations, seen)
	}
	v.Targets = append(v.Targets, result)
	return err
}

// withoutHead tells a target that was never committed from one that has lost HEAD, and from none.
func (v *verification) withoutHead(ctx context.Context, target store.Target, all bool) error {
	usage, err := v.session.store.Usage(ctx, target)
	switch {
	case err != nil:
		return err
	case usage.Total().Objects == 0 && !all:
		return found{fmt.Sprintf("verify %s: there is no such target", target)}
	case usage.Orphans.Objects > 0:
		text := fmt.Sprintf("HEAD is gone, and %d manifests are there: see `lifeboat store rebuild`", usage.Orphans.Objects)
		v.Faults = append(v.Faults, fault{target.String(), 0, target.Prefix() + "HEAD", "HeadMissing", text})
	}
	v.Targets = append(v.Targets, verifiedTarget{target.String(), []verified{}})
	return nil
}

func (v *verification) generation(ctx context.Context, target store.Target, g store.GenerationInfo,
	checked *store.Checked) (verified, error) {
	seen := verified{Number: g.Number, Epoch: g.Epoch, Packs: g.Packs}
	r, err := v.session.store.Open(ctx, target, g.Number, g.Epoch)
	if err != nil {
		return seen, err
	}
	report, err := r.Verify(ctx, store.VerifyOptions{Sample: v.sample, Progress: v.session.progress.bytes, Checked: checked})
	seen.PacksRead, seen.Blocks, seen.Bytes = report.PacksRead, report.Blocks, report.Bytes
	for _, f := range report.Faults {
		v.Faults = append(v.Faults, fault{target.String(), g.Number, f.Key, kindOf(f.Err), f.Err.Error()})
	}
	return seen, err
}

func (v *verification) print() error {
	lines := &table{head: []string{"TARGET", "GENERATION", "PACKS", "READ", "BYTES"}}
	for _, target := range v.Targets {
		for _, g := range target.Generations {
			lines.add(target.Target, g.Number, g.Packs, g.PacksRead, byteSize(g.Bytes))
		}
		if len(target.Generations) == 0 {
			lines.add(target.Target, "", 0, 0, byteSize(0))
		}
	}
	if len(v.Faults) == 0 {
		return v.session.printDone(v, lines)
	}
	faults := &table{head: []string{"FAULT", "TARGET", "GENERATION", "KEY", "CAUSE"}}
	for _, f := range v.Faults {
		var number any = ""
		if f.Generation > 0 {
			number = f.Generation
		}
		faults.add(f.Kind, f.Target, number, f.Key, f.Error)
	}
	err := found{fmt.Sprintf("damage found: %d faults, listed above", len(v.Faults))}
	return errors.Join(v.session.print(v, lines, faults), err)
}
