package runtime

import (
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseInvocation(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		want Invocation
	}{
		"as containerd calls it": {
			args: []string{"--root", "/r", "--log", "/b/log.json", "--log-format", "json", "create", "--bundle", "/b", "id"},
			want: Invocation{
				Globals: []string{"--root", "/r", "--log", "/b/log.json", "--log-format", "json"}, Command: "create",
				Args: []string{"--bundle", "/b", "id"}, Log: "/b/log.json", LogFormat: "json", Root: "/r",
			},
		},
		"values after an equals sign": {
			args: []string{"--log=/l", "--systemd-cgroup", "start", "id"},
			want: Invocation{Globals: []string{"--log=/l", "--systemd-cgroup"}, Command: "start", Args: []string{"id"}, Log: "/l"},
		},
		"one dash": {
			args: []string{"-log", "/l", "-debug", "kill", "id"},
			want: Invocation{Globals: []string{"-log", "/l", "-debug"}, Command: "kill", Args: []string{"id"}, Log: "/l"},
		},
		"a flag nobody knows, with a value": {
			args: []string{"--cgroup-manager", "systemd", "create", "id"},
			want: Invocation{Globals: []string{"--cgroup-manager", "systemd"}, Command: "create", Args: []string{"id"}},
		},
		"a switch nobody knows": {
			args: []string{"--new-switch", "create", "id"},
			want: Invocation{Globals: []string{"--new-switch"}, Command: "create", Args: []string{"id"}},
		},
		"a value that looks like a subcommand": {
			args: []string{"--root", "create", "start", "id"},
			want: Invocation{Globals: []string{"--root", "create"}, Command: "start", Args: []string{"id"}, Root: "create"},
		},
		"nothing but flags":  {args: []string{"--version"}, want: Invocation{Globals: []string{"--version"}}},
		"a value is missing": {args: []string{"--root"}, want: Invocation{Globals: []string{"--root"}, Root: "true"}},
		"empty":              {args: []string{}, want: Invocation{Globals: []string{}}},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, test.want, ParseInvocation(test.args)) })
	}
}

func TestParseFlags(t *testing.T) {
	for name, test := range map[string]struct {
		args       []string
		positional []string
		bundle     string
		noPivot    bool
	}{
		"flags first":         {[]string{"--bundle", "/b", "--no-pivot", "id"}, []string{"id"}, "/b", true},
		"flags last":          {[]string{"id", "-b", "/b", "--no-pivot"}, []string{"id"}, "/b", true},
		"equals signs":        {[]string{"-b=/b", "id", "--no-pivot=true"}, []string{"id"}, "/b", true},
		"a switch turned off": {[]string{"--no-pivot=false", "id"}, []string{"id"}, "", false},
		"an unknown switch":   {[]string{"--new", "id"}, []string{"id"}, "", false},
		"end of flags":        {[]string{"--", "--bundle"}, []string{"--bundle"}, "", false},
		"a value is missing":  {[]string{"id", "--bundle"}, []string{"id"}, "true", false},
		"a lone dash":         {[]string{"-"}, []string{"-"}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			flags := ParseFlags(test.args)
			require.Equal(t, test.positional, flags.Positional)
			require.Equal(t, test.bundle, flags.Value("bundle", "b"))
			require.Equal(t, test.noPivot, flags.Bool("no-pivot"))
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add("--root", "/r", "create", "--bundle=/b", "id")
	f.Add("--", "-", "", "--=", "-x")
	f.Fuzz(func(t *testing.T, a, b, c, d, e string) {
		args := []string{a, b, c, d, e}
		call := ParseInvocation(args)
		again := slices.Clone(call.Globals)
		if len(call.Globals) < len(args) {
			again = append(append(again, call.Command), call.Args...)
		}
		require.Equal(t, args, again, "nothing is lost, nothing changes its place")
		for _, positional := range ParseFlags(call.Args).Positional {
			require.Contains(t, call.Args, positional)
		}
	})
}

func TestSignalNumber(t *testing.T) {
	for text, want := range map[string]syscall.Signal{
		"TERM": syscall.SIGTERM, "SIGTERM": syscall.SIGTERM, "sigint": syscall.SIGINT, "9": syscall.SIGKILL,
		"SIGRTMIN+3": 37, "RTMAX-1": 63, "RTMIN": 34, "no such": 0, "0": 0, "-9": 0, "65": 0, "RTMAX+1": 0, "RTMINx": 0,
	} {
		t.Run(text, func(t *testing.T) {
			got, ok := signalNumber(text)
			require.Equal(t, want != 0, ok)
			if ok {
				require.Equal(t, want, got)
			}
		})
	}
}
