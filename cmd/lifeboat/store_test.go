package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
)

func TestUsage(t *testing.T) {
	p := newPlace(t)
	target := train.String()
	cases := []struct {
		name string
		args []string
		env  map[string]string
		want []string // in the message
	}{
		{"unknown command", []string{"sotre"}, nil, []string{`unknown command "sotre"`}},
		{"unknown command of store", []string{"store", "shwo"}, nil, []string{`unknown command "shwo"`}},
		{"unknown flag", []string{"store", "ls", "--al"}, nil, []string{"unknown flag: --al"}},
		{"too many arguments", []string{"store", "ls", "a", "b"}, nil, []string{"at most 1"}},
		{"no target", []string{"store", "verify"}, nil, []string{"name a TARGET"}},
		{"target and all", []string{"store", "verify", "--all", target}, nil, []string{"not both"}},
		{"all faults at once", []string{"store", "reap", "x", "--grace", "-1h", "-o", "yaml"}, map[string]string{"LIFEBOAT_BUCKET": ""},
			[]string{"--bucket is empty", "neither table nor json", "--keep", "--grace", "CLUSTER/NAMESPACE/NAME-UID"}},
		{"no key", []string{"store", "show", target}, map[string]string{"LIFEBOAT_KEY_FILE": ""},
			[]string{"no encryption key", "only ls and rm need none", "kubectl -n lifeboat-system get secret lifeboat-key"}},
		{"sample", []string{"store", "verify", target, "--sample", "0"}, nil, []string{"--sample: 0"}},
		{"generation", []string{"store", "show", target, "newest"}, nil, []string{`generation "newest"`}},
		{"rm without yes", []string{"store", "rm", target}, nil, []string{"say --yes"}},
		{"variable", []string{"store", "ls"}, map[string]string{"LIFEBOAT_QUIET": "perhaps"}, []string{`LIFEBOAT_QUIET="perhaps"`}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			q := &place{env: map[string]string{}}
			for name, value := range p.env {
				q.env[name] = value
			}
			for name, value := range c.env {
				q.env[name] = value
			}
			code, out, errs := q.run(t, c.args...)
			require.Equal(t, exitUsage, code, errs)
			require.Empty(t, out)
			for _, want := range c.want {
				require.Contains(t, errs, want)
			}
		})
	}
}

func TestFlagsOverEnvironment(t *testing.T) {
	p := newPlace(t)
	p.env["LIFEBOAT_OUTPUT"] = "json"
	_, out, _ := p.run(t, "store", "ls")
	require.True(t, strings.HasPrefix(out, "{"))
	code, out, _ := p.run(t, "store", "ls", "-o", "table")
	require.Equal(t, exitFine, code)
	require.Equal(t, train.String()+"\n", out)
	code, _, errs := p.run(t, "store", "ls", "--bucket", "file:///no/such/folder")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "no such file or directory")
	code, _, errs = p.run(t, "store", "du", "--key-file", "/no/key")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "read the encryption key")
	require.NoError(t, os.WriteFile(p.keyFile, []byte(keyText[:60]), 0o600))
	code, _, errs = p.run(t, "store", "du")
	require.Equal(t, exitFailed, code)
	require.NotContains(t, errs, keyText[:60])
}

func TestHelpSaysExitStatus(t *testing.T) {
	p := &place{}
	for _, name := range []string{"ls", "show", "du", "verify", "reap", "rewrite", "rebuild", "rotate-key", "rm"} {
		code, out, _ := p.run(t, "store", name, "--help")
		require.Equal(t, exitFine, code)
		require.Contains(t, out, "Exit status: 0", name)
	}
	code, out, _ := p.run(t, "store")
	require.Equal(t, exitFine, code)
	require.Contains(t, out, "Available Commands")
}

func TestLook(t *testing.T) {
	p := newPlace(t)
	target := train.String()
	result := p.json(t, exitFine, "ls", "prod/")
	require.Equal(t, target, at(t, result, "targets", 0, "target"))
	require.Equal(t, train.UID, at(t, result, "targets", 0, "uid"))
	require.Empty(t, at(t, p.json(t, exitFine, "ls", "staging/"), "targets"))

	result = p.json(t, exitFine, "show", target)
	require.Len(t, at(t, result, "generations"), 3)
	require.Equal(t, 3.0, at(t, result, "generations", 0, "number"))
	require.Equal(t, "2026-11-20T12:03:00Z", at(t, result, "generations", 0, "created"))
	require.Equal(t, 2.0, at(t, result, "generations", 0, "packs"))
	require.Greater(t, at(t, result, "generations", 0, "readAmplification"), 1.5)
	_, out, _ := p.run(t, "store", "show", target)
	require.Contains(t, out, "GENERATION  EPOCH  CREATED")
	require.Contains(t, out, "160.0 KiB")

	result = p.json(t, exitFine, "show", target, "2")
	require.Equal(t, "main-1", at(t, result, "entries", 0, "task"))
	require.Equal(t, "amd64", at(t, result, "generation", "requirements", "arch"))
	_, out, _ = p.run(t, "store", "show", target, "2")
	require.NotContains(t, out, "\x1b", "names are quoted")
	require.Contains(t, out, "container main")

	result = p.json(t, exitFine, "du")
	require.Equal(t, 3.0, at(t, result, "targets", 0, "livePacks", "objects"))
	delete(p.env, "LIFEBOAT_KEY_FILE")
	result = p.json(t, exitFine, "du")
	require.Equal(t, 6.0, at(t, result, "targets", 0, "unclassified", "objects"))
	require.Nil(t, at(t, result, "targets", 0, "readAmplification"))
}

