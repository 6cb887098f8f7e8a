package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/lifeboat-dev/lifeboat/store"
)

func (s *session) newLs() *cobra.Command {
	return &cobra.Command{
		Use: "ls [PREFIX]", Short: "List the targets; needs no key",
		Long: "Lists the targets whose CLUSTER/NAMESPACE/NAME-UID begins with PREFIX. It needs no key.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := s.start(cmd.Context(), keyUnused); err != nil {
				return err
			}
			targets, err := s.targets(cmd.Context(), prefixOf(args))
			if err != nil {
				return err
			}
			type item struct {
				Target    string `json:"target"`
				Cluster   string `json:"cluster"`
				Namespace string `json:"namespace"`
				Name      string `json:"name"`
				UID       string `json:"uid"`
			}
			result := struct {
				Targets []item `json:"targets"`
			}{[]item{}}
			lines := &table{}
			for _, t := range targets {
				result.Targets = append(result.Targets, item{t.String(), t.Cluster, t.Namespace, t.Name, t.UID})
				lines.add(t)
			}
			return s.print(result, lines)
		},
	}
}

func prefixOf(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// generation is one in JSON.
type generation struct {
	Number            int64             `json:"number"`
	Epoch             int64             `json:"epoch"`
	Created           time.Time         `json:"created"`
	Final             bool              `json:"final"`
	PodUID            string            `json:"podUID"`
	Node              string            `json:"node"`
	Containers        []container       `json:"containers"`
	Requirements      map[string]string `json:"requirements"`
	Entries           int               `json:"entries"`
	ContentBytes      int64             `json:"contentBytes"`
	ManifestBytes     int64             `json:"manifestBytes"`
	Packs             int               `json:"packs"`
	PackBytes         int64             `json:"packBytes"`
	OwnPacks          int               `json:"ownPacks"`
	OwnPackBytes      int64             `json:"ownPackBytes"`
	Blocks            int64             `json:"blocks"`
	LiveBlocks        int64             `json:"liveBlocks"`
	LiveBytes         int64             `json:"liveBytes"`
	ReadAmplification float64           `json:"readAmplification"`
}

type container struct {
	Name        string `json:"name"`
	Image       string `json:"image"`
	ImageDigest string `json:"imageDigest"`
	RSSBytes    int64  `json:"rssBytes"`
}

func generationOf(g store.GenerationInfo) generation {
	containers := []container{}
	for _, c := range g.Meta.Containers {
		containers = append(containers, container{c.Name, c.Image, c.ImageDigest, c.RSSBytes})
	}
	return generation{
		Number: g.Number, Epoch: g.Epoch, Created: g.Meta.Created, Final: g.Meta.Final, PodUID: g.Meta.PodUID, Node: g.Meta.Node,
		Containers: containers, Requirements: g.Meta.Requirements, Entries: g.Entries, ContentBytes: g.ContentBytes,
		ManifestBytes: g.ManifestBytes, Packs: g.Packs, PackBytes: g.PackBytes, OwnPacks: g.OwnPacks, OwnPackBytes: g.OwnPackBytes,
		Blocks: g.Blocks, LiveBlocks: g.LiveBlocks, LiveBytes: g.LiveBytes, ReadAmplification: g.ReadAmplification(),
	}
}

func (s *session) newShow() *cobra.Command {
	return &cobra.Command{
		Use: "show TARGET [GENERATION]", Short: "Show a target's generations, or what is in one",
		Long: "Shows the committed generations of a target, the newest first; with GENERATION, a number, what that one holds.",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			target, fault := store.ParseTarget(args[0])
			var number int64
			var numberFault error
			if len(args) == 2 {
				if number, numberFault = strconv.ParseInt(args[1], 10, 64); numberFault != nil || number < 1 {
					numberFault = fmt.Errorf("generation %q: want a number, from 1 on", args[1])
				}
			}
			if err := s.start(cmd.Context(), keyNeeded, fault, numberFault); err != nil {
				return err
			}
			infos, err := s.store.Generations(cmd.Context(), target)
			if errors.Is(err, store.ErrNotFound) {
				return found{fmt.Sprintf("show %s: nothing is committed there (%v)", target, err)}
			}
			if len(args) == 1 {
				return errors.Join(s.showTarget(target, infos), err)
			}
			at := slices.IndexFunc(infos, func(g store.GenerationInfo) bool { return g.Number == number })
			if at >= 0 {
				return s.showGeneration(cmd, target, infos[at])
			}
			if err != nil {
				return err
			}
			return found{fmt.Sprintf("show %s: there is no generation %d, or it has been reaped", target, number)}
		},
	}
}