func TestNothingSuchThere(t *testing.T) {
	p := newPlace(t)
	other := "prod/team-a/other-1"
	for _, args := range [][]string{{"show", other}, {"show", train.String(), "9"}, {"verify", other}, {"rebuild", other}, {"rewrite", other}} {
		code, out, errs := p.run(t, append([]string{"store", "--quiet"}, args...)...)
		require.Equal(t, exitFound, code, "%v: %s", args, errs)
		require.Empty(t, out)
		require.NotEmpty(t, errs)
	}
}

func TestVerify(t *testing.T) {
	p := newPlace(t)
	target := train.String()
	p.write(t, store.Target{Cluster: "prod", Namespace: "team-b", Name: "sound", UID: "1"}, 1)
	result := p.json(t, exitFine, "verify", "--all", "--all-generations")
	require.Len(t, at(t, result, "targets"), 2)
	require.Len(t, at(t, result, "targets", 0, "generations"), 3)
	require.Empty(t, at(t, result, "faults"))
	code, out, errs := p.run(t, "store", "verify", target, "--quiet")
	require.Equal(t, []any{exitFine, "", ""}, []any{code, out, errs})
	_, _, errs = p.run(t, "store", "verify", target, "--progress")
	require.Contains(t, errs, target+" (1 of 1)")

	cases := []struct {
		name, kind string
		generation float64
		damage     func(t *testing.T, p *place)
	}{
		{"pack damaged", "PackCorrupt", 3, func(t *testing.T, p *place) { p.flip(t, p.needed(t)[0]) }},
		{"pack gone", "PackMissing", 3, func(t *testing.T, p *place) { require.NoError(t, os.Remove(p.needed(t)[1])) }},
		{"manifest damaged", "ManifestCorrupt", 0, func(t *testing.T, p *place) { p.flip(t, p.files(t, "gen/3-0/manifest")[0]) }},
		{"manifest gone", "ManifestCorrupt", 0, func(t *testing.T, p *place) { require.NoError(t, os.Remove(p.files(t, "gen/3-0/manifest")[0])) }},
		{"HEAD damaged", "HeadCorrupt", 0, func(t *testing.T, p *place) { p.flip(t, p.files(t, "HEAD")[0]) }},
		{"HEAD gone", "HeadMissing", 0, func(t *testing.T, p *place) { require.NoError(t, os.Remove(p.files(t, "HEAD")[0])) }},
		{"KEY damaged", "KeyCorrupt", 0, func(t *testing.T, p *place) { p.flip(t, p.files(t, "KEY")[0]) }},
		{"KEY gone", "KeyMissing", 0, func(t *testing.T, p *place) { require.NoError(t, os.Remove(p.files(t, "KEY")[0])) }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := newPlace(t)
			c.damage(t, p)
			result := p.json(t, exitFound, "verify", "--all")
			require.Len(t, at(t, result, "faults"), 1)
			require.Equal(t, c.kind, at(t, result, "faults", 0, "kind"))
			require.Equal(t, c.generation, at(t, result, "faults", 0, "generation"))
			code, out, _ := p.run(t, "store", "verify", target, "--quiet")
			require.Equal(t, exitFound, code)
			require.Contains(t, out, c.kind, "faults are printed all the same")
		})
	}
	// Another key than the one that it was written under is no damage.
	require.NoError(t, os.WriteFile(p.keyFile, []byte(strings.Repeat("ab", 32)), 0o600))
	code, _, errs = p.run(t, "store", "verify", target)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "wrong encryption key")
}

func TestReap(t *testing.T) {
	p := newPlace(t)
	target := train.String()
	result := p.json(t, exitFine, "reap", target, "--keep", "1")
	require.Equal(t, 0.0, at(t, result, "targets", 0, "deleted", "objects"), "within the grace period")
	result = p.json(t, exitFine, "reap", "--all", "--keep", "1", "--grace", "0s", "--dry-run")
	require.Equal(t, true, at(t, result, "dryRun"))
	require.Equal(t, 3.0, at(t, result, "targets", 0, "deleted", "objects"))
	_, out, _ := p.run(t, "store", "reap", "--all", "--keep", "1", "--grace", "0s", "--dry-run")
	require.Contains(t, out, "WOULD DELETE")
	require.Len(t, p.files(t, "packs/*"), 3)
	p.json(t, exitFine, "reap", target, "--keep", "1", "--grace", "0s")
	require.Len(t, p.files(t, "packs/*"), 2)
	p.json(t, exitFine, "verify", target)

	require.NoError(t, os.Remove(p.files(t, "HEAD")[0]))
	code, _, errs := p.run(t, "store", "reap", target, "--keep", "1")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "rebuild HEAD, or remove the target")
	result = p.json(t, exitFine, "reap", "--all", "--keep", "1")
	require.Equal(t, true, at(t, result, "targets", 0, "skippedForNoHead"))
}

func TestMend(t *testing.T) {
	p := newPlace(t)
	target := train.String()
	result := p.json(t, exitFine, "rewrite", target)
	require.Equal(t, true, at(t, result, "rewritten"))
	require.Equal(t, 4.0, at(t, result, "number"))
	require.Equal(t, false, at(t, p.json(t, exitFine, "rewrite", target), "rewritten"))
	code, _, errs := p.run(t, "store", "rebuild", target)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "nothing to rebuild")
	require.NoError(t, os.Remove(p.files(t, "HEAD")[0]))
	result = p.json(t, exitFine, "rebuild", target, "--dry-run")
	require.Equal(t, 4.0, at(t, result, "head", "number"))
	require.Empty(t, p.files(t, "HEAD"))
	code, _, errs = p.run(t, "store", "rebuild", target)
	require.Equal(t, exitFine, code, errs)
	require.Contains(t, errs, "may be one that was never committed")
	p.json(t, exitFine, "verify", target, "--all-generations")

	require.NoError(t, os.WriteFile(p.keyFile, []byte(strings.Repeat("ab", 32)+"\n"+keyText), 0o600))
	require.Equal(t, true, at(t, p.json(t, exitFine, "rotate-key", "--all"), "targets", 0, "rewrapped"))
	require.Equal(t, false, at(t, p.json(t, exitFine, "rotate-key", target), "targets", 0, "rewrapped"))
	require.NoError(t, os.WriteFile(p.keyFile, []byte(strings.Repeat("ab", 32)), 0o600))
	p.json(t, exitFine, "verify", target)

	delete(p.env, "LIFEBOAT_KEY_FILE")
	require.Equal(t, target, at(t, p.json(t, exitFine, "rm", target, "--yes"), "removed"))
	require.Empty(t, at(t, p.json(t, exitFine, "ls"), "targets"))
	p.json(t, exitFine, "rm", target, "--yes")
}

func TestInterrupted(t *testing.T) {
	p := newPlace(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var errs strings.Builder
	lookup := func(name string) (string, bool) { v, ok := p.env[name]; return v, ok }
	require.Equal(t, exitFailed, run(ctx, []string{"store", "verify", "--all"}, lookup, &strings.Builder{}, &errs))
	require.Contains(t, errs.String(), "interrupted")
}

// Every command of docs/operations.md's section on upkeep runs as it stands there, in that order.
func TestDocumentedCommands(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	require.NoError(t, err)
	_, section, there := strings.Cut(string(text), "\n## Upkeep of the bucket\n")
	require.True(t, there)
	section, _, _ = strings.Cut(section, "\n## ")
	p := newPlace(t)
	seen := map[string]bool{}
	for line := range strings.Lines(section) {
		command, _, _ := strings.Cut(strings.TrimSpace(line), " #")
		args, isCommand := strings.CutPrefix(command, "lifeboat ")
		if !isCommand {
			continue
		}
		fields := strings.Fields(args)
		seen[fields[1]] = true
		switch fields[1] {
		case "rebuild":
			for _, head := range p.files(t, "HEAD") { // it is for targets without
				require.NoError(t, os.Remove(head))
			}
		case "rotate-key":
			require.NoError(t, os.WriteFile(p.keyFile, []byte(strings.Repeat("ab", 32)+"\n"+keyText), 0o600))
		}
		code, _, errs := p.run(t, fields...)
		require.Equal(t, exitFine, code, "%s: %s", command, errs)
	}
	for _, name := range []string{"ls", "show", "du", "verify", "reap", "rewrite", "rebuild", "rotate-key", "rm"} {
		require.True(t, seen[name], "%s is not documented", name)
	}
}