func (s *session) showTarget(target store.Target, infos []store.GenerationInfo) error {
	result := struct {
		Target      string       `json:"target"`
		Generations []generation `json:"generations"`
	}{target.String(), []generation{}}
	lines := &table{head: []string{
		"GENERATION", "EPOCH", "CREATED", "NODE", "FINAL", "CONTENT", "PACKS", "OWN", "LIVE", "READ", "MANIFEST",
	}}
	for _, g := range infos {
		result.Generations = append(result.Generations, generationOf(g))
		lines.add(g.Number, g.Epoch, g.Meta.Created, g.Meta.Node, g.Meta.Final, byteSize(g.ContentBytes),
			store.Count{Objects: g.Packs, Bytes: g.PackBytes}, store.Count{Objects: g.OwnPacks, Bytes: g.OwnPackBytes},
			byteSize(g.LiveBytes), times(g.ReadAmplification()), byteSize(g.ManifestBytes))
	}
	return s.print(result, lines)
}

// entry is a file of a generation in JSON.
type entry struct {
	Path       string    `json:"path"`
	Type       string    `json:"type"`
	Mode       string    `json:"mode"`
	UID        uint32    `json:"uid"`
	GID        uint32    `json:"gid"`
	Modified   time.Time `json:"modified"`
	Bytes      int64     `json:"bytes"`
	Linkname   string    `json:"linkname,omitempty"`
	HardlinkTo string    `json:"hardlinkTo,omitempty"`
	Task       string    `json:"task,omitempty"`
}

func (s *session) showGeneration(cmd *cobra.Command, target store.Target, g store.GenerationInfo) error {
	r, err := s.store.Open(cmd.Context(), target, g.Number, g.Epoch)
	if err != nil {
		return err
	}
	result := struct {
		Target     string     `json:"target"`
		Generation generation `json:"generation"`
		Entries    []entry    `json:"entries"`
	}{target.String(), generationOf(g), []entry{}}
	facts := &table{}
	facts.add("target", target)
	facts.add("generation", fmt.Sprintf("%d, written under epoch %d", g.Number, g.Epoch))
	facts.add("created", g.Meta.Created)
	facts.add("node", g.Meta.Node)
	facts.add("pod", g.Meta.PodUID)
	facts.add("final", g.Meta.Final)
	facts.add("content", byteSize(g.ContentBytes))
	facts.add("packs", store.Count{Objects: g.Packs, Bytes: g.PackBytes})
	facts.add("live", byteSize(g.LiveBytes))
	facts.add("read for each live byte", times(g.ReadAmplification()))
	for _, c := range g.Meta.Containers {
		facts.add("container "+c.Name, fmt.Sprintf("%s %s, %s resident", c.Image, c.ImageDigest, byteSize(c.RSSBytes)))
	}
	for _, name := range slices.Sorted(maps.Keys(g.Meta.Requirements)) {
		facts.add("requires "+name, g.Meta.Requirements[name])
	}
	files := &table{head: []string{"MODE", "TYPE", "UID", "GID", "SIZE", "PATH"}}
	for e := range r.Entries() {
		task, _ := r.Image(e.Path)
		mode := fmt.Sprintf("%04o", e.Mode)
		result.Entries = append(result.Entries, entry{
			e.Path, e.Type.String(), mode, e.UID, e.GID, e.ModTime, e.Size, e.Linkname, e.HardlinkTo, task,
		})
		// Quoted: a name may hold anything, control characters of the terminal too.
		files.add(mode, e.Type, e.UID, e.GID, byteSize(e.Size), strconv.Quote(e.Path))
	}
	return s.print(result, facts, files)
}
